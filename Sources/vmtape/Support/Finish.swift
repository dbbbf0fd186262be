internal import Analysis
internal import Glibc

extension OutputStream {
    /// Writes out the rest. A reader that is gone (`| head`) is its own business; any other
    /// failure to write is the command's.
    func finish(name: String? = nil) throws(CommandFailure) {
        flush()
        guard hasFailed, failure != EPIPE else { return }
        throw CommandFailure(
            status: Status.couldNot,
            "\(name ?? "standard output"): cannot be written: \(errnoText(failure))")
    }
}

/// What an errno means.
func errnoText(_ number: Int32) -> String {
    // SAFETY: strerror returns a string for every number; it is copied at once.
    unsafe strerror(number).map { unsafe String(cString: $0) } ?? "errno \(number)"
}
