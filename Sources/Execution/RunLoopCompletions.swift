internal import Guest
internal import KVM
internal import Machine
internal import Trace

extension RunLoop {
    /// What became of an instruction that KVM could not emulate.
    enum Completed {
        /// It was carried out: the guest runs on.
        case completed
        /// The listener had enough.
        case refused
    }

    /// Carries out the instruction of an exit in the CPU's place; nil where it is not.
    ///
    /// On replay the recorded changes are made, and those that would be made now are compared
    /// with them.
    @inline(never)
    mutating func complete<CPU, Side>(
        _ exit: Exit, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Completed?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let isSyscall = if case .debug = exit { mendsSyscall } else { false }
        guard isSyscall || exit.failedInstructionByteCount > 0, try side.completesInstruction()
        else { return nil }
        try settle(&cpu)
        let carriedOut: [Change]?
        if case .internalError(let error) = exit {
            carriedOut = try carryOut(error.instructionBytes, &cpu, memory: memory)
        } else {
            carriedOut = try syscall(&cpu, memory: memory)?.changes
        }
        guard let changes = try side.changesToMake(carriedOut) else { return nil }
        guard try side.completion(carriedOut ?? changes) else { return .refused }
        do throws(KVMError) { try cpu.apply(changes) } catch { throw .kvm(error) }
        for change in changes {
            switch change {
            case .memory(let address, let bytes):
                do throws(GuestError) { try memory.write(address, bytes[...]) } catch {
                    throw .guest(error)
                }
            case .event: exceptionCount = exitCount + 1
            case .noMemory: try guest { () throws(GuestError) in try memory.clear() }
            case .register, .systemWord, .msr, .extendedState, .debugWord, .extendedControl: break
            }
        }
        unansweredExit = nil
        return .completed
    }

    /// Nothing of a failed emulation is left to finish, so no further exit can come.
    private func settle<CPU: Processor & ~Copyable>(_ cpu: inout CPU) throws(ExecutionError) {
        do throws(KVMError) {
            guard case .settled = try cpu.settle() else {
                throw KVMError.malformed("a further exit after an instruction that failed")
            }
        } catch { throw .kvm(error) }
    }

    private func carryOut<CPU: Processor & ~Copyable>(
        _ delivered: [UInt8], _ cpu: inout CPU, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [Change]? {
        // SAFETY: the pointers are read at once.
        let registers = unsafe cpu.registersPointer.pointee
        let system = unsafe cpu.systemRegistersPointer.pointee
        // KVM may have fetched to the end of a page only.
        let seen = PageWalk.read(
            system.linearAddress(ofCode: registers.rip), count: 15, system: system, memory: memory)
        let bytes = seen.starts(with: delivered) ? seen : delivered
        guard let completion = InstructionCompletion(bytes, system: system) else { return nil }
        do throws(KVMError) {
            let extended = completion.needsExtendedState ? try cpu.extendedState() : nil
            return completion.changes(
                registers: registers, system: system, extended: extended, memory: memory)
        } catch { throw .kvm(error) }
    }
}

extension Exit {
    /// How many bytes of an instruction KVM delivered that it could not emulate.
    fileprivate var failedInstructionByteCount: Int {
        if case .internalError(let error) = self { error.instructionByteCount } else { 0 }
    }
}
