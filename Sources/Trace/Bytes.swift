// Little-endian access to raw bytes. Stores go where the caller has reserved room; loads of
// anything that came from outside go through `ByteReader`, which checks every bound.

extension UnsafeMutableRawPointer {
    /// Stores a number little-endian at `offset`, aligned or not.
    @inline(__always)
    func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        // SAFETY: the caller has reserved the bytes at `offset`; all our stores go into buffers
        // sized by the bounds in `Limits`.
        unsafe storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
}

extension UnsafeRawPointer {
    /// Loads a little-endian number from `offset`, aligned or not.
    @inline(__always)
    func get<T: FixedWidthInteger & BitwiseCopyable>(_: T.Type, at offset: Int) -> T {
        // SAFETY: the caller has checked that the bytes at `offset` exist.
        unsafe T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
    }
}

/// Reads untrusted bytes front to back; every read is checked against the end.
@safe
struct ByteReader {
    private let base: UnsafeRawPointer?
    private(set) var position: Int
    let end: Int
    private let what: StaticString

    /// Reads `bytes`, which must outlive the reader; `what` names them in errors.
    init(_ bytes: UnsafeRawBufferPointer, _ what: StaticString) {
        unsafe self.base = bytes.baseAddress
        self.position = 0
        self.end = bytes.count
        self.what = what
    }

    var remaining: Int { end - position }
    var isAtEnd: Bool { position == end }

    @inline(__always)
    mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type = T.self
    ) throws(Malformed) -> T {
        let size = MemoryLayout<T>.size
        guard remaining >= size, let base = unsafe base else { throw short() }
        // SAFETY: `size` bytes from `position` on lie before `end`.
        let value = unsafe base.get(T.self, at: position)
        position += size
        return value
    }

    /// An unsigned LEB128 number of at most ten bytes.
    @inline(__always)
    mutating func varint() throws(Malformed) -> UInt64 {
        guard position < end, let base = unsafe base else { throw short() }
        // SAFETY: `position` lies before `end`.
        let first = unsafe base.get(UInt8.self, at: position)
        if first < 0x80 {
            position += 1
            return UInt64(first)
        }
        return try longVarint()
    }

    private mutating func longVarint() throws(Malformed) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while shift < 70 {
            let byte = try integer(UInt8.self)
            let low = UInt64(byte & 0x7F)
            if shift == 63 && low > 1 { break }
            value |= low << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        throw Malformed("\(what): a number is longer than 64 bits")
    }

    /// A zigzag LEB128 difference, to be added with wrap-around.
    @inline(__always)
    mutating func difference() throws(Malformed) -> UInt64 {
        let value = try varint()
        return (value >> 1) ^ (0 &- (value & 1))
    }

    /// The next `count` bytes; valid as long as the bytes the reader was made of.
    @inline(__always)
    mutating func bytes(_ count: Int) throws(Malformed) -> UnsafeRawBufferPointer {
        guard count >= 0, remaining >= count else { throw short() }
        // SAFETY: the range was checked against `end`.
        let result = unsafe UnsafeRawBufferPointer(
            start: base.map { unsafe $0 + position }, count: count)
        position += count
        return unsafe result
    }

    mutating func skip(_ count: Int) throws(Malformed) {
        guard count >= 0, remaining >= count else { throw short() }
        position += count
    }

    /// `count` bytes of UTF-8; invalid sequences become replacement characters.
    mutating func string(_ count: Int) throws(Malformed) -> String {
        // SAFETY: the bytes are copied into the string before this returns.
        unsafe String(decoding: try bytes(count), as: UTF8.self)
    }

    func short() -> Malformed { Malformed("\(what): ends too early, at byte \(position)") }
}

/// A growable buffer of bytes that keeps its memory when it is emptied.
@safe
struct ByteBuffer: ~Copyable {
    private(set) var base: UnsafeMutableRawPointer
    private(set) var count = 0
    private var capacity: Int

    init(capacity: Int = 4096) {
        // SAFETY: owned here, freed in deinit.
        unsafe base = .allocate(byteCount: max(capacity, 16), alignment: 16)
        self.capacity = max(capacity, 16)
    }

    deinit {
        // SAFETY: allocated by init or `grow`, and not handed out.
        unsafe base.deallocate()
    }

    /// The bytes written so far; valid until the next change.
    var bytes: UnsafeRawBufferPointer {
        // SAFETY: `count` bytes were written.
        unsafe UnsafeRawBufferPointer(start: base, count: count)
    }

    mutating func removeAll() { count = 0 }

    /// Forgets all but the first `newCount` bytes, or takes bytes written through `reserve`.
    mutating func setCount(_ newCount: Int) {
        precondition(newCount <= capacity)
        count = newCount
    }

    /// Makes sure that `extra` more bytes fit and returns where they go.
    @inline(__always)
    @discardableResult
    mutating func reserve(_ extra: Int) -> UnsafeMutableRawPointer {
        if capacity - count < extra { grow(extra) }
        // SAFETY: within the capacity.
        return unsafe base + count
    }

    @inline(never)
    private mutating func grow(_ extra: Int) {
        let newCapacity = max(capacity * 2, count + extra)
        // SAFETY: the old memory holds `count` bytes, the new one more.
        let newBase = UnsafeMutableRawPointer.allocate(
            byteCount: newCapacity, alignment: 16)
        unsafe newBase.copyMemory(from: base, byteCount: count)
        unsafe base.deallocate()
        unsafe base = newBase
        capacity = newCapacity
    }

    @inline(__always)
    mutating func append<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        // SAFETY: `reserve` made the room.
        unsafe reserve(MemoryLayout<T>.size).put(value, at: 0)
        count += MemoryLayout<T>.size
    }

    @inline(__always)
    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        // SAFETY: `reserve` made the room; the source is not ours.
        unsafe reserve(bytes.count).copyMemory(from: source, byteCount: bytes.count)
        count += bytes.count
    }

    mutating func append(_ bytes: [UInt8]) {
        // SAFETY: the array outlives the copy.
        unsafe bytes.withUnsafeBytes { unsafe append($0) }
    }

    mutating func append(zeros: Int) {
        // SAFETY: `reserve` made the room.
        unsafe reserve(zeros).initializeMemory(as: UInt8.self, repeating: 0, count: zeros)
        count += zeros
    }

    @inline(__always)
    mutating func append(varint value: UInt64) {
        if value < 0x80 {
            append(UInt8(truncatingIfNeeded: value))
            return
        }
        var rest = value
        // SAFETY: a 64-bit number takes at most ten bytes.
        let to = unsafe reserve(10)
        var length = 0
        while rest >= 0x80 {
            unsafe to.put(UInt8(truncatingIfNeeded: rest) | 0x80, at: length)
            rest >>= 7
            length += 1
        }
        unsafe to.put(UInt8(truncatingIfNeeded: rest), at: length)
        count += length + 1
    }

    /// A difference (two's complement) as zigzag LEB128.
    @inline(__always)
    mutating func append(difference: UInt64) {
        let sign = UInt64(bitPattern: Int64(bitPattern: difference) >> 63)
        append(varint: (difference << 1) ^ sign)
    }

    /// Overwrites a number that was appended before.
    mutating func patch<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        precondition(offset + MemoryLayout<T>.size <= count)
        // SAFETY: just checked.
        unsafe base.put(value, at: offset)
    }

    /// The bytes as an array.
    func array() -> [UInt8] {
        // SAFETY: copied at once.
        unsafe Array(bytes)
    }
}
