internal import Disassembly
internal import Guest
internal import Machine
internal import Trace

extension InstructionCompletion {
    /// An instruction that is being carried out: the registers as they come to be, and what else
    /// changes.
    struct Work {
        private let instruction: DecodedInstruction
        let before: GeneralRegisters
        let system: SystemRegisters
        var after: GeneralRegisters
        /// What it raises.
        var event: Change?
        /// Changes of the extended state.
        var others: [Change] = []
        /// Changes of RAM.
        private var stores: [Change] = []

        init(instruction: DecodedInstruction, before: GeneralRegisters, system: SystemRegisters) {
            self.instruction = instruction
            self.before = before
            self.system = system
            after = before
            var next = before.rip &+ UInt64(instruction.length)
            // IP and EIP wrap around in their own width.
            switch system.mode {
            case .long: break
            case .real, .protected16: next &= 0xFFFF
            case .protected32: next &= 0xFFFF_FFFF
            case .compatibility: next &= system[.cs].db ? 0xFFFF_FFFF : 0xFFFF
            }
            after.rip = next
            // Set for one instruction at most (Intel SDM vol. 3, 18.3.1.1).
            after.rflags &= ~FlagBits.resume
        }

        /// CR0.EM and TS are clear, CR4.OSFXSR is set.
        var canUseSSE: Bool {
            system[.cr0] & (1 << 2 | 1 << 3) == 0 && system[.cr4] & (1 << 9) != 0
        }

        /// The width of an operand in bits.
        func width(_ index: Int) -> Int { instruction.operands[index].widthInBits }

        /// All changes in the order in which they are recorded: registers, RAM, extended state,
        /// event.
        func allChanges() -> [Change] {
            var changes: [Change] = []
            for register in Register.allCases where before[register] != after[register] {
                changes.append(.register(register, after[register]))
            }
            changes += stores
            changes += others
            if let event { changes.append(event) }
            return changes
        }

        /// An operand's value as it was before; nil where there is none.
        mutating func read(_ index: Int, _ memory: borrowing GuestMemory) -> UInt64? {
            guard index < instruction.operands.count else { return nil }
            let operand = instruction.operands[index]
            switch operand.place {
            case .immediate(let value): return value
            case .register(let register, let isHighByte):
                let value = isHighByte ? before[register] >> 8 : before[register]
                return operand.widthInBits < 64
                    ? value & ((1 << UInt64(operand.widthInBits)) - 1) : value
            case .memory:
                guard operand.widthInBits <= 64,
                    let place = place(operand, isWrite: false, memory),
                    let bytes = place.read(memory)
                else { return nil }
                stores += place.marks
                return Self.number(bytes[...])
            case .other: return nil
            }
        }

        /// Gives an operand a value; false where that would fault.
        mutating func write(
            _ index: Int, _ value: UInt64, _ memory: borrowing GuestMemory
        ) -> Bool {
            let operand = instruction.operands[index]
            switch operand.place {
            case .register(let register, isHighByte: false):
                switch operand.widthInBits {
                case 64: after[register] = value
                // In 64-bit mode the upper half becomes zero; elsewhere there is none.
                case 32: after[register] = value & 0xFFFF_FFFF
                case 16: after[register] = after[register] & ~0xFFFF | value & 0xFFFF
                default: return false
                }
                return true
            case .memory:
                guard operand.widthInBits <= 64, let place = place(operand, isWrite: true, memory)
                else { return false }
                stores += place.marks
                stores += place.write(Self.bytes(value, count: operand.widthInBits / 8))
                return true
            case .register, .immediate, .other: return false
            }
        }

        /// Reads a byte of an operand and forgets it; false where that would fault.
        mutating func touch(_ index: Int, _ memory: borrowing GuestMemory) -> Bool {
            guard index < instruction.operands.count else { return false }
            var operand = instruction.operands[index]
            operand.widthInBits = 8
            guard let place = place(operand, isWrite: false, memory) else { return false }
            stores += place.marks
            return true
        }

        /// CMPXCHG16B, which always writes: the new value, or the old one again.
        mutating func compareAndExchange(_ memory: borrowing GuestMemory) -> Bool {
            guard let operand = instruction.operands.first, operand.widthInBits == 128,
                let linear = linearAddress(operand, isWrite: true), linear & 15 == 0,
                let place = place(operand, isWrite: true, memory),
                let bytes = place.read(memory), bytes.count == 16
            else { return false }
            stores += place.marks
            let (low, high) = (Self.number(bytes[..<8]), Self.number(bytes[8...]))
            if low == before[.rax], high == before[.rdx] {
                after.rflags |= FlagBits.zero
                stores += place.write(
                    Self.bytes(before[.rbx], count: 8) + Self.bytes(before[.rcx], count: 8))
            } else {
                after.rflags &= ~FlagBits.zero
                after[.rax] = low
                after[.rdx] = high
            }
            return true
        }

        private func linearAddress(_ operand: Operand, isWrite: Bool) -> UInt64? {
            guard case .memory(let reference) = operand.place, operand.widthInBits >= 8 else {
                return nil
            }
            var registers = before
            registers.rip = after.rip
            return reference.linearAddress(
                count: operand.widthInBits / 8, isWrite: isWrite,
                addressWidth: instruction.addressWidth, registers: registers, system: system)
        }

        private func place(
            _ operand: Operand, isWrite: Bool, _ memory: borrowing GuestMemory
        ) -> OperandMemory? {
            guard let linear = linearAddress(operand, isWrite: isWrite) else { return nil }
            return OperandMemory(
                linear: linear, count: operand.widthInBits / 8, isWrite: isWrite,
                flags: before.rflags, system: system, memory: memory)
        }

        private static func number(_ bytes: ArraySlice<UInt8>) -> UInt64 {
            bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }

        private static func bytes(_ value: UInt64, count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        }
    }
}
