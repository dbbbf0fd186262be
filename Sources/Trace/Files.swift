internal import Threads

#if canImport(Glibc)
    private import Glibc
#endif

/// A file descriptor that is closed when it goes.
@safe
struct Descriptor: ~Copyable, Sendable {
    let number: Int32

    /// Opens a file; the flags are those of open(2), O_CLOEXEC is added.
    init(_ path: String, flags: Int32, mode: UInt32 = 0o600) throws(SystemError) {
        while true {
            // SAFETY: the path is a string of ours.
            let number = unsafe open(path, flags | O_CLOEXEC, mode)
            if number >= 0 {
                self.number = number
                return
            }
            if errno != EINTR { throw SystemError(number: errno) }
        }
    }

    deinit { close(number) }

    /// Length in bytes; fails for what is no regular file.
    func regularFileSize() throws(SystemError) -> UInt64 {
        var status = stat()
        // SAFETY: the status is a local.
        guard unsafe fstat(number, &status) == 0 else { throw SystemError(number: errno) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw SystemError(number: EINVAL) }
        return UInt64(max(0, status.st_size))
    }

    /// Writes all bytes at `offset`.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        var done = 0
        while done < bytes.count {
            // SAFETY: `done` is less than `count`.
            let count = unsafe pwrite(
                number, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done,
                off_t(offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError(number: errno)
            }
            if count == 0 { throw SystemError(number: EIO) }
            done += count
        }
    }

    /// Reads up to `count` bytes from `offset` to `destination`; fewer only at the end.
    func read(
        to destination: UnsafeMutableRawPointer, count: Int, at offset: UInt64
    ) throws(SystemError) -> Int {
        var done = 0
        while done < count {
            // SAFETY: the caller has room for `count` bytes.
            let got = unsafe pread(
                number, destination + done, count - done, off_t(offset) + off_t(done))
            if got < 0 {
                if errno == EINTR { continue }
                throw SystemError(number: errno)
            }
            if got == 0 { break }
            done += got
        }
        return done
    }

    /// Cuts the file off.
    func truncate(to length: UInt64) throws(SystemError) {
        guard ftruncate(number, off_t(length)) == 0 else { throw SystemError(number: errno) }
    }

    /// Reserves disk blocks, so that a full disk shows now and not as SIGBUS later.
    func reserve(_ length: UInt64) throws(SystemError) {
        while true {
            let status = posix_fallocate(number, 0, off_t(length))
            if status == 0 { return }
            if status != EINTR { throw SystemError(number: status) }
        }
    }

    /// Waits until the file's bytes are on the disk.
    func synchronise() throws(SystemError) {
        guard fdatasync(number) == 0 else { throw SystemError(number: errno) }
    }

    /// Takes the lock that says "being written"; false if another process has it.
    func lock() -> Bool { flock(number, LOCK_EX | LOCK_NB) == 0 }
}

/// Bytes of a file shared with whoever maps or reads it; they outlive the process.
@safe
struct SharedMapping: ~Copyable, @unchecked Sendable {
    let base: UnsafeMutableRawPointer
    let count: Int

    init(_ file: borrowing Descriptor, count: Int) throws(SystemError) {
        // SAFETY: a new mapping, unmapped in deinit; the file has `count` reserved bytes.
        let address = unsafe mmap(
            nil, count, PROT_READ | PROT_WRITE, MAP_SHARED, file.number, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw SystemError(number: errno)
        }
        unsafe base = address
        self.count = count
    }

    deinit {
        // SAFETY: mapped by init; nothing points into it once the owner goes.
        _ = unsafe munmap(base, count)
    }
}

/// What a path names, without following a link at its end.
enum PathKind {
    case nothing, regularFile, other

    init(_ path: String) {
        var status = stat()
        // SAFETY: the status is a local.
        guard unsafe lstat(path, &status) == 0 else {
            self = .nothing
            return
        }
        self = status.st_mode & S_IFMT == S_IFREG ? .regularFile : .other
    }
}

enum Paths {
    /// Where a recording is until it is complete.
    static func partial(_ path: String) -> String { path + ".partial" }
    /// Where what is not yet in the partial file is.
    static func tail(ofPartial path: String) -> String { path + "-tail" }

    static func remove(_ path: String) {
        // SAFETY: the path is a string of ours.
        _ = unsafe unlink(path)
    }

    /// Renames a file; `replacing` an existing one or failing with EEXIST.
    static func rename(_ from: String, to: String, replacing: Bool) throws(SystemError) {
        // SAFETY: the paths are strings of ours.
        if !replacing {
            // A link never replaces; file systems without hard links fall through.
            if unsafe link(from, to) == 0 {
                remove(from)
                return
            }
            if errno == EEXIST { throw SystemError(number: errno) }
        }
        guard unsafe Glibc.rename(from, to) == 0 else { throw SystemError(number: errno) }
    }
}

/// An errno.
struct SystemError: Error {
    var number: Int32
}

extension TraceError {
    /// What failed, of what file, and the system's reason.
    init(_ error: SystemError, file: String, _ what: String) {
        // SAFETY: strerror's answer is copied at once; it may be another thread's text at worst.
        let reason = unsafe String(cString: strerror(error.number))
        let advice =
            switch error.number {
            case ENOSPC, EDQUOT: ": free some space, or write elsewhere with -o"
            case EACCES, EPERM, EROFS: ": choose a place you may write to, or read from"
            case EFBIG: ": the file may not grow further (see ulimit -f)"
            default: ""
            }
        self.init(.system(error.number), file: file, "\(what): \(reason)\(advice)")
    }
    /// The thread that could not be started.
    init(_ error: ThreadError, file: String) {
        self.init(.system(error.number), file: file, error.description)
    }
}
