internal import Glibc

/// Standard input, output and error.
enum StandardStreams {
    /// Opens those that the caller closed: else the next file that is opened, a trace even, would
    /// have the number of one, and be written to as such. They read as ended, and cannot be
    /// written.
    static func open() {
        while true {
            // SAFETY: a constant string.
            let lowest = unsafe Glibc.open("/dev/null", O_RDONLY | O_CLOEXEC)
            guard (STDIN_FILENO...STDERR_FILENO).contains(lowest) else {
                if lowest > STDERR_FILENO { close(lowest) }
                return
            }
            // What vmtape starts, a debugger or a pager, has them too.
            _ = fcntl(lowest, F_SETFD, 0)
        }
    }
}
