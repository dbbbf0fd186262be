#if canImport(Glibc)
    private import Glibc
#endif

/// Why a keyframe file is not used; the description is one line.
public struct KeyframeFileError: Error, Equatable, CustomStringConvertible {
    /// What that means for who wants to write one there.
    public enum Kind: Equatable, Sendable {
        /// There is none.
        case absent
        /// It is one, and of no use: it may be replaced.
        case unusable
        /// It is something else, or cannot be read: it is to be left alone.
        case foreign
    }

    /// What it means.
    public var kind: Kind
    /// The file.
    public var file: String
    /// What is wrong.
    public var message: String

    /// Makes an error.
    public init(kind: Kind, file: String, message: String) {
        self.kind = kind
        self.file = file
        self.message = message
    }

    /// One line: file, and what is wrong.
    public var description: String { "\(file): \(message)" }
}

/// Keyframes of one trace in a file beside it, so that a second session need not replay its way to
/// them (FORMAT.md, "Keyframe file").
///
/// Opening reads the index and the records; pages are read when they are asked for, by pread(2) and
/// not by mmap(2), so that a file which another process cuts off is an error and no SIGBUS. Everything
/// is checked before it is used. May be used from several threads.
public final class KeyframeFile: Sendable {
    /// The file.
    public let path: String
    /// What it goes with.
    public let key: KeyframeKey
    /// The keyframes, by ascending position.
    public let records: [KeyframeRecord]
    /// How many pages it has.
    public let pageCount: UInt32
    /// Length in bytes.
    public var fileBytes: UInt64 { source.size }

    private let source: ByteSource
    private let pages: PageBlocks

    /// Opens a keyframe file.
    ///
    /// - Parameter key: what it must go with.
    public convenience init(
        path: String, key: KeyframeKey
    ) throws(KeyframeFileError) {
        guard PathKind(path) != .nothing else {
            throw KeyframeFileError(kind: .absent, file: path, message: "there is no such file")
        }
        let source: ByteSource
        do throws(TraceError) { source = try ByteSource(path: path) } catch {
            throw KeyframeFileError(
                kind: .foreign, file: path, message: "cannot be read as a keyframe file")
        }
        try self.init(source, key: key)
    }

    /// Opens one that lies in memory.
    public convenience init(
        bytes: [UInt8], name: String = "bytes", key: KeyframeKey
    ) throws(KeyframeFileError) {
        try self.init(ByteSource(bytes: bytes, name: name), key: key)
    }

    private init(_ source: ByteSource, key: KeyframeKey) throws(KeyframeFileError) {
        let identity = try Self.identity(source)
        guard let map = FileMap.fromIndex(source, identity: identity),
            let head = map.entries.first, head.type == .keyframeHead
        else { throw Self.unusable(source, "damaged, or was not written to its end") }
        var loader = BlockLoader(source, identity: identity)
        let (fileKey, contents) = try Self.sound(source) { () throws(TraceError) in
            let key = try Self.key(at: head.offset, &loader, source)
            return (key, try Self.contents(map.entries, &loader, source))
        }
        if let difference = key.difference(fileKey) {
            throw Self.unusable(source, difference)
        }
        self.key = fileKey
        records = contents.records
        pageCount = contents.pageCount
        pages = PageBlocks(source, loader, contents.pageBlocks)
        path = source.name
        self.source = source
    }

    private static func unusable(_ source: ByteSource, _ what: String) -> KeyframeFileError {
        KeyframeFileError(
            kind: .unusable, file: source.name, message: "the keyframe file is \(what)")
    }

    private static func sound<Result>(
        _ source: ByteSource, _ body: () throws(TraceError) -> Result
    ) throws(KeyframeFileError) -> Result {
        do throws(TraceError) { return try body() } catch {
            let place = error.offset.map { " at byte \($0)" } ?? ""
            throw unusable(source, "damaged\(place): \(error.message)")
        }
    }

    private static func identity(_ source: ByteSource) throws(KeyframeFileError) -> UInt64 {
        var buffer = ByteBuffer()
        do throws(TraceError) { try source.read(Prelude.bytes, at: 0, into: &buffer) } catch {
            throw KeyframeFileError(
                kind: .foreign, file: source.name, message: "cannot be read: \(error.message)")
        }
        guard buffer.count > 0 else { throw unusable(source, "empty") }
        switch unsafe KeyframePrelude.read(buffer.bytes) {
        case .good(let prelude): return prelude.identity
        case .unusable(let what): throw unusable(source, what)
        case .foreign:
            throw KeyframeFileError(
                kind: .foreign, file: source.name, message: "this is no keyframe file")
        }
    }

