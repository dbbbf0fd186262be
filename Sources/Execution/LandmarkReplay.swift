internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Replaying interrupts between two exits: the run goes on to where the state is the landmark's.
extension RunLoop {
    /// Moves from one look at the clock to the next.
    private static let movesBetweenLooks = 64
    static let exhausted =
        "it did not come in \(LandmarkSearch.budgetNanoseconds / 1_000_000_000) s of the host CPU's time"

    /// Runs on to a landmark and injects what the tape has there, and to those that follow before
    /// the next exit.
    @inline(never)
    mutating func reach<CPU, Side>(
        _ first: Landmark, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        var next: Landmark? = first
        while let landmark = next {
            let isLeaving = side.isLeavingTape
            if let outcome = try reachOne(landmark, &cpu, &side, memory: memory) {
                return outcome
            }
            // Nothing has happened there that could end the run.
            if isLeaving { return nil }
            next = try side.landmark()
        }
        // A tape may end here: the guest never exited again, or the recorder was killed.
        return try outcome(&side, natural: nil, canWake: false, memory: memory)
    }

    /// Runs on to one landmark, and injects what the tape has there, or leaves the tape.
    mutating func reachOne<CPU, Side>(
        _ landmark: Landmark, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if let stored = landmark.stored {
            return try goToStored(stored, landmark, &cpu, &side, memory: memory)
        }
        var search = LandmarkSearch(landmark, pace: pace)
        search.isInterrupt = !side.isLeavingTape
        let found = try seek(&search, &cpu, &side, memory: memory)
        pace = search.end()
        midFlight.hits += search.hits
        midFlight.rejectedHits += search.rejectedHits
        midFlight.steps += search.steps
        midFlight.coasts += search.coasts
        switch found {
        case .stopped(let reason): return .stopped(reason, isInMidFlight: true)
        case .missed(let reason), .exhausted(let reason):
            return try miss(search, reason, &cpu, &side)
        case .found: break
        }
        // Where devices are run again, they knew CR8 as it is here.
        try synchroniseAPIC(cpu, &side)
        guard search.isInterrupt else {
            // No landmark of the trace that is recorded from here on: its pages stay those of the last.
            try side.leaveTape()
            return nil
        }
        cpu.markPages()
        isPagesMarked = true
        guard try inject(landmark, &cpu, &side) else { return .endedByListener }
        return nil
    }

