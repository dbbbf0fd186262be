import Glibc

/// A file that takes part in a load: its name as given and its bytes as they were read.
public struct GuestFile: Equatable, Sendable {
    /// The most bytes a file may have.
    public static let maximumLength = 1 << 30

    /// The name, for messages and for the trace; not opened again.
    public var name: String
    /// The bytes as read, before any unpacking.
    public var bytes: [UInt8]

    /// Makes a file of bytes that are already there.
    public init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }

    /// Reads a file.
    ///
    /// Throws ``GuestError`` of kind unreadable, empty, or tooBig (beyond 1 GiB).
    public init(path: String) throws(GuestError) {
        // SAFETY: Swift passes the path as a NUL-terminated string for the call.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw GuestError(.unreadable, path, "cannot be opened: \(message(of: errno))")
        }
        defer { close(descriptor) }
        name = path
        bytes = try Self.contents(of: descriptor, path)
        guard !bytes.isEmpty else { throw GuestError(.empty, path, "the file is empty") }
    }

    private static func contents(
        of descriptor: Int32, _ path: String
    ) throws(GuestError) -> [UInt8] {
        var status = stat()
        // SAFETY: fstat fills the one struct it is given.
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw GuestError(.unreadable, path, "cannot be read: \(message(of: errno))")
        }
        guard status.st_mode & S_IFMT != S_IFDIR else {
            throw GuestError(.unreadable, path, "is a directory; give a guest image")
        }
        guard status.st_size <= maximumLength else {
            throw GuestError(
                .tooBig, path,
                "\(size(UInt64(status.st_size))) is more than the accepted "
                    + size(UInt64(maximumLength)))
        }
        // The size is a hint: a pipe says 0, and a file can grow while it is read.
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(max(status.st_size, 0)) + 1)
        let chunkLength = 1 << 20
        var chunk = [UInt8](repeating: 0, count: chunkLength)
        while true {
            // SAFETY: the buffer holds chunkLength bytes, and read fills at most that many.
            let count = unsafe read(descriptor, &chunk, chunkLength)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else {
                throw GuestError(.unreadable, path, "cannot be read: \(message(of: errno))")
            }
            if count == 0 { return bytes }
            guard bytes.count + count <= maximumLength else {
                throw GuestError(
                    .tooBig, path, "more than the accepted \(size(UInt64(maximumLength)))")
            }
            bytes.append(contentsOf: chunk[..<count])
        }
    }
}
