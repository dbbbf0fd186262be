internal import CElf

/// Carries out call frame instructions (DWARF 5, 6.4.2 and 6.4.3) up to an address.
///
/// libdw has an interpreter of its own, but one that makes room for whatever register a program names:
/// 1 GiB for register 2^26, measured with version 0.188. Images come from guests; here every number is
/// bounded, and each instruction takes at least a byte, so that a program ends where its bytes do.
struct CallFrameProgram {
    let common: CallFrameCommon
    let machine: CallFrameMachine
    /// The address as linked whose rules are wanted.
    let address: UInt64
    private var location: UInt64
    private(set) var rules: CallFrameRules
    /// What the common part said, for the instructions that go back to it.
    private var initial: CallFrameRules?
    private var remembered: [CallFrameRules] = []

    /// Deeper nesting is damage: compilers remember one state, shrink-wrapped code two.
    private static let deepestNesting = 64

    init(
        _ common: CallFrameCommon, machine: CallFrameMachine, start: UInt64, address: UInt64
    ) {
        self.common = common
        self.machine = machine
        self.address = address
        location = start
        rules = CallFrameRules(machine)
    }

    /// The rules at the address: the common instructions, then the function's own as far as they
    /// speak of addresses up to it. Nil where an instruction makes no sense.
    mutating func run(_ function: Range<Int>, in bytes: [UInt8]) -> CallFrameRules? {
        var reader = CallFrameReader(bytes, common.instructions)
        while !reader.isAtEnd { guard step(&reader) == .next else { return nil } }
        initial = rules
        reader = CallFrameReader(bytes, function)
        while !reader.isAtEnd {
            switch step(&reader) {
            case .next: continue
            case .beyond: return rules
            case .damaged: return nil
            }
        }
        return rules
    }

    private enum Outcome { case next, beyond, damaged }

    private mutating func step(_ reader: inout CallFrameReader) -> Outcome {
        guard let opcode = reader.byte() else { return .damaged }
        let operand = UInt64(opcode & 0x3F)
        switch Int32(opcode & 0xC0) {
        case Int32(DW_CFA_advance_loc): return advance(operand)
        case Int32(DW_CFA_offset):
            return set(operand, reader.uleb().map { .offset(factored($0)) })
        case Int32(DW_CFA_restore): return restore(operand)
        default: break
        }
        switch Int32(opcode) {
        case Int32(DW_CFA_nop): return .next
        case Int32(DW_CFA_set_loc):
            guard let to = common.encoding.read(&reader) else { return .damaged }
            return move(to: to)
        case Int32(DW_CFA_advance_loc1): return advance(reader.unsigned(1))
        case Int32(DW_CFA_advance_loc2): return advance(reader.unsigned(2))
        case Int32(DW_CFA_advance_loc4): return advance(reader.unsigned(4))
        case Int32(DW_CFA_remember_state):
            guard remembered.count < Self.deepestNesting else { return .damaged }
            remembered.append(rules)
            return .next
        case Int32(DW_CFA_restore_state):
            guard let last = remembered.popLast() else { return .damaged }
            rules = last
            return .next
        case Int32(DW_CFA_GNU_args_size): return reader.uleb() == nil ? .damaged : .next
        default:
            if let outcome = stepCanonicalAddress(opcode, &reader) { return outcome }
            return stepRegister(opcode, &reader)
        }
    }

    /// The instructions that define the canonical frame address.
    private mutating func stepCanonicalAddress(
        _ opcode: UInt8, _ reader: inout CallFrameReader
    ) -> Outcome? {
        switch Int32(opcode) {
        case Int32(DW_CFA_def_cfa):
            return define(reader.uleb(), reader.uleb().map(Int64.init(bitPattern:)))
        case Int32(DW_CFA_def_cfa_sf): return define(reader.uleb(), reader.sleb().map(factored))
        case Int32(DW_CFA_def_cfa_register):
            guard case .register(_, let offset) = rules.canonicalAddress else { return .damaged }
            return define(reader.uleb(), offset)
        case Int32(DW_CFA_def_cfa_offset):
            guard case .register(let number, _) = rules.canonicalAddress else { return .damaged }
            return define(UInt64(number), reader.uleb().map(Int64.init(bitPattern:)))
        case Int32(DW_CFA_def_cfa_offset_sf):
            guard case .register(let number, _) = rules.canonicalAddress else { return .damaged }
            return define(UInt64(number), reader.sleb().map(factored))
        case Int32(DW_CFA_def_cfa_expression):
            guard let block = reader.block() else { return .damaged }
            rules.canonicalAddress = .expression(block)
            return .next
        default: return nil
        }
    }

    /// The instructions that say where one register is.
    private mutating func stepRegister(
        _ opcode: UInt8, _ reader: inout CallFrameReader
    ) -> Outcome {
        guard let number = reader.uleb() else { return .damaged }
        switch Int32(opcode) {
        case Int32(DW_CFA_undefined): return set(number, .undefined)
        case Int32(DW_CFA_same_value): return set(number, .sameValue)
        case Int32(DW_CFA_restore_extended): return restore(number)
        case Int32(DW_CFA_offset_extended):
            return set(number, reader.uleb().map { .offset(factored($0)) })
        case Int32(DW_CFA_offset_extended_sf):
            return set(number, reader.sleb().map { .offset(factored($0)) })
        case Int32(DW_CFA_GNU_negative_offset_extended):
            return set(number, reader.uleb().map { .offset(0 &- factored($0)) })
        case Int32(DW_CFA_val_offset):
            return set(number, reader.uleb().map { .valueOffset(factored($0)) })
        case Int32(DW_CFA_val_offset_sf):
            return set(number, reader.sleb().map { .valueOffset(factored($0)) })
        case Int32(DW_CFA_register):
            guard let other = reader.uleb() else { return .damaged }
            return set(number, Int(exactly: other).map { .register($0) } ?? .undefined)
        case Int32(DW_CFA_expression): return set(number, reader.block().map { .expression($0) })
        case Int32(DW_CFA_val_expression):
            return set(number, reader.block().map { .valueExpression($0) })
        default: return .damaged
        }
    }

    private func factored(_ number: UInt64) -> Int64 { factored(Int64(bitPattern: number)) }

    private func factored(_ number: Int64) -> Int64 { number &* common.dataAlignment }

    private mutating func advance(_ delta: UInt64?) -> Outcome {
        guard let delta else { return .damaged }
        return move(to: location &+ delta &* common.codeAlignment)
    }

    private mutating func move(to next: UInt64) -> Outcome {
        // The common part is no place: it cannot move.
        guard initial != nil else { return .damaged }
        location = next
        return location > address ? .beyond : .next
    }

    private mutating func define(_ number: UInt64?, _ offset: Int64?) -> Outcome {
        guard let number, let offset else { return .damaged }
        // A register that is not among the general ones is no stack pointer that we know.
        rules.canonicalAddress =
            number < UInt64(machine.registers.count)
            ? .register(Int(number), offset: offset) : .unknown
        return .next
    }

    private mutating func set(_ number: UInt64, _ rule: CallFrameRules.Rule?) -> Outcome {
        guard let rule else { return .damaged }
        if number < UInt64(rules.registers.count) { rules.registers[Int(number)] = rule }
        return .next
    }

    private mutating func restore(_ number: UInt64) -> Outcome {
        guard let initial else { return .damaged }
        if number < UInt64(rules.registers.count) {
            rules.registers[Int(number)] = initial.registers[Int(number)]
        }
        return .next
    }
}
