import Synchronization

/// Where a device's input comes from: nowhere, bytes that are known, or the host's console.
///
/// Asking costs an atomic load at most.
@safe
public struct ConsoleInput: ~Copyable {
    private let bytes: [UInt8]
    private var position = 0
    private let mailbox: UnsafePointer<ConsoleMailbox>?

    /// No input, ever.
    public init() { self.init(bytes: []) }

    /// Bytes that are there from the start, delivered as fast as the guest takes them.
    public init(bytes: [UInt8]) {
        self.bytes = bytes
        unsafe mailbox = nil
    }

    /// What a console session puts in.
    // SAFETY: sessions never free their mailbox, so the pointer is good for the process's life.
    init(mailbox: UnsafePointer<ConsoleMailbox>) {
        bytes = []
        unsafe self.mailbox = mailbox
    }

    /// Whether there is no byte now.
    public var isEmpty: Bool {
        if let mailbox = unsafe mailbox { return unsafe mailbox.pointee.isEmpty }
        return position == bytes.count
    }

    /// Whether there is no byte now and none will come.
    public var isExhausted: Bool {
        if let mailbox = unsafe mailbox {
            // Ended first: bytes put in before the end are seen then.
            return unsafe mailbox.pointee.isEnded && mailbox.pointee.isEmpty
        }
        return position == bytes.count
    }

    /// Whether bytes may come that the guest could not have taken by now.
    var mayGrow: Bool {
        // SAFETY: see `init(mailbox:)`.
        if let mailbox = unsafe mailbox { return unsafe !mailbox.pointee.isEnded || !isEmpty }
        return false
    }

    /// The next byte, nil where there is none now.
    public mutating func next() -> UInt8? {
        if let mailbox = unsafe mailbox { return unsafe mailbox.pointee.take() }
        guard position < bytes.count else { return nil }
        defer { position += 1 }
        return bytes[position]
    }
}
