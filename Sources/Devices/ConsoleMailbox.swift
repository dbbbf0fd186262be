import Synchronization

/// A bounded queue of bytes from one thread to one other, without locks.
///
/// The reader of the host's console puts bytes in; the vCPU's thread takes them. ``tail`` is
/// written by the one, ``head`` by the other; both only grow (and wrap as numbers do).
struct ConsoleMailbox: ~Copyable {
    /// A power of two.
    static let capacity: UInt = 4096

    private let head = Atomic<UInt>(0)
    private let tail = Atomic<UInt>(0)
    private let hasEnded = Atomic<Bool>(false)
    private let slots = SlotArray()

    /// The bytes, each written by one side before `tail` moves and read before `head` does.
    @safe
    private struct SlotArray: ~Copyable {
        let base: UnsafeMutablePointer<UInt8>

        init() {
            unsafe base = UnsafeMutablePointer.allocate(capacity: Int(ConsoleMailbox.capacity))
            unsafe base.initialize(repeating: 0, count: Int(ConsoleMailbox.capacity))
        }

        deinit { unsafe base.deallocate() }
    }

    /// Adds a byte; false where there is no room. For the reading thread only.
    func put(_ byte: UInt8) -> Bool {
        let at = tail.load(ordering: .relaxed)
        guard at &- head.load(ordering: .acquiring) < Self.capacity else { return false }
        // SAFETY: the index is below capacity, and no one reads this slot before `tail` moves.
        unsafe slots.base[Int(at % Self.capacity)] = byte
        tail.store(at &+ 1, ordering: .releasing)
        return true
    }

    /// Takes a byte; nil where there is none. For the vCPU's thread only.
    func take() -> UInt8? {
        let at = head.load(ordering: .relaxed)
        guard at != tail.load(ordering: .acquiring) else { return nil }
        // SAFETY: the index is below capacity, and no one writes this slot before `head` moves.
        let byte = unsafe slots.base[Int(at % Self.capacity)]
        head.store(at &+ 1, ordering: .releasing)
        return byte
    }

    /// How many bytes there are to take. For the vCPU's thread only.
    var count: UInt { tail.load(ordering: .acquiring) &- head.load(ordering: .relaxed) }

    /// Whether there is a byte to take.
    var isEmpty: Bool {
        head.load(ordering: .relaxed) == tail.load(ordering: .acquiring)
    }

    /// Says that no byte will be put in any more.
    func end() { hasEnded.store(true, ordering: .releasing) }

    /// Whether no byte will be put in any more.
    var isEnded: Bool { hasEnded.load(ordering: .acquiring) }
}
