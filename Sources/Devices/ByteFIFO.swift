/// Up to 16 bytes, first in, first out; held in place.
struct ByteFIFO {
    private var bytes = InlineArray<16, UInt8>(repeating: 0)
    private var head = 0
    /// How many bytes are in.
    private(set) var count = 0

    /// Adds a byte; there must be room.
    mutating func push(_ byte: UInt8) {
        precondition(count < 16, "push on a full FIFO")
        bytes[(head + count) & 15] = byte
        count += 1
    }

    /// Puts a byte in the place of the one added last; there must be one.
    mutating func replaceLast(_ byte: UInt8) {
        precondition(count > 0, "replace in an empty FIFO")
        bytes[(head + count - 1) & 15] = byte
    }

    /// Takes the oldest byte, nil where there is none.
    mutating func pop() -> UInt8? {
        guard count > 0 else { return nil }
        defer {
            head = (head + 1) & 15
            count -= 1
        }
        return bytes[head]
    }

    /// Drops all bytes.
    mutating func clear() { count = 0 }
}
