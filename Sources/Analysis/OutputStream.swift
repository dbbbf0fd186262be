internal import Glibc

/// A buffered stream of bytes to a file descriptor: what reading commands print through.
///
/// One write(2) per 64 KiB; nothing is kept back at ``flush()``. A failed write is remembered and
/// makes every later one a no-op, so that a loop over a million exits needs one check, at its end.
@safe
public final class OutputStream {
    /// Bytes that are not flushed yet: `count` of them, with room for `capacity`.
    ///
    /// An Array would do, at several times the cost of appending; exports append tens of times
    /// an exit.
    private var base: UnsafeMutablePointer<UInt8>
    private var count = 0
    private var capacity: Int
    private let descriptor: Int32?
    private static let flushSize = 1 << 16

    /// The errno of the first write that failed; 0 while all is well.
    public private(set) var failure: Int32 = 0

    /// Whether a write failed: what is still to come will not be seen by anybody.
    public var hasFailed: Bool { failure != 0 }

    /// Writes to a descriptor that stays the caller's to close.
    public convenience init(descriptor: Int32) {
        self.init(descriptor, capacity: Self.flushSize + 4096)
    }

    /// Keeps everything in memory, for tests and for text that is measured before it is shown.
    public convenience init() { self.init(nil, capacity: 256) }

    private init(_ descriptor: Int32?, capacity: Int) {
        self.descriptor = descriptor
        self.capacity = capacity
        // SAFETY: owned here, freed in deinit.
        unsafe base = .allocate(capacity: capacity)
    }

    deinit {
        // SAFETY: allocated by init or `grow`; bytes need no deinitialisation.
        unsafe base.deallocate()
    }

    /// What was written and is not yet flushed; everything, for a stream in memory.
    public var bytes: [UInt8] {
        // SAFETY: `count` bytes were written.
        unsafe Array(UnsafeBufferPointer(start: base, count: count))
    }

    /// ``bytes`` as text.
    public var text: String { String(decoding: bytes, as: UTF8.self) }

    /// Makes room for `extra` bytes and returns where they go; `count` is the caller's to raise.
    @inline(__always)
    private func reserve(_ extra: Int) -> UnsafeMutablePointer<UInt8> {
        if capacity - count < extra { makeRoom(extra) }
        // SAFETY: within the capacity.
        return unsafe base + count
    }

    @inline(never)
    private func makeRoom(_ extra: Int) {
        if descriptor != nil { flush() }
        guard capacity - count < extra else { return }
        let newCapacity = max(capacity * 2, count + extra)
        // SAFETY: the old memory holds `count` bytes, the new one more.
        let newBase = UnsafeMutablePointer<UInt8>.allocate(capacity: newCapacity)
        unsafe newBase.update(from: base, count: count)
        unsafe base.deallocate()
        unsafe base = newBase
        capacity = newCapacity
    }

    /// Appends text.
    @inline(__always)
    public func write(_ text: StaticString) {
        guard text.hasPointerRepresentation else {
            write(String(text.unicodeScalar))
            return
        }
        // SAFETY: the text is valid for the whole program, and `reserve` made room for it.
        let length = text.utf8CodeUnitCount
        unsafe reserve(length).update(from: text.utf8Start, count: length)
        count += length
    }

    /// Appends text.
    public func write(_ text: String) {
        var text = text
        // SAFETY: the buffer is alive through the call.
        text.withUTF8 { unsafe write($0) }
    }

    /// Appends bytes as they are.
    public func write(bytes: [UInt8]) {
        // SAFETY: the buffer is alive through the call.
        unsafe bytes.withUnsafeBufferPointer { unsafe write($0) }
    }

    /// Appends bytes as they are.
    public func write(bytes: some Sequence<UInt8>) {
        for byte in bytes { write(byte: byte) }
    }

    private func write(_ bytes: UnsafeBufferPointer<UInt8>) {
        guard let source = bytes.baseAddress else { return }
        // SAFETY: `reserve` made room for `bytes.count` bytes.
        unsafe reserve(bytes.count).update(from: source, count: bytes.count)
        count += bytes.count
    }

    /// Appends one byte.
    @inline(__always)
    public func write(byte: UInt8) {
        // SAFETY: `reserve` made room for it.
        unsafe reserve(1).pointee = byte
        count += 1
    }

    /// Appends a number in decimal.
    public func write(decimal value: UInt64) {
        var length = 1
        var power: UInt64 = 10
        while value >= power {
            length += 1
            let (next, overflow) = power.multipliedReportingOverflow(by: 10)
            if overflow { break }
            power = next
        }
        // SAFETY: 20 bytes hold every number; `length` is exact.
        let to = unsafe reserve(20)
        var rest = value
        var at = length
        while at > 0 {
            at -= 1
            let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: 10)
            unsafe to[at] = 0x30 + UInt8(truncatingIfNeeded: remainder)
            rest = quotient
        }
        count += length
    }

    /// Appends a number in lower-case hexadecimal, padded with zeros to at least `digits`.
    public func write(hex value: UInt64, digits: Int = 1) {
        let length = max(max(1, (67 - value.leadingZeroBitCount) / 4), digits)
        // SAFETY: `reserve` made room for `length` bytes.
        let to = unsafe reserve(length)
        for index in 0..<length {
            let shift = (length - 1 - index) * 4
            let nibble = shift > 60 ? 0 : UInt8(truncatingIfNeeded: value >> UInt64(shift)) & 0xF
            unsafe to[index] = nibble < 10 ? 0x30 + nibble : 0x57 + nibble
        }
        count += length
    }

    /// Hands everything to the kernel.
    public func flush() {
        guard let descriptor else { return }
        var start = 0
        while start < count, failure == 0 {
            // SAFETY: the range lies within the bytes that were written.
            let written = unsafe Glibc.write(descriptor, base + start, count - start)
            if written >= 0 {
                start += written
            } else if errno == EAGAIN {
                var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                // SAFETY: one descriptor, counted as one.
                _ = unsafe Glibc.poll(&poll, 1, -1)
            } else if errno != EINTR {
                failure = errno
            }
        }
        count = 0
    }
}