    /// Ends a replay that does not come to a landmark, with what is known of it.
    func miss<CPU, Side>(
        _ search: LandmarkSearch, _ reason: String, _ cpu: inout CPU, _ side: inout Side
    ) throws(ExecutionError) -> LoopOutcome
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // SAFETY: the page's registers do not change before the next run.
        let last = unsafe cpu.registersPointer.pointee
        side.missed(
            LandmarkMiss(
                exitNumber: exitCount, landmark: search.landmark, reason: reason,
                registers: search.nearest ?? last,
                progress: try kvm { () throws(KVMError) in try cpu.progress() },
                hits: search.hits, rejectedHits: search.rejectedHits,
                difference: search.difference))
        return .endedByListener
    }

    /// Searches, and once more from where the search began if the guest ran past the place.
    private mutating func seek<CPU, Side>(
        _ search: inout LandmarkSearch, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        guard try isSettled(&cpu) else { return .missed("the exit before it goes on") }
        try cpu.keepPlace(memory)
        let found = try find(&search, &cpu, &side, memory: memory)
        guard case .missed = found, try cpu.returnToPlace(memory) else {
            return try disarmed(found, &cpu)
        }
        midFlight.repairs += 1
        search.beginAgain()
        return try disarmed(try find(&search, &cpu, &side, memory: memory), &cpu)
    }

    /// What a search came to, with nothing armed: a miss leaves what was when the guest exited.
    private func disarmed<CPU: Processor & ~Copyable>(
        _ found: Found, _ cpu: inout CPU
    ) throws(ExecutionError) -> Found {
        if case .missed = found {
            try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        }
        return found
    }

    /// What came of looking for a landmark's place.
    enum Found {
        /// The CPU stands at it.
        case found
        /// It is behind, or does not come.
        case missed(String)
        /// It took too long: another search would too.
        case exhausted(String)
        case stopped(StopReason)
    }

    /// Settles a vCPU at which no further exit is expected.
    func isSettled<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) -> Bool {
        while true {
            let step = try kvm { () throws(KVMError) in try cpu.settle() }
            switch step {
            case .settled: return true
            case .exit(let exit): guard Self.isUncounted(exit) else { return false }
            }
        }
    }

    private mutating func find<CPU, Side>(
        _ search: inout LandmarkSearch, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let landmark = search.landmark
        let counts = landmark.progress != nil && hasCounter
        var armed = GuestDebug.off
        var moves = 0
        let began = HostThread.ownNanoseconds()
        // SAFETY: the page's registers do not change before the next run.
        let first = unsafe cpu.systemRegistersPointer.pointee
        let address = PageWalk.linearRIP(landmark.registers.rip, system: first)
        let breakpoint = GuestDebug.Breakpoint(address)
        // Where KVM's breakpoints do not stop ring 3, the last stretch to a place that ring 3 can
        // reach is stepped.
        search.mayBeInRing3 =
            usesRing3Stops
            && Ring3Stops.place(address.rawValue, system: first, memory: memory) != nil
        var isAtBreakpoint = false
        var isFromStop = false
        var stepped: (trace: StepTrace, count: UInt64?, isFromStop: Bool)?
        while true {
            let count = counts ? try kvm { () throws(KVMError) in try cpu.progress() } : nil
            if let step = stepped.take() {
                try hide(step, count: count, isAtStop: isFromStop, &cpu, memory)
            }
            // SAFETY: the page's registers do not change before the next run.
            let registers = unsafe cpu.registersPointer.pointee
            search.notePlace(registers, count: count)
            if search.matches(registers) {
                if search.isElsewhere(count: count) {
                    search.noteRejectedHit(nil)
                } else if let found = try whole(&search, &armed, &cpu, memory) {
                    return found
                }
            }
            moves += 1
            if moves % Self.movesBetweenLooks == 0,
                HostThread.ownNanoseconds() &- began > LandmarkSearch.budgetNanoseconds
            {
                try disarm(&armed, &cpu)
                return .exhausted(Self.exhausted)
            }
            // SAFETY: the page's registers do not change before the next run.
            let system = unsafe cpu.systemRegistersPointer.pointee
            let isRing3 = usesRing3Stops && system.cpl == 3
            var move = search.next(
                count: count, isAtBreakpoint: isAtBreakpoint, isFlat: system.mode == .long,
                isRing3: isRing3)
            if case .step = move, usesRing3Stops, !isRing3,
                ReturnToRing3.isNext(registers, system: system, memory: memory)
            {
                // A step does not stop behind it, and would reach the guest as an exception.
                move = search.returnToRing3(count: count)
            }
            var wanted = GuestDebug.off
            switch move {
            case .giveUp:
                try disarm(&armed, &cpu)
                return .missed("the guest ran past it")
            case .coast(_, let isGuarded): if isGuarded { wanted.breakpoints = [breakpoint] }
            case .step: wanted.singleStep = true
            case .runToBreakpoint: wanted.breakpoints = [breakpoint]
            case .runInRing3(let stopsThere):
                guard try isSettled(&cpu) else { return .missed("an exit comes before it") }
                try disarm(&armed, &cpu)
                let found = try runInRing3(
                    &search, stopsThere: stopsThere, since: began, &cpu, memory)
                if let found { return found }
                isAtBreakpoint = false
                isFromStop = false
                continue
            }
            if wanted != armed {
                guard try isSettled(&cpu) else { return .missed("an exit comes before it") }
                try kvm { () throws(KVMError) in try cpu.setGuestDebug(wanted) }
                armed = wanted
            }
            if case .coast(let nanoseconds, _) = move {
                try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: nanoseconds) }
            }
            if armed.singleStep {
                stepped = (StepTrace(registers: registers, system: system), count, isFromStop)
            }
            let entered = HostThread.monotonicNanoseconds()
            let result = try kvm { () throws(KVMError) in try cpu.run() }
            isAtBreakpoint = false
            isFromStop = false
            switch result {
            case .interrupted:
                _ = cpu.acknowledgeKick()
                if let reason = stop.reason, stop.isInsistent {
                    try disarm(&armed, &cpu)
                    return .stopped(reason)
                }
            case .exit(.debug):
                isAtBreakpoint = armed.singleStep == false
                isFromStop = true
            case .exit(let exit):
                if Self.isUncounted(exit) { continue }
                return .missed("the guest exits before it (\(exit.reason.name))")
            }
            if case .coast = move {
                try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: 0) }
                _ = cpu.acknowledgeKick()
                let now = try kvm { () throws(KVMError) in try cpu.progress() } ?? 0
                // A slice that the breakpoint cut short says nothing of the kick.
                if isAtBreakpoint, now == count { continue }
                search.noteCoast(
                    nanoseconds: HostThread.monotonicNanoseconds() &- entered,
                    instructions: now &- (count ?? now), wasInRing3: isRing3)
            }
        }
    }

    /// Takes back what a step shows in the guest.
    private func hide<CPU: Processor & ~Copyable>(
        _ step: (trace: StepTrace, count: UInt64?, isFromStop: Bool), count: UInt64?,
        isAtStop: Bool, _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        guard isAtStop else {
            step.trace.hide(memory)
            return
        }
        var counted: UInt64?
        if let count, let before = step.count { counted = count &- before }
        try kvm { () throws(KVMError) in
            try step.trace.hideAll(
                &cpu, memory, counted: counted, isFromStop: step.isFromStop)
        }
    }

    /// The registers are the landmark's: whether the rest of the state is too. Nil: it is not.
    private mutating func whole<CPU: Processor & ~Copyable>(
        _ search: inout LandmarkSearch, _ armed: inout GuestDebug, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found? {
        let landmark = search.landmark
        guard try isSettled(&cpu) else { return .missed("an exit comes at it") }
        let state = try kvm { () throws(KVMError) in try MachineState(&cpu, memory) }
        guard state.digest == landmark.state else {
            search.noteRejectedHit(
                LandmarkDifference(
                    landmark.parts, state,
                    changedPages: isPagesMarked ? cpu.changedPages() : nil))
            return nil
        }
        search.noteHit()
        try disarm(&armed, &cpu)
        try kvm { () throws(KVMError) in
            try cpu.restoreFlags(landmark.registers[.rflags])
        }
        guard !search.isInterrupt || cpu.isReadyForInterrupt else {
            return .missed("the CPU would not take the interrupt there")
        }
        return .found
    }

    private func disarm<CPU: Processor & ~Copyable>(
        _ armed: inout GuestDebug, _ cpu: inout CPU
    ) throws(ExecutionError) {
        guard armed != .off, try isSettled(&cpu) else { return }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        armed = .off
    }
}
