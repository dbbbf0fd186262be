#if canImport(Glibc)
    private import Glibc
#endif

/// Writes a keyframe file under another name, and gives it its own once it is complete.
///
/// It has mode 0600: it holds the guest's memory.
public struct KeyframeFileWriter: ~Copyable {
    private let path: String
    /// Nil once the file has its name.
    private var temporary: String?
    private var blocks: BlockWriter
    private var pages: ByteBuffer
    /// Pages added so far.
    private var pageCount: UInt32 = 0

    /// Begins a file.
    public init(path: String, key: KeyframeKey) throws(TraceError) {
        let temporary = "\(path).\(getpid()).partial"
        blocks = try Self.begin(temporary, for: path, key)
        self.path = path
        self.temporary = temporary
        pages = ByteBuffer(capacity: Limits.keyframeBlockPages * MemoryDigest.pageBytes)
    }

    private static func begin(
        _ temporary: String, for path: String, _ key: KeyframeKey
    ) throws(TraceError) -> BlockWriter {
        let payload = key.payload
        let identity = unsafe payload.withUnsafeBytes { unsafe hash64($0) }
        var blocks = BlockWriter(
            try create(temporary, for: path), path: path, identity: identity,
            kind: "keyframe file")
        do throws(TraceError) {
            try blocks.prelude(KeyframePrelude(identity: identity))
            try blocks.metadata(.keyframeHead, payload)
        } catch {
            Paths.remove(temporary)
            throw error
        }
        return blocks
    }

    private static func create(
        _ temporary: String, for path: String
    ) throws(TraceError) -> Descriptor {
        // One that a process of this number left behind.
        if PathKind(temporary) == .regularFile { Paths.remove(temporary) }
        do throws(SystemError) {
            return try Descriptor(
                temporary, flags: O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
        } catch { throw TraceError(error, file: path, "cannot write the keyframe file") }
    }

    deinit { if let temporary { Paths.remove(temporary) } }

    /// Adds a page of 4096 bytes; gives its number.
    public mutating func add(page: UnsafeRawBufferPointer) throws(TraceError) -> UInt32 {
        precondition(page.count == MemoryDigest.pageBytes)
        guard pageCount < .max else {
            throw TraceError(.tooLarge, file: path, "too many pages for one keyframe file")
        }
        // SAFETY: the caller's bytes are copied during the call.
        unsafe pages.append(page)
        if pages.count == Limits.keyframeBlockPages * MemoryDigest.pageBytes { try flushPages() }
        pageCount += 1
        return pageCount - 1
    }

    private mutating func flushPages() throws(TraceError) {
        guard pages.count > 0 else { return }
        // SAFETY: the buffer does not change while it is written.
        try unsafe blocks.block(
            BlockHeader(type: .keyframePages, sequence: 0), pages.bytes)
        pages.removeAll()
    }

    /// Adds a record whose pages have been added, after all that come before it in the run.
    public mutating func add(_ record: KeyframeRecord) throws(TraceError) {
        try blocks.metadata(.keyframe, record.payload)
    }

    /// Completes the file, replacing what has its name; gives its length in bytes.
    public consuming func finish() throws(TraceError) -> UInt64 {
        try flushPages()
        let last = try blocks.index(BlockHeader(type: .index, sequence: 0))
        var payload = ByteBuffer(capacity: EndBlock.bytes)
        EndBlock(
            exitCount: 0, eventCount: 0, lastIndexOffset: last,
            blockCount: UInt64(blocks.sequence)
        ).append(to: &payload)
        // SAFETY: the buffer does not change while it is written.
        try unsafe blocks.block(
            BlockHeader(type: .end, sequence: 0), payload.bytes, compressing: false)
        let length = blocks.offset
        if let temporary {
            do throws(SystemError) {
                try Paths.rename(temporary, to: path, replacing: true)
            } catch { throw TraceError(error, file: path, "cannot write the keyframe file") }
            self.temporary = nil
        }
        return length
    }
}
