internal import Glibc

/// Reads a whole file.
func readFile(_ path: String) throws(SymbolError) -> [UInt8] {
    func failure() -> SymbolError {
        // SAFETY: strerror returns a C string that is valid until the next call on this thread.
        let reason = unsafe String(cString: strerror(errno))
        return .unreadable(file: path, reason: reason)
    }
    // SAFETY: the path is passed as a C string that lives for the call.
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw failure() }
    defer { close(descriptor) }
    var status = stat()
    // SAFETY: `status` is a local that the call fills.
    guard unsafe fstat(descriptor, &status) == 0 else { throw failure() }
    guard status.st_mode & S_IFMT == S_IFREG else {
        throw .unreadable(file: path, reason: "not a regular file")
    }
    var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
    var filled = 0
    while filled < bytes.count {
        let got = unsafe bytes.withUnsafeMutableBytes { buffer in
            // SAFETY: the part of the buffer from `filled` on is `count - filled` bytes long.
            unsafe read(descriptor, buffer.baseAddress?.advanced(by: filled), buffer.count - filled)
        }
        if got < 0, errno == EINTR { continue }
        guard got >= 0 else { throw failure() }
        if got == 0 { break }
        filled += got
    }
    bytes.removeLast(bytes.count - filled)
    return bytes
}
