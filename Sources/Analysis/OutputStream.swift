internal import Glibc

/// A buffered stream of bytes to a file descriptor: what reading commands print through.
///
/// One write(2) per 64 KiB; nothing is kept back at ``flush()``. A failed write is remembered and
/// makes every later one a no-op, so that a loop over a million exits needs one check, at its end.
public final class OutputStream {
    private var buffer: [UInt8] = []
    private let descriptor: Int32?
    private static let capacity = 1 << 16

    /// The errno of the first write that failed; 0 while all is well.
    public private(set) var failure: Int32 = 0

    /// Whether a write failed: what is still to come will not be seen by anybody.
    public var hasFailed: Bool { failure != 0 }

    /// Writes to a descriptor that stays the caller's to close.
    public init(descriptor: Int32) {
        self.descriptor = descriptor
        buffer.reserveCapacity(Self.capacity + 4096)
    }

    /// Keeps everything in memory, for tests and for text that is measured before it is shown.
    public init() { descriptor = nil }

    /// What was written and is not yet flushed; everything, for a stream in memory.
    public var bytes: [UInt8] { buffer }

    /// ``bytes`` as text.
    public var text: String { String(decoding: buffer, as: UTF8.self) }

    /// Appends text.
    @inline(__always)
    public func write(_ text: StaticString) {
        // SAFETY: a StaticString with a pointer representation is valid for the whole program.
        if text.hasPointerRepresentation {
            unsafe buffer.append(
                contentsOf: UnsafeBufferPointer(
                    start: text.utf8Start, count: text.utf8CodeUnitCount))
        } else {
            buffer.append(contentsOf: String(text.unicodeScalar).utf8)
        }
        flushIfFull()
    }

    /// Appends text.
    public func write(_ text: String) {
        buffer.append(contentsOf: text.utf8)
        flushIfFull()
    }

    /// Appends bytes as they are.
    public func write(bytes: some Sequence<UInt8>) {
        buffer.append(contentsOf: bytes)
        flushIfFull()
    }

    /// Appends one byte.
    @inline(__always)
    public func write(byte: UInt8) { buffer.append(byte) }

    /// Appends a number in decimal.
    public func write(decimal value: UInt64) {
        var digits: InlineArray<20, UInt8> = InlineArray(repeating: 0)
        var rest = value
        var at = 20
        repeat {
            at -= 1
            let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: 10)
            digits[at] = 0x30 + UInt8(remainder)
            rest = quotient
        } while rest != 0
        for index in at..<20 { buffer.append(digits[index]) }
    }

    /// Appends a number in lower-case hexadecimal, padded with zeros to at least `digits`.
    public func write(hex value: UInt64, digits: Int = 1) {
        let needed = max(1, (67 - value.leadingZeroBitCount) / 4)
        for index in stride(from: max(needed, digits) - 1, through: 0, by: -1) {
            let nibble = index > 15 ? 0 : UInt8(value >> UInt64(index * 4) & 0xF)
            buffer.append(nibble < 10 ? 0x30 + nibble : 0x57 + nibble)
        }
    }

    /// Hands everything to the kernel.
    public func flush() {
        guard let descriptor else { return }
        var start = 0
        while start < buffer.count, failure == 0 {
            // SAFETY: the range lies within the array, which is alive through the call.
            let count = unsafe buffer.withUnsafeBytes {
                unsafe Glibc.write(
                    descriptor, $0.baseAddress.map { unsafe $0 + start }, $0.count - start)
            }
            if count >= 0 {
                start += count
            } else if errno == EAGAIN {
                var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                // SAFETY: one descriptor, counted as one.
                _ = unsafe Glibc.poll(&poll, 1, -1)
            } else if errno != EINTR {
                failure = errno
            }
        }
        buffer.removeAll(keepingCapacity: true)
    }

    private func flushIfFull() {
        if buffer.count >= Self.capacity { flush() }
    }
}
