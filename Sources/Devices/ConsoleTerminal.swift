import Glibc
import Synchronization

/// The host's terminal in raw mode, and its way back.
///
/// There is one terminal to restore in a process. It is restored by ``restore()``, when the process
/// exits, and on the signals that end a process where nothing else handles them.
public enum ConsoleTerminal {
    /// What the terminal was before; written before ``isRaw`` says so and never after.
    // SAFETY: allocated once and never freed; published by the atomic below.
    nonisolated(unsafe) private static let saved: UnsafeMutablePointer<termios> = {
        let place = UnsafeMutablePointer<termios>.allocate(capacity: 1)
        unsafe place.initialize(to: termios())
        return unsafe place
    }()
    private static let descriptor = Atomic<Int32>(-1)

    /// Signals that end a process and leave a terminal raw.
    private static let fatalSignals: [Int32] = [
        SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGTERM,
    ]

    /// Makes a terminal raw: no echo, no lines, no signals from keys. Output is processed as
    /// before, so that a guest's bare newline still returns the carriage.
    ///
    /// Throws ``DeviceError/Kind/noConsole`` where the terminal refuses, or where this process may
    /// not change it because it is in the background.
    static func enterRawMode(_ terminal: Int32) throws(DeviceError) {
        // To change it from the background would stop this process. A terminal that does not
        // control this process (-1) can be changed.
        let owner = tcgetpgrp(terminal)
        guard owner < 0 || owner == getpgrp() else {
            throw DeviceError(
                .noConsole, "terminal", "this process is in the background; bring it to the front")
        }
        // SAFETY: `saved` is one termios that lives for ever; no one reads it before `descriptor`
        // says that it is set.
        guard unsafe tcgetattr(terminal, saved) == 0 else {
            throw DeviceError(.noConsole, "terminal", "cannot be read", errno: errno)
        }
        var raw = unsafe saved.pointee
        raw.c_iflag &= ~tcflag_t(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON)
        raw.c_lflag &= ~tcflag_t(ECHO | ECHONL | ICANON | IEXTEN | ISIG)
        raw.c_cflag &= ~tcflag_t(CSIZE | PARENB)
        raw.c_cflag |= tcflag_t(CS8)
        installRestorers()
        descriptor.store(terminal, ordering: .sequentiallyConsistent)
        guard unsafe tcsetattr(terminal, TCSANOW, &raw) == 0 else {
            descriptor.store(-1, ordering: .sequentiallyConsistent)
            throw DeviceError(.noConsole, "terminal", "cannot be made raw", errno: errno)
        }
    }

    /// Gives the terminal back as it was; nothing where it is not raw. Safe in a signal handler.
    public static func restore() {
        let terminal = descriptor.exchange(-1, ordering: .sequentiallyConsistent)
        guard terminal >= 0 else { return }
        let kept = errno
        // SAFETY: set before `descriptor` was, and not written since.
        _ = unsafe tcsetattr(terminal, TCSANOW, saved)
        errno = kept
    }

    /// Whether the terminal is raw now.
    public static var isRaw: Bool { descriptor.load(ordering: .sequentiallyConsistent) >= 0 }

    /// Installed once; a static initialiser runs once.
    private static let restorersAreInstalled: Bool = {
        atexit { ConsoleTerminal.restore() }
        for number in fatalSignals {
            // SAFETY: signal() takes and gives plain handlers; one that was there is put back. The
            // handler calls only what is safe in one: atomics, tcsetattr, signal, raise.
            let old = signal(number) { caught in
                ConsoleTerminal.restore()
                _ = signal(caught, SIG_DFL)
                raise(caught)
            }
            if let old = old { _ = signal(number, old) }
        }
        return true
    }()

    private static func installRestorers() { _ = restorersAreInstalled }
}
