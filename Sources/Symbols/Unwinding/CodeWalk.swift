internal import Disassembly
internal import Machine

/// Follows the instructions of a function without call frame information to its RET or IRET, and
/// works out what they do to the stack: how an assembly routine gives back what it took says where
/// its caller's registers are.
///
/// A search, not a simulation: at a conditional branch both ways are tried, since any way out leaves
/// the stack as it was found. Each instruction is looked at once, and there is a bound on them.
struct CodeWalk {
    let evidence: StackEvidence
    /// Values that pushes and stores put on the stack on the way; nil for one that is not known.
    private typealias Stores = [(address: UInt64, value: UInt64?)]

    private struct State {
        var registers: UnwindRegisters
        var stores: Stores = []
    }

    /// How a function was left.
    struct WayOut {
        var registers: UnwindRegisters
        var context: UnwindContext
        var source: StackFrame.Source
    }

    private enum Outcome {
        case next(UInt64)
        case branch(UInt64, or: UInt64)
        case out(WayOut)
        case dead
    }

    private static let mostInstructions = 400
    private static let mostStores = 64

    private var context: UnwindContext { evidence.context }

    init(_ evidence: StackEvidence) { self.evidence = evidence }

    /// The registers of the caller, or of what was interrupted; nil where no way out was found
    /// whose return address stands after a call.
    func wayOut(from registers: UnwindRegisters, _ memory: UnwindMemory) -> WayOut? {
        guard let disassembler = context.disassembler, let start = registers[.rip] else {
            return nil
        }
        var seen: Set<UInt64> = []
        var open = [(at: start, state: State(registers: registers))]
        while var (at, state) = open.popLast() {
            while seen.count < Self.mostInstructions, seen.insert(at).inserted {
                let bytes = memory(
                    GuestVirtualAddress(context.code(at)), Disassembler.maximumLength)
                guard let instruction = disassembler.decodeOperands(bytes) else { break }
                let after = context.truncated(at &+ UInt64(instruction.length))
                let outcome = step(&state, instruction, after, memory)
                if case .out(let wayOut) = outcome { return wayOut }
                if case .next(let next) = outcome {
                    at = next
                } else if case .branch(let next, let other) = outcome {
                    open.append((other, state))
                    at = next
                } else {
                    break
                }
            }
        }
        return nil
    }

    // MARK: one instruction

    private func step(
        _ state: inout State, _ instruction: DecodedInstruction, _ after: UInt64,
        _ memory: UnwindMemory
    ) -> Outcome {
        let operands = instruction.operands
        switch instruction.mnemonic {
        case "ret": return leave(state, operands, memory)
        case "iret", "iretd", "iretq": return returnFromInterrupt(state, instruction, memory)
        case "ud2", "sysret", "sysexit", "int3": return .dead
        case "jmp":
            guard case .immediate(let distance)? = operands.first?.place else { return .dead }
            return .next(context.truncated(after &+ distance))
        case "call":
            for register in clobbered { state.registers[register] = nil }
            return .next(after)
        default: break
        }
        if instruction.mnemonic.first == "j" || instruction.mnemonic.hasPrefix("loop") {
            guard case .immediate(let distance)? = operands.first?.place else { return .dead }
            return .branch(after, or: context.truncated(after &+ distance))
        }
        let isKnown = moveStack(&state, instruction, memory) || compute(&state, instruction, memory)
        if !isKnown { forget(&state, instruction) }
        // Without the stack pointer there is nothing to find.
        return state.registers[.rsp] == nil ? .dead : .next(after)
    }

    /// What a function need not preserve (System V ABI).
    private var clobbered: [Register] {
        context.width == .bits64
            ? [.rax, .rcx, .rdx, .rsi, .rdi, .r8, .r9, .r10, .r11] : [.rax, .rcx, .rdx]
    }