    private static func key(
        at offset: UInt64, _ loader: inout BlockLoader, _ source: ByteSource
    ) throws(TraceError) -> KeyframeKey {
        _ = try loader.load(at: offset)
        do throws(Malformed) {
            return try unsafe KeyframeKey(payload: loader.payload.bytes)
        } catch { throw source.damaged(offset, error.what) }
    }

    private typealias Contents = (
        records: [KeyframeRecord], pageCount: UInt32, pageBlocks: [BlockEntry]
    )

    /// Reads the records, and finds the pages: every block of them but the last is full.
    private static func contents(
        _ entries: [BlockEntry], _ loader: inout BlockLoader, _ source: ByteSource
    ) throws(TraceError) -> Contents {
        let pageBlocks = entries.filter { $0.type == .keyframePages }
        var pageCount: UInt64 = 0
        if let last = pageBlocks.last {
            let bytes = Int(try loader.header(at: last.offset).rawLength)
            let (pages, rest) = bytes.quotientAndRemainder(dividingBy: MemoryDigest.pageBytes)
            guard rest == 0, (1...Limits.keyframeBlockPages).contains(pages) else {
                throw source.damaged(last.offset, "a block of pages has no sound length")
            }
            pageCount = UInt64((pageBlocks.count - 1) * Limits.keyframeBlockPages + pages)
        }
        guard let pageCount = UInt32(exactly: pageCount) else {
            throw source.damaged(nil, "it has more pages than can be numbered")
        }
        var records: [KeyframeRecord] = []
        for entry in entries where entry.type == .keyframe {
            _ = try loader.load(at: entry.offset)
            do throws(Malformed) {
                let record = try unsafe KeyframeRecord(
                    payload: loader.payload.bytes, pageCount: pageCount)
                guard records.last.map({ $0.position < record.position }) ?? true else {
                    throw Malformed("the keyframes are not in order")
                }
                records.append(record)
            } catch { throw source.damaged(entry.offset, error.what) }
        }
        return (records, pageCount, pageBlocks)
    }

    /// Copies a page of the file to `destination`, which has room for 4096 bytes.
    ///
    /// Errors: there is no such page, or its block is damaged.
    public func copyPage(
        _ number: UInt32, to destination: UnsafeMutableRawPointer
    ) throws(TraceError) {
        guard number < pageCount else {
            throw TraceError(.outOfRange, file: path, "there is no page \(number)")
        }
        try unsafe pages.copy(Int(number), to: destination)
    }
}

/// The blocks of pages, of which the one that was read last is kept.
///
/// Sendable: everything that changes is used under the monitor.
private final class PageBlocks: @unchecked Sendable {
    private let monitor = Monitor()
    private let source: ByteSource
    private let blocks: [BlockEntry]
    private var loader: BlockLoader
    /// The block that the loader holds.
    private var loaded: Int?

    init(_ source: ByteSource, _ loader: consuming BlockLoader, _ blocks: [BlockEntry]) {
        self.source = source
        self.loader = loader
        self.blocks = blocks
    }

    func copy(_ number: Int, to destination: UnsafeMutableRawPointer) throws(TraceError) {
        var problem: TraceError?
        monitor.change {
            do throws(TraceError) {
                try unsafe locked(number, destination)
            } catch { problem = error }
        }
        if let problem { throw problem }
    }

    private func locked(
        _ number: Int, _ destination: UnsafeMutableRawPointer
    ) throws(TraceError) {
        let block = number / Limits.keyframeBlockPages
        let offset = number % Limits.keyframeBlockPages * MemoryDigest.pageBytes
        guard blocks.indices.contains(block) else {
            throw source.damaged(nil, "there is no page \(number)")
        }
        let place = blocks[block].offset
        if loaded != block {
            loaded = nil
            guard try loader.load(at: place).type == .keyframePages else {
                throw source.damaged(place, "the block is not the one the index names")
            }
            loaded = block
        }
        guard loader.payload.count >= offset + MemoryDigest.pageBytes,
            let base = unsafe loader.payload.bytes.baseAddress
        else { throw source.damaged(place, "a block of pages is too short") }
        // SAFETY: the page lies in the payload, as just checked; the caller has the room.
        unsafe destination.copyMemory(from: base + offset, byteCount: MemoryDigest.pageBytes)
    }
}
