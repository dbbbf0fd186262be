import Glibc

/// Where a device's bytes go: gathered in a buffer, written in batches.
///
/// A batch is written when a newline arrives, when the buffer is full, when the guest waits for
/// input, on ``flush()`` and at the end of this value's life. A failure does not stop the guest: it is kept in ``failure``, and what
/// comes after it is counted and dropped.
@safe
public struct ConsoleOutput: ~Copyable {
    /// Where bytes can go.
    public enum Target: Equatable, Sendable {
        /// Nowhere; they are counted.
        case none
        /// A descriptor that stays the caller's; the name is for messages.
        case descriptor(Int32, name: String)
        /// A file, created or emptied, with mode 0666 under the umask.
        case file(String)
        /// Memory, without bound; ``ConsoleOutput/takeBytes()`` gives them. For tests and tools.
        case memory
    }

    /// How many bytes are gathered at most.
    public static let capacity = 1 << 16

    /// The first failure to write, nil while all is well.
    public private(set) var failure: DeviceError?
    /// How many bytes the guest has sent.
    public private(set) var byteCount: UInt64 = 0

    /// What the guest sends is counted, and dropped.
    var isMuted = false

    private let descriptor: Int32
    private let closesDescriptor: Bool
    private let isMemory: Bool
    private let name: String
    private let buffer: UnsafeMutablePointer<UInt8>
    private var count = 0
    private var hasPolled = false
    private var collected: [UInt8] = []

    /// Opens a target. A broken pipe is to be an error and not a signal, so SIGPIPE is ignored in
    /// this process where nothing handles it.
    ///
    /// Throws ``DeviceError/Kind/cannotOpen`` where a file cannot be opened.
    public init(_ target: Target) throws(DeviceError) {
        switch target {
        case .none, .memory: (descriptor, closesDescriptor, name) = (-1, false, "console")
        case .descriptor(let given, let givenName):
            (descriptor, closesDescriptor, name) = (given, false, givenName)
        case .file(let path):
            // SAFETY: Swift passes the path as a NUL-terminated string for the call.
            let opened = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
            guard opened >= 0 else {
                throw DeviceError(.cannotOpen, path, "cannot be written", errno: errno)
            }
            (descriptor, closesDescriptor, name) = (opened, true, path)
        }
        isMemory = target == .memory
        unsafe buffer = UnsafeMutablePointer.allocate(capacity: Self.capacity)
        if descriptor >= 0 { Self.ignoreBrokenPipes() }
    }

    deinit {
        // SAFETY: the first `count` bytes are initialised; nothing uses the buffer after this.
        if failure == nil && descriptor >= 0 {
            _ = unsafe Self.write(buffer, count, to: descriptor)
        }
        unsafe buffer.deallocate()
        if closesDescriptor { close(descriptor) }
    }

    /// Adds a byte.
    public mutating func append(_ byte: UInt8) {
        byteCount &+= 1
        if isMuted || !isMemory && (descriptor < 0 || failure != nil) { return }
        // SAFETY: count < capacity holds between calls, since flush() always empties the buffer.
        unsafe buffer[count] = byte
        count += 1
        hasPolled = false
        if count == Self.capacity || byte == 0x0A { flush() }
    }

    /// Whether bytes wait to be written.
    public var isHolding: Bool { count > 0 }

    /// The guest looked at the port's status. Once belongs to sending; twice with nothing sent in
    /// between means that it waits, and what it said before (a prompt) is to be seen.
    mutating func guestPolled() {
        guard count > 0 else { return }
        if hasPolled { flush() }
        hasPolled = true
    }

    /// Writes what is gathered; a failure is kept in ``failure``.
    public mutating func flush() {
        guard count > 0 else { return }
        defer { count = 0 }
        // SAFETY: the first `count` bytes of the buffer are initialised.
        if isMemory {
            unsafe collected.append(contentsOf: UnsafeBufferPointer(start: buffer, count: count))
            return
        }
        guard failure == nil else { return }
        let number = unsafe Self.write(buffer, count, to: descriptor)
        if number == EPIPE {
            failure = DeviceError(.readerGone, name, "nobody reads it any more")
        } else if number != 0 {
            failure = DeviceError(.cannotWrite, name, "cannot be written", errno: number)
        }
    }

    /// What was sent to ``Target/memory`` since the last call; nothing for other targets.
    public mutating func takeBytes() -> [UInt8] {
        guard isMemory else { return [] }
        flush()
        defer { collected = [] }
        return collected
    }

    /// Writes all of it, waiting where the descriptor does not take more; 0 or an errno value.
    private static func write(
        _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int, to descriptor: Int32
    ) -> Int32 {
        var done = 0
        while done < count {
            // SAFETY: done < count, and the caller vouches for `count` bytes.
            let written = unsafe Glibc.write(descriptor, bytes + done, count - done)
            if written > 0 {
                done += written
            } else if written == 0 {
                return EIO
            } else if errno == EAGAIN {
                var request = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                // SAFETY: one request on this frame; its outcome is what the next write says.
                _ = unsafe poll(&request, 1, -1)
            } else if errno != EINTR {
                return errno
            }
        }
        return 0
    }

    private static func ignoreBrokenPipes() {
        // SAFETY: signal() takes and gives plain handlers; one that was there is put back.
        if let old = signal(SIGPIPE, SIG_IGN) { _ = signal(SIGPIPE, old) }
    }
}