    private func leave(_ state: State, _ operands: [Operand], _ memory: UnwindMemory) -> Outcome {
        var registers = state.registers
        guard let rsp = registers[.rsp], let to = load(rsp, context.wordSize, state, memory),
            evidence.isReturnAddress(to, memory)
        else { return .dead }
        var size = context.wordSize
        if case .immediate(let count)? = operands.first?.place { size &+= count & 0xFFFF }
        registers[.rip] = to
        registers[.rsp] = context.truncated(rsp &+ size)
        registers[.rflags] = nil
        return .out(WayOut(registers: registers, context: context, source: .followedCode))
    }

    private func returnFromInterrupt(
        _ state: State, _ instruction: DecodedInstruction, _ memory: UnwindMemory
    ) -> Outcome {
        // IRET with 16-bit operands is not followed.
        guard let rsp = state.registers[.rsp], context.width == .bits64 || instruction.length == 1,
            let frame = evidence.interruptFrame(at: rsp, memory)
        else { return .dead }
        return .out(
            WayOut(
                registers: frame.restored(state.registers), context: frame.context,
                source: .interruptReturn))
    }

    /// Instructions that push, pop or set up frames; false where it is none of them.
    private func moveStack(
        _ state: inout State, _ instruction: DecodedInstruction, _ memory: UnwindMemory
    ) -> Bool {
        guard let rsp = state.registers[.rsp] else { return false }
        let operand = instruction.operands.first
        // Segment registers and immediates take a whole word; only a 16-bit register does not.
        var size = context.wordSize
        if case .register? = operand?.place, operand?.widthInBits == 16 { size = 2 }
        switch instruction.mnemonic {
        case "push":
            let value = operand.flatMap { self.value(of: $0, state, memory) }
            push(&state, value, size)
        case "pop":
            let value = load(rsp, size, state, memory)
            state.registers[.rsp] = context.truncated(rsp &+ size)
            if let operand { store(&state, operand, value) }
        case "pushf", "pushfd", "pushfq": push(&state, nil, size)
        case "popf", "popfd", "popfq": state.registers[.rsp] = context.truncated(rsp &+ size)
        case "leave":
            guard let rbp = state.registers[.rbp] else {
                state.registers[.rsp] = nil
                break
            }
            state.registers[.rbp] = load(rbp, size, state, memory)
            state.registers[.rsp] = context.truncated(rbp &+ size)
        case "pushad":
            for register in Self.pushedByAll {
                push(&state, register == .rsp ? rsp : state.registers[register], size)
            }
        case "popad":
            for (index, register) in Self.pushedByAll.reversed().enumerated()
            where register != .rsp {
                state.registers[register] =
                    load(context.truncated(rsp &+ UInt64(index) * size), size, state, memory)
            }
            state.registers[.rsp] = context.truncated(rsp &+ 8 * size)
        default: return false
        }
        return true
    }

    /// The order of PUSHAD (Intel SDM vol. 2).
    private static let pushedByAll: [Register] = [.rax, .rcx, .rdx, .rbx, .rsp, .rbp, .rsi, .rdi]

    /// Moves and the arithmetic that is done on stack pointers; false where it is none of them.
    private func compute(
        _ state: inout State, _ instruction: DecodedInstruction, _ memory: UnwindMemory
    ) -> Bool {
        guard instruction.operands.count >= 2 else { return false }
        let (target, source) = (instruction.operands[0], instruction.operands[1])
        let value: UInt64?
        switch instruction.mnemonic {
        case "mov": value = self.value(of: source, state, memory)
        case "lea":
            guard case .memory(let reference) = source.place else { return false }
            value = address(of: reference, state)
        case "add", "sub", "and", "or", "xor":
            if instruction.mnemonic == "xor", target == source {
                value = 0
            } else if let a = self.value(of: target, state, memory),
                let b = self.value(of: source, state, memory)
            {
                switch instruction.mnemonic {
                case "add": value = a &+ b
                case "sub": value = a &- b
                case "and": value = a & b
                case "or": value = a | b
                default: value = a ^ b
                }
            } else {
                value = nil
            }
        default: return false
        }
        store(&state, target, value)
        return true
    }

