internal import Machine

/// A near jump by a displacement, as 64-bit code has it without a prefix: all that it changes is RIP,
/// so that who stopped before it can go behind it without the CPU.
///
/// Intel SDM vol. 2, JMP and Jcc; appendix B.1.4.7 for the conditions.
struct NearJump {
    /// The longest form: 0F 8x and four bytes.
    static let maximumLength = 6

    /// Which jump: the low half of the opcode's last byte; nil: JMP.
    private let condition: UInt8?
    private let length: Int
    private let displacement: Int64

    /// Reads one from code; nil where the first bytes are none.
    init?(_ code: [UInt8]) {
        let displacementBytes: Int
        switch (code.first, code.count > 1 ? code[1] : nil) {
        case (0xEB, _): (condition, length, displacementBytes) = (nil, 2, 1)
        case (0xE9, _): (condition, length, displacementBytes) = (nil, 5, 4)
        case (.some(let byte), _) where byte & 0xF0 == 0x70:
            (condition, length, displacementBytes) = (byte & 0xF, 2, 1)
        case (0x0F, .some(let byte)) where byte & 0xF0 == 0x80:
            (condition, length, displacementBytes) = (byte & 0xF, 6, 4)
        default: return nil
        }
        guard code.count >= length else { return nil }
        var value: UInt32 = 0
        for byte in code[..<length].suffix(displacementBytes).reversed() {
            value = value << 8 | UInt32(byte)
        }
        displacement =
            displacementBytes == 1
            ? Int64(Int8(truncatingIfNeeded: value)) : Int64(Int32(bitPattern: value))
    }

    /// Where it leads from an address.
    func target(from address: UInt64, flags: UInt64) -> UInt64 {
        let next = address &+ UInt64(length)
        return isTaken(flags) ? next &+ UInt64(bitPattern: displacement) : next
    }

    private func isTaken(_ flags: UInt64) -> Bool {
        guard let condition else { return true }
        let isSign = flags & FlagBits.sign != 0
        let isOverflow = flags & FlagBits.overflow != 0
        let isZero = flags & FlagBits.zero != 0
        let holds =
            switch condition >> 1 {
            case 0: isOverflow
            case 1: flags & FlagBits.carry != 0
            case 2: isZero
            case 3: isZero || flags & FlagBits.carry != 0
            case 4: isSign
            case 5: flags & FlagBits.parity != 0
            case 6: isSign != isOverflow
            default: isZero || isSign != isOverflow
            }
        // The low bit takes the opposite.
        return holds != (condition & 1 != 0)
    }
}
