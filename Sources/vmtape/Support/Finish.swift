internal import Analysis
internal import Glibc

extension OutputStream {
    /// Writes out the rest. A reader that is gone (`| head`) is its own business; any other
    /// failure to write is the command's.
    func finish() throws(CommandFailure) {
        flush()
        guard hasFailed, failure != EPIPE else { return }
        // SAFETY: strerror returns a string for every number; it is copied at once.
        let text = unsafe strerror(failure).map { unsafe String(cString: $0) }
        throw CommandFailure(
            status: Status.couldNot,
            "standard output: cannot be written: \(text ?? "errno \(failure)")")
    }
}
