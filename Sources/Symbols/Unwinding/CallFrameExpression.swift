internal import CElf
internal import Machine

/// Evaluates the expressions of call frame information (DWARF 5, 2.5 and 6.4.2): a stack of
/// numbers, registers and memory. Bounded in depth and in steps, since branches can go back.
struct CallFrameExpression {
    let machine: CallFrameMachine
    /// What is added to addresses as linked.
    let bias: UInt64
    let registers: UnwindRegisters
    private var stack: [UInt64] = []

    private static let deepestStack = 64
    private static let mostSteps = 1024

    init(machine: CallFrameMachine, bias: UInt64, registers: UnwindRegisters) {
        self.machine = machine
        self.bias = bias
        self.registers = registers
    }

    /// The number on top of the stack at the end; nil where an operation is not known or not
    /// allowed here, a register is not known, or memory cannot be read.
    ///
    /// - Parameters:
    ///   - range: where the expression is in `bytes`.
    ///   - initial: what is on the stack at first: the canonical frame address, or nothing.
    ///   - word: reads a number of so many bytes from memory.
    mutating func value(
        of range: Range<Int>, in bytes: [UInt8], initial: UInt64?,
        word: (_ address: UInt64, _ size: Int) -> UInt64?
    ) -> UInt64? {
        stack = initial.map { [$0] } ?? []
        var reader = CallFrameReader(bytes, range)
        var steps = 0
        while !reader.isAtEnd {
            steps += 1
            guard steps <= Self.mostSteps, stack.count <= Self.deepestStack,
                let opcode = reader.byte(),
                step(opcode, &reader, start: range.lowerBound, word)
            else { return nil }
        }
        return stack.last.map(truncated)
    }

    private func truncated(_ number: UInt64) -> UInt64 {
        machine == .amd64 ? number : number & 0xFFFF_FFFF
    }

    private mutating func push(_ number: UInt64?) -> Bool {
        guard let number else { return false }
        stack.append(number)
        return true
    }

    private func register(_ number: UInt64) -> UInt64? {
        guard number < UInt64(machine.registers.count) else { return nil }
        return registers[machine.registers[Int(number)]]
    }

    private mutating func step(
        _ opcode: UInt8, _ reader: inout CallFrameReader, start: Int,
        _ word: (UInt64, Int) -> UInt64?
    ) -> Bool {
        switch Int32(opcode) {
        case Int32(DW_OP_nop): return true
        case Int32(DW_OP_lit0)...Int32(DW_OP_lit31):
            return push(UInt64(opcode) - UInt64(DW_OP_lit0))
        case Int32(DW_OP_breg0)...Int32(DW_OP_breg31):
            guard let offset = reader.sleb() else { return false }
            let base = register(UInt64(opcode) - UInt64(DW_OP_breg0))
            return push(base.map { truncated($0 &+ UInt64(bitPattern: offset)) })
        case Int32(DW_OP_bregx):
            guard let number = reader.uleb(), let offset = reader.sleb() else { return false }
            return push(register(number).map { truncated($0 &+ UInt64(bitPattern: offset)) })
        case Int32(DW_OP_addr): return push(reader.unsigned(machine.wordSize).map { $0 &+ bias })
        case Int32(DW_OP_deref): return dereference(UInt64(machine.wordSize), word)
        case Int32(DW_OP_deref_size): return dereference(reader.unsigned(1), word)
        case Int32(DW_OP_skip), Int32(DW_OP_bra):
            guard let distance = reader.signed(2) else { return false }
            if Int32(opcode) == Int32(DW_OP_bra) {
                guard let condition = stack.popLast() else { return false }
                if condition == 0 { return true }
            }
            let target = reader.offset + Int(distance)
            guard target >= start, target <= reader.end else { return false }
            reader.offset = target
            return true
        default:
            if let isConstant = pushConstant(opcode, &reader) { return isConstant }
            if let isDone = moveOnStack(opcode, &reader) { return isDone }
            return compute(opcode, &reader)
        }
    }

    private mutating func dereference(
        _ size: UInt64?, _ word: (UInt64, Int) -> UInt64?
    ) -> Bool {
        guard let size, (1...8).contains(size), let address = stack.popLast() else { return false }
        return push(word(truncated(address), Int(size)))
    }

