/// Up to 4096 bytes that an exit sent or was answered with.
///
/// Nearly always there are at most eight: those live in one word, and reading or copying them
/// touches no memory of their own.
public struct ExitData: Sendable {
    /// The number of bytes.
    public private(set) var count = 0
    /// The first eight bytes, little-endian; bytes that are not there are zero.
    public private(set) var value: UInt64 = 0
    /// All bytes where there are more than eight, else what was here before.
    private var long: [UInt8] = []

    /// No bytes.
    public init() {}

    /// The bytes of a number, little-endian; `count` is at most 8.
    public init(value: UInt64, count: Int) {
        precondition(count <= 8)
        self.count = count
        self.value = count == 8 ? value : value & (1 << UInt64(count * 8) &- 1)
    }

    /// Some bytes.
    public init(_ bytes: [UInt8]) { replace(with: bytes.span) }

    /// Whether there is none.
    public var isEmpty: Bool { count == 0 }

    /// One byte; `index` is less than ``count``.
    @inline(__always)
    public subscript(index: Int) -> UInt8 {
        precondition(index >= 0 && index < count)
        if index < 8 { return UInt8(truncatingIfNeeded: value >> UInt64(index * 8)) }
        return long[index]
    }

    /// All bytes, as an array of its own.
    public var bytes: [UInt8] { (0..<count).map { self[$0] } }

    /// Takes the place of what was here; memory is kept for the next one.
    public mutating func replace(with bytes: Span<UInt8>) {
        // SAFETY: bytes are viewed as bytes.
        replace(with: unsafe bytes.bytes)
    }

    /// Takes the place of what was here; memory is kept for the next one.
    @inline(__always)
    public mutating func replace(with bytes: RawSpan) {
        count = bytes.byteCount
        value = 0
        for index in 0..<min(8, count) {
            value |= UInt64(byte(bytes, index)) << UInt64(index * 8)
        }
        guard count > 8 else { return }
        long.removeAll(keepingCapacity: true)
        for index in 0..<count { long.append(byte(bytes, index)) }
    }

    @inline(__always)
    private func byte(_ bytes: RawSpan, _ index: Int) -> UInt8 {
        // SAFETY: the load is checked against the span; every bit pattern is a byte.
        unsafe bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
    }

    /// Takes the place of what was here by a number's bytes, little-endian.
    @inline(__always)
    public mutating func replace(withValue value: UInt64, count: Int) {
        precondition(count <= 8)
        self.count = count
        self.value = count == 8 ? value : value & (1 << UInt64(count * 8) &- 1)
    }

    /// Removes all bytes.
    @inline(__always)
    public mutating func removeAll() {
        count = 0
        value = 0
    }
}

extension ExitData: Equatable {
    /// Whether the bytes are the same.
    public static func == (a: Self, b: Self) -> Bool {
        guard a.count == b.count, a.value == b.value else { return false }
        for index in 0..<a.count where a[index] != b[index] { return false }
        return true
    }
}
