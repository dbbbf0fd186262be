internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// The guest is entered, and what it comes out with is dealt with.
extension TimeMachine {
    private static let fastestNanoseconds: UInt64 = 100
    /// How often a guest that runs is looked at: for an interruption, and for a keyframe.
    static let lookNanoseconds: UInt64 = 10_000_000

    enum Ran {
        /// An exit was taken; what it came to, if it was the last.
        case exit(Arrival?)
        /// A breakpoint or a step.
        case stopped
        /// The guest was interrupted; nothing is pending.
        case kicked
        /// It came to memory that is shielded.
        case shielded
    }

    mutating func run(slice: UInt64?) throws(ExecutionError) -> Ran {
        let before = slice == nil ? 0 : try ticks()
        let start = slice == nil ? 0 : HostThread.monotonicNanoseconds()
        let step: RunStep
        do throws(KVMError) {
            if let shield {
                let free = try shield.run(&machine.cpu, &loop.other, machine.memory)
                guard let free else { return .shielded }
                step = free
            } else {
                step = try machine.cpu.run(other: &loop.other)
            }
        } catch { throw .kvm(error) }
        switch step {
        case .interrupted:
            _ = machine.cpu.acknowledgeKick()
            isTimerSet = false
            standing = hasCounter || armed.singleStep ? .afterKick : .lost
            if slice != nil { noteSpeed(since: start, instructions: try ticks() &- before) }
            return .kicked
        case .other:
            if case .debug(let stop) = loop.other, try tape.nextRewriting() != stop.pc {
                if try loop.isSyscall(at: stop.pc, &machine.cpu, memory: machine.memory) { break }
                standing = .afterStop
                return .stopped
            }
            if RunLoop.isUncounted(loop.other) {
                standing = hasCounter || armed.singleStep ? .afterKick : .lost
                return .kicked
            }
        case .io, .mmio: break
        }
        return .exit(try take(step))
    }

    /// One step, which leaves no trace in the guest.
    mutating func runStep() throws(ExecutionError) -> Ran {
        let isFromStop = standing == .afterStop && hasCounter
        let count = try ticks()
        let trace = StepTrace(
            registers: machine.currentRegisters, system: machine.currentSystemRegisters)
        let ran = try run(slice: nil)
        guard case .stopped = ran else {
            trace.hide(machine.memory)
            return ran
        }
        let counted = try ticks() &- count
        try kvm { () throws(KVMError) in
            try trace.hideAll(
                &machine.cpu, machine.memory, counted: counted, isFromStop: isFromStop)
        }
        return ran
    }

    private mutating func noteSpeed(since start: UInt64, instructions: UInt64) {
        guard instructions >= 16 else { return }
        let each = (HostThread.monotonicNanoseconds() &- start) / instructions
        nanosecondsPerInstruction = max(
            Self.fastestNanoseconds, min(nanosecondsPerInstruction, each))
    }

    /// Answers an exit, and compares it; what the move comes to, if it was the last.
    @inline(__always)
    mutating func take(_ step: RunStep) throws(ExecutionError) -> Arrival? {
        let outcome = try loop.take(
            step, &machine.cpu, &tape, memory: machine.memory, entered: 0, returned: 0)
        replayedExits &+= 1
        if hasCounter {
            let before = spanStart
            do throws(KVMError) { spanStart = try machine.cpu.progress() ?? 0 } catch {
                throw .kvm(error)
            }
            lastSpan = spanStart &- before
        } else {
            lastSpan = steps
            steps = 0
        }
        standing = .atExit
        if loop.mendsSyscall, outcome == nil {
            try loop.watchSyscalls(&machine.cpu, isListenedTo: true, memory: machine.memory)
        }
        guard let outcome else { return nil }
        return try conclude(outcome)
    }

    /// Finishes what the last exit left pending; further exits are taken. What the move comes to, if
    /// one of them was the last.
    mutating func settle() throws(ExecutionError) -> Arrival? {
        while true {
            let settlement = try kvm { () throws(KVMError) in try machine.cpu.settle() }
            guard case .exit(let exit) = settlement else { return nil }
            // A step that ends with the instruction that was pending.
            if case .debug = exit { continue }
            if RunLoop.isUncounted(exit) { continue }
            if let arrival = try take(RunStep(exit, other: &loop.other)) { return arrival }
        }
    }

    /// Gives the CPU the interrupt that the tape has at this exit.
    mutating func deliver() throws(ExecutionError) -> Arrival? {
        let exits = loop.exitCount
        if let arrival = try settle() { return arrival }
        guard exits == loop.exitCount, ending == nil else { return nil }
        let place = tape.place
        let outcome = try loop.deliverAtExit(&machine.cpu, &tape, memory: machine.memory)
        if tape.place != place { standing = .afterKick }
        guard let outcome else { return nil }
        return try conclude(outcome)
    }

    mutating func setTimer(_ slice: UInt64?) throws(ExecutionError) {
        if began == nil { began = HostThread.monotonicNanoseconds() }
        guard slice != nil || !isTimerSet else { return }
        try kvm { () throws(KVMError) in
            try machine.cpu.armKick(nanoseconds: slice ?? Self.lookNanoseconds)
        }
        isTimerSet = true
    }

    /// Counts the time since the guest began to run freely.
    mutating func stopClock() {
        guard let start = began else { return }
        guestNanoseconds &+= HostThread.monotonicNanoseconds() &- start
        began = nil
    }

    /// Ends a move: nothing is armed, and what can be read holds good.
    mutating func comeToRest() throws(ExecutionError) {
        stopClock()
        if isTimerSet {
            try kvm { () throws(KVMError) in try machine.cpu.armKick(nanoseconds: 0) }
            isTimerSet = false
        }
        _ = machine.cpu.acknowledgeKick()
        if divergence == nil, ending == nil {
            _ = try settle()
        } else {
            try machine.cpu.abandon()
        }
        if armed != .off {
            try kvm { () throws(KVMError) in try machine.cpu.setGuestDebug(.off) }
            armed = .off
        }
        position = try here()
    }
}
