import Synchronization

/// Where a device's input comes from: nowhere, bytes that are known, or the host's console.
///
/// Asking costs an atomic load at most.
@safe
public struct ConsoleInput: ~Copyable {
    private var bytes: [UInt8]
    private var position = 0
    private let mailbox: UnsafePointer<ConsoleMailbox>?
    /// How many bytes may be taken before more are admitted; nil: all there are.
    private var admitted: UInt?
    /// What was taken since ``takeTaken()``, where that is kept.
    private var taken: [UInt8] = []
    private var keepsTaken = false

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

    /// Keeps what is taken from now on, and lets nothing be taken but what ``admit()`` found: so
    /// that what a device takes depends on that alone.
    mutating func keepTaken() {
        keepsTaken = true
        taken.reserveCapacity(8192)
        admit()
    }

    /// What has come until now may be taken.
    @inline(__always)
    mutating func admit() {
        guard keepsTaken, let mailbox = unsafe mailbox else { return }
        admitted = unsafe mailbox.pointee.count
    }

    /// Whether something was taken since ``takeTaken()``.
    @inline(__always)
    var hasTaken: Bool { !taken.isEmpty }

    /// What was taken since the last call.
    mutating func takeTaken() -> [UInt8] {
        // A copy, so that the memory stays.
        let result = Array(taken[...])
        taken.removeAll(keepingCapacity: true)
        return result
    }

    /// Adds bytes to those that are known; not to be called on a console's input.
    mutating func feed(_ more: [UInt8]) {
        if position == bytes.count {
            bytes.removeAll(keepingCapacity: true)
            position = 0
        }
        bytes += more
    }

    /// Whether there is no byte now.
    public var isEmpty: Bool {
        if admitted == 0 { return true }
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
        guard let byte = nextUnkept() else { return nil }
        if keepsTaken { taken.append(byte) }
        return byte
    }

    private mutating func nextUnkept() -> UInt8? {
        if let mailbox = unsafe mailbox {
            guard admitted != 0, let byte = unsafe mailbox.pointee.take() else { return nil }
            if let left = admitted { admitted = left - 1 }
            return byte
        }
        guard position < bytes.count else { return nil }
        defer { position += 1 }
        return bytes[position]
    }
}
