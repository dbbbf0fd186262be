internal import Disassembly
internal import Machine

/// A near jump by a displacement, as 64-bit code has it without a prefix: all that it changes is RIP,
/// so that who stopped before it can go behind it without the CPU.
///
/// Intel SDM vol. 2, JMP and Jcc; appendix B.1.4.7 for the conditions.
struct NearJump {
    /// The longest form: 0F 8x and four bytes.
    static let maximumLength = 6

    /// When it jumps: the low half of the opcode's last byte; nil: always.
    private let condition: UInt8?
    private let target: UInt64
    private let next: UInt64

    /// Reads one from the code at an address; nil where the first bytes are none.
    init?(_ code: [UInt8], at address: UInt64, _ disassembler: Disassembler) {
        switch (code.first, code.dropFirst().first) {
        case (0xEB, _), (0xE9, _): condition = nil
        case (.some(let byte), _) where byte & 0xF0 == 0x70: condition = byte & 0xF
        case (0x0F, .some(let byte)) where byte & 0xF0 == 0x80: condition = byte & 0xF
        default: return nil
        }
        guard let flow = disassembler.flow(code.span, at: 0, address: address),
            let target = flow.target
        else { return nil }
        self.target = target
        next = address &+ UInt64(flow.length)
    }

    /// Where it leads.
    func destination(flags: UInt64) -> UInt64 { isTaken(flags) ? target : next }

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
