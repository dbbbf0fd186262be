/// Reads single blocks and expands them, keeping its buffers from block to block.
struct BlockLoader: ~Copyable {
    private let source: ByteSource
    private let identity: UInt64
    private var stored = ByteBuffer(capacity: 4096)
    /// The raw payload of the block loaded last.
    private(set) var payload = ByteBuffer(capacity: 4096)

    init(_ source: ByteSource, identity: UInt64) {
        self.source = source
        self.identity = identity
    }

    /// Reads and checks a header alone.
    mutating func header(at offset: UInt64) throws(TraceError) -> BlockHeader {
        try source.read(BlockHeader.bytes, at: offset, into: &stored)
        guard let header = unsafe BlockHeader(stored.bytes, identity: identity) else {
            throw source.damaged(offset, "the block header is damaged")
        }
        return header
    }

    /// Reads, checks and expands a block; `payload` holds it then.
    mutating func load(at offset: UInt64) throws(TraceError) -> BlockHeader {
        let header = try header(at: offset)
        let length = Int(header.span) - BlockHeader.bytes
        try source.read(length, at: offset + UInt64(BlockHeader.bytes), into: &stored)
        guard stored.count == length else {
            throw source.damaged(offset, "the file is cut off in the middle of a block")
        }
        let storedLength = Int(header.storedLength)
        // SAFETY: the buffer holds `length` bytes, and does not change while they are read.
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: stored.bytes[..<storedLength])
        let padding = unsafe stored.bytes[storedLength...]
        guard unsafe hash64(bytes) == header.payloadHash else {
            throw source.damaged(
                offset, "the payload of this \(header.type.name) block is damaged")
        }
        guard unsafe padding.allSatisfy({ $0 == 0 }) else {
            throw source.damaged(offset, "the padding after this block is damaged")
        }
        do throws(Malformed) {
            switch header.compression {
            case .none:
                payload.removeAll()
                unsafe payload.append(bytes)
            case .lz4:
                try unsafe LZ4.expand(
                    bytes, rawLength: Int(header.rawLength), into: &payload)
            }
        } catch { throw source.damaged(offset, error.what) }
        return header
    }
}