    private mutating func pushConstant(
        _ opcode: UInt8, _ reader: inout CallFrameReader
    ) -> Bool? {
        switch Int32(opcode) {
        case Int32(DW_OP_const1u): push(reader.unsigned(1))
        case Int32(DW_OP_const2u): push(reader.unsigned(2))
        case Int32(DW_OP_const4u): push(reader.unsigned(4))
        case Int32(DW_OP_const8u), Int32(DW_OP_const8s): push(reader.unsigned(8))
        case Int32(DW_OP_const1s): push(reader.signed(1).map(UInt64.init(bitPattern:)))
        case Int32(DW_OP_const2s): push(reader.signed(2).map(UInt64.init(bitPattern:)))
        case Int32(DW_OP_const4s): push(reader.signed(4).map(UInt64.init(bitPattern:)))
        case Int32(DW_OP_constu): push(reader.uleb())
        case Int32(DW_OP_consts): push(reader.sleb().map(UInt64.init(bitPattern:)))
        default: nil
        }
    }

    private mutating func moveOnStack(
        _ opcode: UInt8, _ reader: inout CallFrameReader
    ) -> Bool? {
        let count = stack.count
        switch Int32(opcode) {
        case Int32(DW_OP_dup): return push(stack.last)
        case Int32(DW_OP_drop): return stack.popLast() != nil
        case Int32(DW_OP_over): return push(count >= 2 ? stack[count - 2] : nil)
        case Int32(DW_OP_pick):
            guard let index = reader.byte(), Int(index) < count else { return false }
            return push(stack[count - 1 - Int(index)])
        case Int32(DW_OP_swap):
            guard count >= 2 else { return false }
            stack.swapAt(count - 1, count - 2)
            return true
        case Int32(DW_OP_rot):
            guard count >= 3 else { return false }
            stack.insert(stack.removeLast(), at: count - 3)
            return true
        default: return nil
        }
    }

    private mutating func compute(_ opcode: UInt8, _ reader: inout CallFrameReader) -> Bool {
        guard let top = stack.popLast() else { return false }
        switch Int32(opcode) {
        case Int32(DW_OP_abs): return push(Int64(bitPattern: top).magnitude)
        case Int32(DW_OP_neg): return push(0 &- top)
        case Int32(DW_OP_not): return push(~top)
        case Int32(DW_OP_plus_uconst): return push(reader.uleb().map { top &+ $0 })
        default: break
        }
        guard let below = stack.popLast() else { return false }
        let (first, second) = (Int64(bitPattern: below), Int64(bitPattern: top))
        switch Int32(opcode) {
        case Int32(DW_OP_plus): return push(below &+ top)
        case Int32(DW_OP_minus): return push(below &- top)
        case Int32(DW_OP_mul): return push(below &* top)
        case Int32(DW_OP_div):
            let (quotient, isUndefined) = first.dividedReportingOverflow(by: second)
            return push(isUndefined ? nil : UInt64(bitPattern: quotient))
        case Int32(DW_OP_mod): return push(top == 0 ? nil : below % top)
        case Int32(DW_OP_and): return push(below & top)
        case Int32(DW_OP_or): return push(below | top)
        case Int32(DW_OP_xor): return push(below ^ top)
        case Int32(DW_OP_shl): return push(top < 64 ? below << top : 0)
        case Int32(DW_OP_shr): return push(top < 64 ? below >> top : 0)
        case Int32(DW_OP_shra):
            return push(UInt64(bitPattern: first >> Int64(min(top, 63))))
        case Int32(DW_OP_eq): return push(first == second ? 1 : 0)
        case Int32(DW_OP_ne): return push(first != second ? 1 : 0)
        case Int32(DW_OP_lt): return push(first < second ? 1 : 0)
        case Int32(DW_OP_le): return push(first <= second ? 1 : 0)
        case Int32(DW_OP_gt): return push(first > second ? 1 : 0)
        case Int32(DW_OP_ge): return push(first >= second ? 1 : 0)
        default: return false
        }
    }
}
