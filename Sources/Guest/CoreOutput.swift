import Glibc

/// A file that is called `NAME.partial` until it is complete, and is gone if it never is.
struct CoreOutput: ~Copyable {
    private let path: String
    private let partial: String
    private let descriptor: Int32
    private var isFinished = false

    init(_ path: String, isReplacing: Bool) throws(GuestError) {
        let partial = path + ".partial"
        if !isReplacing, Self.isThere(path) { throw Self.exists(path) }
        // SAFETY: paths are strings of ours, here and below.
        if isReplacing { _ = unsafe unlink(partial) }
        let descriptor = unsafe open(
            partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            if errno == EEXIST {
                throw GuestError(
                    .exists, partial,
                    "exists: a core is being written there, or was and broke off; remove it")
            }
            throw Self.failure(partial, "cannot be created", errno)
        }
        self.path = path
        self.partial = partial
        self.descriptor = descriptor
    }

    deinit {
        close(descriptor)
        // SAFETY: as in init.
        if !isFinished { _ = unsafe unlink(partial) }
    }

    /// Writes bytes at an offset; nothing before or after is touched.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(GuestError) {
        var done = 0
        while done < bytes.count {
            // SAFETY: `done` is less than the count of the caller's buffer.
            let count = unsafe pwrite(
                descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                off_t(offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw Self.failure(partial, "cannot be written", count < 0 ? errno : EIO)
            }
            done += count
        }
    }

    /// Gives the file its length and its name.
    consuming func finish(length: UInt64, isReplacing: Bool) throws(GuestError) {
        guard ftruncate(descriptor, off_t(length)) == 0 else {
            throw Self.failure(partial, "cannot be made \(size(length)) long", errno)
        }
        // A link, unlike a rename, never replaces; file systems without links fall through.
        // SAFETY: as in init.
        if !isReplacing {
            if unsafe link(partial, path) == 0 {
                _ = unsafe unlink(partial)
                isFinished = true
                return
            }
            if errno == EEXIST || Self.isThere(path) { throw Self.exists(path) }
        }
        guard unsafe rename(partial, path) == 0 else {
            throw Self.failure(path, "cannot be named so", errno)
        }
        isFinished = true
    }

    private static func isThere(_ path: String) -> Bool {
        var status = stat()
        // SAFETY: the status is a local that the call fills.
        return unsafe lstat(path, &status) == 0
    }

    private static func exists(_ path: String) -> GuestError {
        GuestError(.exists, path, "exists; choose another name, or --overwrite")
    }

    private static func failure(_ path: String, _ what: String, _ number: Int32) -> GuestError {
        let advice =
            switch number {
            case ENOSPC, EDQUOT: "; free some space, or write elsewhere"
            case EFBIG: "; the file system, or ulimit -f, allows no file of that size"
            case EACCES, EPERM, EROFS: "; choose a place you may write to"
            case ENOENT: "; make the directory first"
            default: ""
            }
        return GuestError(.unwritable, path, "\(what): \(message(of: number))\(advice)")
    }
}

/// Gathers pages that are neighbours in the file into writes of up to 1 MiB.
struct PageRuns: ~Copyable {
    private let file: CoreOutput
    private var buffer: [UInt8] = []
    private var start: UInt64 = 0
    /// How many pages were appended.
    private(set) var count: UInt64 = 0

    private static let longestRun = 1 << 20

    init(file: consuming CoreOutput) {
        self.file = file
        buffer.reserveCapacity(Self.longestRun)
    }

    mutating func append(
        _ page: UnsafeRawBufferPointer, at offset: UInt64
    ) throws(GuestError) {
        if start + UInt64(buffer.count) != offset || buffer.count + page.count > Self.longestRun {
            try flush()
            start = offset
        }
        // SAFETY: the caller's page is copied at once.
        unsafe buffer.append(contentsOf: page)
        count += 1
    }

    mutating func flush() throws(GuestError) {
        try write(buffer, at: start)
        buffer.removeAll(keepingCapacity: true)
    }

    /// Writes bytes that belong to no run.
    func write(_ bytes: [UInt8], at offset: UInt64) throws(GuestError) {
        var failure: GuestError?
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(GuestError) {
                // SAFETY: the buffer is alive in the closure.
                unsafe try file.write(buffer, at: offset)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    /// Writes out what is left and gives the file its length and its name.
    consuming func finish(length: UInt64, isReplacing: Bool) throws(GuestError) {
        try flush()
        try file.finish(length: length, isReplacing: isReplacing)
    }
}
