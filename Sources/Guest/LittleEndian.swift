/// Bounds-checked reading of little-endian numbers: nil where the bytes end too soon.
struct LittleEndianReader {
    let bytes: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

    /// The 32-bit number at an offset from the start of the bytes.
    func word(at offset: Int) -> UInt32? {
        guard offset >= 0, bytes.count >= 4, offset <= bytes.count - 4 else { return nil }
        let at = bytes.startIndex + offset
        return UInt32(bytes[at]) | UInt32(bytes[at + 1]) << 8 | UInt32(bytes[at + 2]) << 16
            | UInt32(bytes[at + 3]) << 24
    }
}

extension LittleEndianReader {
    /// The 16-bit number at an offset from the start of the bytes.
    func half(at offset: Int) -> UInt16? {
        guard offset >= 0, bytes.count >= 2, offset <= bytes.count - 2 else { return nil }
        let at = bytes.startIndex + offset
        return UInt16(bytes[at]) | UInt16(bytes[at + 1]) << 8
    }
}

extension [UInt8] {
    /// Appends the bytes of a number, least significant first.
    mutating func append(littleEndian number: some FixedWidthInteger & UnsignedInteger) {
        for index in 0..<(number.bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: number >> (index * 8)))
        }
    }
}
