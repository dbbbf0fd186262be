/// Reads a section of call frame information, never beyond the end it was given.
///
/// Every read gives nil where the bytes end too soon or a number does not fit.
struct CallFrameReader {
    let bytes: [UInt8]
    /// The offset in ``bytes`` of what is read next.
    var offset: Int
    /// Where the readable part ends.
    let end: Int

    init(_ bytes: [UInt8], _ range: Range<Int>) {
        self.bytes = bytes
        offset = min(range.lowerBound, bytes.count)
        end = min(range.upperBound, bytes.count)
    }

    var isAtEnd: Bool { offset >= end }

    mutating func byte() -> UInt8? {
        guard offset < end else { return nil }
        offset += 1
        return bytes[offset - 1]
    }

    /// A little-endian number of 1, 2, 4 or 8 bytes.
    mutating func unsigned(_ size: Int) -> UInt64? {
        guard size >= 0, size <= 8, size <= end - offset else { return nil }
        var value: UInt64 = 0
        for index in 0..<size { value |= UInt64(bytes[offset + index]) << UInt64(index * 8) }
        offset += size
        return value
    }

    /// The same, its sign extended.
    mutating func signed(_ size: Int) -> Int64? {
        guard let value = unsigned(size), size > 0 else { return nil }
        let unused = UInt64(64 - size * 8)
        return Int64(bitPattern: value << unused) >> unused
    }

    /// ULEB128 (DWARF 5, 7.6); bits beyond 64 are an error.
    mutating func uleb() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while let next = byte() {
            let part = UInt64(next & 0x7F)
            if shift < 64 {
                guard (part << shift) >> shift == part else { return nil }
                value |= part << shift
            } else if part != 0 {
                return nil
            }
            shift += 7
            if next & 0x80 == 0 { return value }
        }
        return nil
    }

    /// SLEB128 (DWARF 5, 7.6); bits beyond 64 are dropped.
    mutating func sleb() -> Int64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while let next = byte() {
            if shift < 64 { value |= UInt64(next & 0x7F) << shift }
            shift += 7
            if next & 0x80 == 0 {
                if next & 0x40 != 0, shift < 64 { value |= ~0 << shift }
                return Int64(bitPattern: value)
            }
        }
        return nil
    }

    /// A ULEB128 length, and as many bytes, which are skipped.
    mutating func block() -> Range<Int>? {
        guard let length = uleb(), length <= UInt64(max(0, end - offset)) else { return nil }
        let start = offset
        offset += Int(length)
        return start..<offset
    }

    /// Bytes up to a zero, which is skipped.
    mutating func string() -> [UInt8]? {
        guard offset < end, let stop = bytes[offset..<end].firstIndex(of: 0) else { return nil }
        let text = Array(bytes[offset..<stop])
        offset = stop + 1
        return text
    }
}
