/// The x87 tag word: FXSAVE keeps one bit for each physical register, FSAVE and gdb two (Intel SDM
/// vol. 1, 8.1.7 and 10.5.1.1).
enum TagWord {
    private static let empty: UInt16 = 3

    /// The full tag word of an FXSAVE area.
    static func full(_ state: FloatingPointState) -> UInt16 {
        let status = state[2..<4]
        let top = Int(status[1] >> 3 & 7)
        let valid = state[4..<5][0]
        var word: UInt16 = 0
        for physical in 0..<8 {
            let register = (physical - top + 8) % 8
            let tag =
                valid >> UInt8(physical) & 1 == 0
                ? empty : tag(of: state[32 + 16 * register..<42 + 16 * register])
            word |= tag << UInt16(physical * 2)
        }
        return word
    }

    /// The byte of FXSAVE for a full tag word.
    static func abridged(_ full: UInt16) -> UInt8 {
        var byte: UInt8 = 0
        for physical in 0..<8 where full >> UInt16(physical * 2) & 3 != empty {
            byte |= 1 << UInt8(physical)
        }
        return byte
    }

    /// 0 valid, 1 zero, 2 special (NaN, infinity, denormal, unsupported).
    private static func tag(of bytes: [UInt8]) -> UInt16 {
        let exponent = UInt16(bytes[9] & 0x7F) << 8 | UInt16(bytes[8])
        switch exponent {
        case 0x7FFF: return 2
        case 0: return bytes[..<8].allSatisfy { $0 == 0 } ? 1 : 2
        // Without the integer bit it is an unnormal.
        default: return bytes[7] & 0x80 != 0 ? 0 : 2
        }
    }
}