    /// An instruction that is not followed: what it may have changed is no longer known.
    private func forget(_ state: inout State, _ instruction: DecodedInstruction) {
        if Self.changeNothing.contains(instruction.mnemonic) { return }
        for operand in instruction.operands.prefix(1) { store(&state, operand, nil) }
        if instruction.mnemonic == "xchg" {
            for operand in instruction.operands { store(&state, operand, nil) }
        }
        // What instructions change without naming it.
        for register in [Register.rax, .rbx, .rcx, .rdx, .rsi, .rdi] {
            state.registers[register] = nil
        }
    }

    private static let changeNothing: Set<String> = [
        "cmp", "test", "nop", "cli", "sti", "cld", "std", "clac", "stac", "swapgs", "hlt", "pause",
        "out", "endbr64", "endbr32", "wrmsr", "bt", "prefetch", "lfence", "mfence", "sfence",
        "verw",
    ]

    // MARK: places

    private func push(_ state: inout State, _ value: UInt64?, _ size: UInt64) {
        guard let rsp = state.registers[.rsp] else { return }
        let to = context.truncated(rsp &- size)
        state.registers[.rsp] = to
        keep(&state, to, value)
    }

    private func keep(_ state: inout State, _ offset: UInt64, _ value: UInt64?) {
        state.stores.removeAll { $0.address == offset }
        if state.stores.count == Self.mostStores { state.stores.removeFirst() }
        state.stores.append((offset, value))
    }

    /// A word of the stack, as stored on the way or as it is in memory.
    private func load(
        _ offset: UInt64, _ size: UInt64, _ state: State, _ memory: UnwindMemory
    ) -> UInt64? {
        if let known = state.stores.last(where: { $0.address == offset }) { return known.value }
        return readNumber(context.stack(offset), size, memory)
    }

    private func address(of reference: MemoryReference, _ state: State) -> UInt64? {
        var sum = UInt64(bitPattern: reference.displacement)
        if let base = reference.base {
            guard base != .rip, let value = state.registers[base] else { return nil }
            sum &+= value
        }
        if let index = reference.index {
            guard let value = state.registers[index] else { return nil }
            sum &+= value &* reference.scale
        }
        return context.truncated(sum)
    }

    private func value(
        of operand: Operand, _ state: State, _ memory: UnwindMemory
    ) -> UInt64? {
        switch operand.place {
        case .immediate(let value): return value
        case .register(let register, let isHighByte):
            guard !isHighByte, operand.widthInBits >= 32, let value = state.registers[register]
            else { return nil }
            return operand.widthInBits == 32 ? value & 0xFFFF_FFFF : value
        case .memory(let reference):
            // Other segments may begin elsewhere.
            guard [.ss, .ds].contains(reference.segment), [32, 64].contains(operand.widthInBits),
                let at = address(of: reference, state)
            else { return nil }
            return load(at, UInt64(operand.widthInBits / 8), state, memory)
        case .other: return nil
        }
    }

    private func store(_ state: inout State, _ operand: Operand, _ value: UInt64?) {
        switch operand.place {
        case .register(let register, _):
            // A narrow write leaves the rest; a 32-bit one clears it.
            let isWhole = operand.widthInBits >= 32
            state.registers[register] =
                isWhole ? value.map { operand.widthInBits == 32 ? $0 & 0xFFFF_FFFF : $0 } : nil
        case .memory(let reference):
            guard let at = address(of: reference, state) else { return }
            keep(&state, at, UInt64(operand.widthInBits / 8) == context.wordSize ? value : nil)
        case .immediate, .other: return
        }
    }
}

extension InterruptFrame {
    /// The registers of the interrupted code, the others as IRET leaves them.
    func restored(_ registers: UnwindRegisters) -> UnwindRegisters {
        var registers = registers
        registers[.rip] = rip
        registers[.rsp] = rsp
        registers[.rflags] = flags
        return registers
    }
}
