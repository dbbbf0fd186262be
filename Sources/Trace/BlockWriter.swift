#if canImport(Glibc)
    private import Glibc
#endif

/// Appends blocks to the file, one after the other, and remembers where they are.
struct BlockWriter: ~Copyable {
    private let file: Descriptor
    let path: String
    private let identity: UInt64
    /// The file may not grow beyond this, in bytes: for tests of a full disk.
    private let maximumFileBytes: UInt64
    /// What the file is, for errors.
    private let kind: StaticString
    private(set) var offset: UInt64 = 0
    private(set) var sequence: UInt32 = 0
    private(set) var index: [BlockEntry] = []
    private var buffer = ByteBuffer(capacity: 512 * 1024)

    init(
        _ file: consuming Descriptor, path: String, identity: UInt64,
        maximumFileBytes: UInt64 = .max, kind: StaticString = "trace"
    ) {
        self.kind = kind
        self.file = file
        self.path = path
        self.identity = identity
        self.maximumFileBytes = maximumFileBytes
    }

    mutating func prelude(_ prelude: Prelude) throws(TraceError) {
        buffer.removeAll()
        prelude.append(to: &buffer)
        try flush()
    }

    mutating func prelude(_ prelude: KeyframePrelude) throws(TraceError) {
        buffer.removeAll()
        prelude.append(to: &buffer)
        try flush()
    }

    /// Compresses and writes one block; `header` gives what only the caller knows.
    mutating func block(
        _ template: BlockHeader, _ payload: UnsafeRawBufferPointer, compressing: Bool = true
    ) throws(TraceError) {
        guard payload.count <= Limits.payloadBytes else {
            throw TraceError(
                .tooLarge, file: path,
                "the \(template.type.name) block would take \(payload.count) bytes, and "
                    + "\(Limits.payloadBytes) is the most: leave something out")
        }
        var header = template
        header.sequence = sequence
        header.rawLength = UInt32(payload.count)
        // The header is written before the payload, but says what the payload became.
        buffer.removeAll()
        buffer.append(zeros: BlockHeader.bytes)
        if compressing, unsafe LZ4.compress(payload, into: &buffer) {
            header.compression = .lz4
        } else {
            unsafe buffer.append(payload)
        }
        let stored = buffer.count - BlockHeader.bytes
        header.storedLength = UInt32(stored)
        // SAFETY: the buffer does not change while its bytes are hashed and copied over.
        header.payloadHash = unsafe hash64(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[BlockHeader.bytes...]))
        var front = ByteBuffer(capacity: BlockHeader.bytes)
        header.append(to: &front, identity: identity)
        unsafe buffer.overwriteFront(front.bytes)
        buffer.append(zeros: Int(header.span) - buffer.count)
        let entry = BlockEntry(offset: offset, header)
        try flush()
        index.append(entry)
        sequence += 1
    }

    mutating func metadata(_ type: BlockType, _ payload: [UInt8]) throws(TraceError) {
        var buffer = ByteBuffer(capacity: payload.count)
        buffer.append(payload)
        try unsafe block(BlockHeader(type: type, sequence: 0), buffer.bytes)
    }

    /// Writes the index of all blocks so far; returns where its last block begins.
    mutating func index(_ template: BlockHeader) throws(TraceError) -> UInt64 {
        let entries = index
        var header = template
        header.type = .index
        var begin = 0
        var previous: UInt64 = 0
        repeat {
            let end = min(begin + Limits.indexEntries, entries.count)
            var payload = ByteBuffer(capacity: 16 + (end - begin) * BlockEntry.bytes)
            payload.append(previous)
            payload.append(UInt64(end - begin))
            for entry in entries[begin..<end] { entry.append(to: &payload) }
            previous = offset
            try unsafe block(header, payload.bytes)
            begin = end
        } while begin < entries.count
        return previous
    }

    private mutating func flush() throws(TraceError) {
        do throws(SystemError) {
            if offset + UInt64(buffer.count) > maximumFileBytes {
                throw SystemError(number: ENOSPC)
            }
            // SAFETY: the buffer does not change while it is written.
            try unsafe file.write(buffer.bytes, at: offset)
            offset += UInt64(buffer.count)
        } catch {
            // What is there of this block would only be reported as damage.
            try? file.truncate(to: offset)
            throw TraceError(error, file: path, "cannot write the \(kind)")
        }
    }

    func synchronise() throws(TraceError) {
        do throws(SystemError) { try file.synchronise() } catch {
            throw TraceError(error, file: path, "cannot write the \(kind) to disk")
        }
    }
}

extension ByteBuffer {
    /// Writes over the first bytes.
    mutating func overwriteFront(_ bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count <= count)
        // SAFETY: just checked.
        if let source = bytes.baseAddress {
            unsafe base.copyMemory(from: source, byteCount: bytes.count)
        }
    }
}

/// Where a block is: what the index holds of it.
struct BlockEntry: Equatable, Sendable {
    static let bytes = 24
    var offset: UInt64
    var firstExit: UInt64
    var exitCount: UInt32
    var type: BlockType

    init(offset: UInt64, _ header: BlockHeader) {
        self.offset = offset
        firstExit = header.firstExit
        exitCount = header.exitCount
        type = header.type
    }

    init(_ reader: inout ByteReader) throws(Malformed) {
        offset = try reader.integer()
        firstExit = try reader.integer()
        exitCount = try reader.integer()
        type = BlockType(rawValue: try reader.integer())
        let reserved: UInt8 = try reader.integer()
        let reserved2: UInt16 = try reader.integer()
        guard reserved == 0, reserved2 == 0 else {
            throw Malformed("an index entry sets reserved bytes")
        }
    }

    func append(to buffer: inout ByteBuffer) {
        buffer.append(offset)
        buffer.append(firstExit)
        buffer.append(exitCount)
        buffer.append(type.rawValue)
        buffer.append(UInt8(0))
        buffer.append(UInt16(0))
    }

    /// The first exit after this block; a block's header bounds the sum.
    var endExit: UInt64 { firstExit &+ UInt64(exitCount) }
}
