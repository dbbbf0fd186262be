internal import Machine

/// Instructions that compute a register from one or two operands and the flags; the raw value is
/// the mnemonic. What each does is in Intel's SDM vol. 2 under its name.
enum BitInstruction: String, CaseIterable {
    case popcnt, tzcnt, lzcnt, crc32, movbe
    case andn, bextr, blsi, blsmsk, blsr, bzhi, pdep, pext, rorx, sarx, shlx, shrx
    case adcx, adox

    /// Encoded with VEX: not to be had in real mode.
    var isVEX: Bool {
        switch self {
        case .andn, .bextr, .blsi, .blsmsk, .blsr, .bzhi, .pdep, .pext, .rorx, .sarx, .shlx, .shrx:
            true
        default: false
        }
    }

    /// How many operands it has, the destination included.
    var operandCount: Int {
        switch self {
        case .popcnt, .tzcnt, .lzcnt, .crc32, .movbe, .blsi, .blsmsk, .blsr, .adcx, .adox: 2
        default: 3
        }
    }

    /// The destination is a source too.
    var readsDestination: Bool { self == .crc32 || self == .adcx || self == .adox }

    /// Computes it.
    ///
    /// - Parameters:
    ///   - a: the first source, or the destination where that is one.
    ///   - b: the second source; 0 where there is one only.
    ///   - width: of the operation in bits; of CRC32, that of `b`.
    ///   - flags: RFLAGS; on return as they are after it. Flags that the manual calls undefined
    ///     stay as they were.
    /// - Returns: the result in its low `width` bits, zeros above.
    func compute(_ a: UInt64, _ b: UInt64, width: Int, flags: inout UInt64) -> UInt64 {
        let bits = UInt64(width)
        let mask = width == 64 ? UInt64.max : (1 << bits) - 1
        let a = self == .crc32 ? a : a & mask
        let b = b & mask
        func set(_ flag: UInt64, _ isSet: Bool) {
            flags = isSet ? flags | flag : flags & ~flag
        }
        func setZeroAndSign(_ result: UInt64) {
            set(FlagBits.zero, result == 0)
            set(FlagBits.sign, result >> (bits - 1) & 1 != 0)
        }
        let result: UInt64
        switch self {
        case .popcnt:
            result = UInt64(a.nonzeroBitCount)
            flags &= ~FlagBits.arithmetic
            set(FlagBits.zero, a == 0)
        case .tzcnt, .lzcnt:
            let unused =
                self == .lzcnt ? a.leadingZeroBitCount - (64 - width) : a.trailingZeroBitCount
            result = UInt64(min(width, unused))
            set(FlagBits.carry, a == 0)
            set(FlagBits.zero, result == 0)
        case .crc32:
            result = Self.crc32(UInt32(truncatingIfNeeded: a), b, byteCount: width / 8)
        case .movbe: result = a.byteSwapped >> (64 - bits)
        case .andn:
            result = ~a & b
            setZeroAndSign(result)
            flags &= ~(FlagBits.overflow | FlagBits.carry)
        case .bextr:
            let start = b & 0xFF
            let length = b >> 8 & 0xFF
            let shifted = start < 64 ? a >> start : 0
            result = length < 64 ? shifted & ((1 << length) - 1) : shifted
            flags &= ~(FlagBits.overflow | FlagBits.carry)
            set(FlagBits.zero, result == 0)
        case .blsi:
            result = a & (0 &- a)
            setZeroAndSign(result)
            set(FlagBits.carry, a != 0)
            set(FlagBits.overflow, false)
        case .blsmsk:
            result = (a ^ (a &- 1)) & mask
            setZeroAndSign(result)
            set(FlagBits.zero, false)
            set(FlagBits.carry, a == 0)
            set(FlagBits.overflow, false)
        case .blsr:
            result = a & (a &- 1)
            setZeroAndSign(result)
            set(FlagBits.carry, a == 0)
            set(FlagBits.overflow, false)
        case .bzhi:
            let index = b & 0xFF
            result = index < bits ? a & ((1 << index) - 1) : a
            setZeroAndSign(result)
            set(FlagBits.carry, index > bits - 1)
            set(FlagBits.overflow, false)
        case .pdep: result = Self.deposit(a, b)
        case .pext: result = Self.extract(a, b)
        case .rorx:
            let count = b & (bits - 1)
            result = (a >> count | (count == 0 ? 0 : a << (bits - count))) & mask
        case .sarx:
            let extended = Int64(bitPattern: a << (64 - bits)) >> Int64(64 - bits)
            result = UInt64(bitPattern: extended >> Int64(b & (bits - 1))) & mask
        case .shlx: result = a << (b & (bits - 1)) & mask
        case .shrx: result = a >> (b & (bits - 1))
        case .adcx, .adox:
            let flag = self == .adcx ? FlagBits.carry : FlagBits.overflow
            let carry: UInt64 = flags & flag != 0 ? 1 : 0
            let (sum, first) = a.addingReportingOverflow(b)
            let (total, second) = sum.addingReportingOverflow(carry)
            result = total & mask
            set(flag, width == 64 ? first || second : total > mask)
        }
        return result
    }

    /// CRC-32C, bits reflected, neither inverted before nor after.
    private static func crc32(_ start: UInt32, _ data: UInt64, byteCount: Int) -> UInt64 {
        var crc = start
        for index in 0..<byteCount {
            crc ^= UInt32(data >> UInt64(index * 8) & 0xFF)
            for _ in 0..<8 { crc = crc >> 1 ^ (crc & 1 != 0 ? 0x82F6_3B78 : 0) }
        }
        return UInt64(crc)
    }

    private static func deposit(_ source: UInt64, _ mask: UInt64) -> UInt64 {
        var (result, mask, next) = (UInt64(0), mask, source)
        while mask != 0 {
            if next & 1 != 0 { result |= mask & (0 &- mask) }
            next >>= 1
            mask &= mask &- 1
        }
        return result
    }

    private static func extract(_ source: UInt64, _ mask: UInt64) -> UInt64 {
        var (result, mask, bit) = (UInt64(0), mask, UInt64(1))
        while mask != 0 {
            if source & mask & (0 &- mask) != 0 { result |= bit }
            bit <<= 1
            mask &= mask &- 1
        }
        return result
    }
}
