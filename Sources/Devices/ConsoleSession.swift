import Glibc
internal import Threads

/// The host's console as a guest's input: a thread that reads a descriptor into a mailbox.
///
/// A terminal is made raw for the session, and the keys after Ctrl-A are the session's; from
/// anything else all bytes go to the guest. What a terminal sends while the guest takes nothing is
/// dropped beyond 4 KiB; from a pipe or file nothing is.
@safe
public final class ConsoleSession {
    private let thread: WorkerThread
    /// A pipe whose writing end is closed to end the thread.
    private let wakeReader: Int32
    private let wakeWriter: Int32
    private let mailbox: UnsafeMutablePointer<ConsoleMailbox>
    private var isRunning = true

    /// Starts to read `descriptor` (standard input unless told). `leave` is called on the reading
    /// thread each time the user asks to leave.
    ///
    /// Throws ``DeviceError/Kind/noConsole``.
    public init(
        descriptor: Int32 = 0, leave: @escaping @Sendable () -> Void
    ) throws(DeviceError) {
        let isTerminal = isatty(descriptor) == 1
        var wake: [Int32] = [-1, -1]
        // SAFETY: pipe fills two descriptors, and the array has two.
        guard unsafe pipe(&wake) == 0 else {
            throw DeviceError(.noConsole, "console", "no pipe", errno: errno)
        }
        for end in wake { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (wakeReader, wakeWriter) = (wake[0], wake[1])
        // Never freed: inputs that outlive the session keep pointing to it. 4 KiB a process.
        unsafe mailbox = UnsafeMutablePointer.allocate(capacity: 1)
        // SAFETY: freshly allocated for one mailbox.
        unsafe mailbox.initialize(to: ConsoleMailbox())
        let reader = unsafe ConsoleReader(
            descriptor: descriptor, wake: wakeReader, isTerminal: isTerminal, mailbox: mailbox,
            leave: leave)
        if isTerminal {
            do {
                try ConsoleTerminal.enterRawMode(descriptor)
            } catch {
                close(wakeReader)
                close(wakeWriter)
                throw error
            }
        }
        do throws(ThreadError) {
            thread = try WorkerThread("to read the console") { reader.run() }
        } catch {
            ConsoleTerminal.restore()
            close(wakeReader)
            close(wakeWriter)
            throw DeviceError(.noConsole, "console", error.description)
        }
    }

    deinit { stop() }

    /// The input that this session feeds. To be asked for once: it has one reader.
    public func input() -> ConsoleInput {
        // SAFETY: the mailbox is never freed.
        unsafe ConsoleInput(mailbox: UnsafePointer(mailbox))
    }

    /// Ends the thread and gives the terminal back. Bytes that were read stay with the input.
    public func stop() {
        guard isRunning else { return }
        isRunning = false
        close(wakeWriter)
        // It leaves when the pipe hangs up.
        thread.join()
        close(wakeReader)
        ConsoleTerminal.restore()
    }
}

/// What the reading thread holds and does; Sendable, since that thread alone has it.
@safe
private final class ConsoleReader: @unchecked Sendable {
    private let descriptor: Int32
    private let wake: Int32
    private let isTerminal: Bool
    private let mailbox: UnsafeMutablePointer<ConsoleMailbox>
    private let leave: @Sendable () -> Void
    private var keys = ConsoleKeys()

    // SAFETY: the session never frees the mailbox, and this thread alone puts bytes into it.
    init(
        descriptor: Int32, wake: Int32, isTerminal: Bool,
        mailbox: UnsafeMutablePointer<ConsoleMailbox>, leave: @escaping @Sendable () -> Void
    ) {
        self.descriptor = descriptor
        self.wake = wake
        self.isTerminal = isTerminal
        unsafe self.mailbox = mailbox
        self.leave = leave
    }

    func run() {
        defer { unsafe mailbox.pointee.end() }
        var chunk = [UInt8](repeating: 0, count: 512)
        while waitForInput() {
            // SAFETY: read fills at most the chunk's count.
            let count = unsafe read(descriptor, &chunk, chunk.count)
            if count < 0 && (errno == EINTR || errno == EAGAIN) { continue }
            guard count > 0 else { return }
            for byte in chunk[..<count] {
                guard take(byte) else { return }
            }
        }
    }

    /// Waits until there is something to read; false where the session ends.
    private func waitForInput() -> Bool {
        while true {
            var requests = (
                pollfd(fd: wake, events: Int16(POLLIN), revents: 0),
                pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            )
            // SAFETY: a tuple of two equal structs lies in memory as an array of two.
            let result = unsafe withUnsafeMutableBytes(of: &requests) { bytes in
                unsafe poll(bytes.baseAddress?.assumingMemoryBound(to: pollfd.self), 2, -1)
            }
            if result < 0 && errno == EINTR { continue }
            guard result > 0, requests.0.revents == 0 else { return false }
            if requests.1.revents != 0 { return true }
        }
    }

    /// Handles a byte; false where the session ends.
    private func take(_ byte: UInt8) -> Bool {
        guard isTerminal else { return deliver(byte) }
        switch keys.take(byte) {
        case .send(let byte): unsafe _ = mailbox.pointee.put(byte)
        case .nothing: break
        case .leave: leave()
        case .help:
            let text = Array(ConsoleKeys.help.utf8)
            // SAFETY: the array's bytes; a failure to show help is no one's concern.
            _ = unsafe write(STDERR_FILENO, text, text.count)
        }
        return true
    }

    /// Puts a byte in, waiting for room; false where the session ends meanwhile.
    private func deliver(_ byte: UInt8) -> Bool {
        while unsafe !mailbox.pointee.put(byte) {
            var request = pollfd(fd: wake, events: Int16(POLLIN), revents: 0)
            // The guest does not say when it takes a byte: that would cost it a system call.
            // SAFETY: one request on this frame.
            if unsafe poll(&request, 1, 5) > 0 { return false }
        }
        return true
    }
}
