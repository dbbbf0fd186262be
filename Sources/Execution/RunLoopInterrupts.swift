internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Interrupts that are injected at an exit, and on the way there those that a replay comes to before.
extension RunLoop {
    /// Gives the CPU the interrupt that waits, if it can take it at this exit; else it waits on.
    ///
    /// What the exit left pending is finished first (DESIGN 4), since an interrupt before that
    /// would come in the middle of an instruction. That may take further exits, which are
    /// ordinary ones, and the same without an interrupt.
    @inline(never)
    mutating func deliver<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // What a step delivers shows that it was one.
        if handlerStep != nil { try endHandlerStep(&cpu, memory: memory) }
        if try side.landmark() == nil,
            let outcome = try deliverAtExit(&cpu, &side, memory: memory)
        {
            return outcome
        }
        // An interrupt in mid-flight may come first, or follow before the next exit.
        guard let landmark = try side.landmark() else { return nil }
        return try reach(landmark, &cpu, &side, memory: memory)
    }

    /// The part of ``deliver(_:_:memory:)`` that stays at the exit.
    mutating func deliverAtExit<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // An exception that is on its way is delivered first; the interrupt comes at a later exit.
        guard exitCount != exceptionCount else { return nil }
        let isNonMaskable = try side.hasNonMaskableInterrupt()
        // SAFETY: the page's registers do not change before the next run.
        let flags = unsafe cpu.registersPointer.pointee.rflags
        guard isNonMaskable || flags & FlagBits.interrupt != 0 else { return nil }
        settling: while true {
            let entered = Side.timestamp
            let settlement: Settlement
            do throws(KVMError) { settlement = try cpu.settle() } catch { throw .kvm(error) }
            guard case .exit(let exit) = settlement else { break settling }
            if Self.isUncounted(exit) { continue }
            if let outcome = try take(
                RunStep(exit, other: &other), &cpu, &side, memory: memory, entered: entered,
                returned: Side.timestamp)
            {
                return outcome
            }
        }
        if isNonMaskable {
            // KVM would keep one that the CPU cannot take now, and give it at a place that varies.
            // It waits for an exit at which the CPU can, and what is behind it waits too.
            guard try kvm({ () throws(KVMError) in try cpu.takesNonMaskableInterrupt() }) else {
                return nil
            }
            try side.acknowledgeNonMaskableInterrupt()
            guard try side.interruption(Interruption(.nmi, vector: 2)) else {
                return .endedByListener
            }
            try kvm { () throws(KVMError) in try cpu.nonMaskableInterrupt() }
        } else {
            guard cpu.isReadyForInterrupt, try side.hasInterrupt(), try side.landmark() == nil
            else { return nil }
            let vector = try side.acknowledgeInterrupt()
            guard try side.interruption(Interruption(.external, vector: vector)) else {
                return .endedByListener
            }
            try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        }
        // A tape may end here: the guest never exited again, or the recorder was killed.
        return try outcome(&side, natural: nil, canWake: false, memory: memory)
    }
}
