import Glibc

/// A terminal whose keyboard and screen are in the hands of a test.
public final class PseudoTerminal {
    /// The side a program sees as its terminal.
    public let terminal: Int32
    /// What the screen was told.
    public let screen: DescriptorReader
    private let keyboard: Int32

    /// Opens one of 24 lines.
    public init(columns: UInt16 = 100) throws(SupportError) {
        var near: Int32 = -1
        var far: Int32 = -1
        var size = winsize(ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
        descriptorLock.lock()
        defer { descriptorLock.unlock() }
        // SAFETY: openpty fills two descriptors and reads one struct; no name is asked for.
        guard unsafe openpty(&near, &far, nil, nil, &size) == 0 else {
            throw SupportError("openpty", errno: errno)
        }
        for descriptor in [near, far] { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        terminal = far
        keyboard = near
        screen = DescriptorReader(owning: near)
    }

    private var isOpen = true

    deinit { closeTerminal() }

    /// Closes the program's side here, so that the screen ends when the program does.
    public func closeTerminal() {
        if isOpen { close(terminal) }
        isOpen = false
    }

    /// Presses keys.
    public func type(_ text: String) {
        let bytes = Array(text.utf8)
        // SAFETY: the array's bytes, alive through the call.
        _ = unsafe Glibc.write(keyboard, bytes, bytes.count)
    }

    /// Whether keys reach the program one by one and unseen, as a raw console needs.
    public var isRaw: Bool {
        var settings = termios()
        // SAFETY: tcgetattr fills the one struct it is given.
        guard unsafe tcgetattr(keyboard, &settings) == 0 else { return false }
        return settings.c_lflag & tcflag_t(ICANON | ECHO | ISIG) == 0
    }
}
