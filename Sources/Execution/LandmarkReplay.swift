internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Replaying interrupts between two exits: the run goes on to where the state is the landmark's.
extension RunLoop {
    /// How long ring 3 may run from one stop to the next: a recording stops it within milliseconds.
    private static let ring3Bound: UInt64 = 20_000_000_000

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
        var search = LandmarkSearch(landmark)
        search.isInterrupt = !side.isLeavingTape
        var armed = GuestDebug.off
        let found = try find(&search, &armed, &cpu, &side, memory: memory)
        midFlight.hits += search.hits
        midFlight.rejectedHits += search.rejectedHits
        midFlight.steps += search.steps
        midFlight.coasts += search.coasts
        switch found {
        case .stopped(let reason): return .stopped(reason, isInMidFlight: true)
        case .missed(let reason):
            // SAFETY: the page's registers do not change before the next run.
            let last = unsafe cpu.registersPointer.pointee
            side.missed(
                LandmarkMiss(
                    exitNumber: exitCount, landmark: landmark, reason: reason,
                    registers: search.nearest ?? last,
                    progress: try kvm { () throws(KVMError) in try cpu.progress() },
                    hits: search.hits, rejectedHits: search.rejectedHits))
            return .endedByListener
        case .found: break
        }
        // Where devices are run again, they knew CR8 as it is here.
        try synchroniseAPIC(cpu, &side)
        guard search.isInterrupt else {
            try side.leaveTape()
            return nil
        }
        let vector = try side.acknowledgeInterrupt()
        guard
            try side.interruption(
                Interruption(.external, vector: vector, landmark: landmark))
        else { return .endedByListener }
        try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        midFlight.landmarks += 1
        return nil
    }

    /// What came of looking for a landmark's place.
    private enum Found {
        /// The CPU stands at it.
        case found
        case missed(String)
        case stopped(StopReason)
    }

    /// Settles a vCPU at which no further exit is expected.
    private func isSettled<CPU: Processor & ~Copyable>(
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
        _ search: inout LandmarkSearch, _ armed: inout GuestDebug, _ cpu: inout CPU,
        _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let landmark = search.landmark
        let counts = landmark.progress != nil && hasCounter
        guard try isSettled(&cpu) else { return .missed("the exit before it goes on") }
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
        while true {
            let count = counts ? try kvm { () throws(KVMError) in try cpu.progress() } : nil
            // SAFETY: the page's registers do not change before the next run.
            let registers = unsafe cpu.registersPointer.pointee
            search.notePlace(registers, count: count)
            if search.matches(registers) {
                switch try whole(&search, &armed, &cpu, memory) {
                case .found: return .found
                case .missed(let reason): return .missed(reason)
                case .stopped(let reason): return .stopped(reason)
                case nil: break
                }
            }
            // SAFETY: the page's registers do not change before the next run.
            let system = unsafe cpu.systemRegistersPointer.pointee
            let isRing3 = usesRing3Stops && counts && system.cpl == 3
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
                    to: stopsThere ? landmark.registers.rip : nil, &cpu, memory)
                if let found { return found }
                isAtBreakpoint = false
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
            let began = HostThread.monotonicNanoseconds()
            let result = try kvm { () throws(KVMError) in try cpu.run() }
            isAtBreakpoint = false
            switch result {
            case .interrupted:
                _ = cpu.acknowledgeKick()
                if let reason = stop.reason, stop.isInsistent {
                    try disarm(&armed, &cpu)
                    return .stopped(reason)
                }
            case .exit(.debug): isAtBreakpoint = armed.singleStep == false
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
                    nanoseconds: HostThread.monotonicNanoseconds() &- began,
                    instructions: now &- (count ?? now), wasInRing3: isRing3)
            }
        }
    }

    /// The registers are the landmark's: whether the rest of the state is too. Nil: it is not.
    private mutating func whole<CPU: Processor & ~Copyable>(
        _ search: inout LandmarkSearch, _ armed: inout GuestDebug, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found? {
        let landmark = search.landmark
        guard try isSettled(&cpu) else { return .missed("an exit comes at it") }
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        let state = try kvm { () throws(KVMError) in
            try Self.wholeState(&cpu, registers, memory)
        }
        let isWhole = state == landmark.state
        search.noteHit(isWhole: isWhole)
        guard isWhole else { return nil }
        try disarm(&armed, &cpu)
        try kvm { () throws(KVMError) in
            try cpu.restoreFlags(landmark.registers[.rflags])
        }
        guard !search.isInterrupt || cpu.isReadyForInterrupt else {
            return .missed("the CPU would not take the interrupt there")
        }
        return .found
    }

    /// Runs ring 3 to a place of its code, or to where it enters ring 0; nil: it stands there.
    private mutating func runInRing3<CPU: Processor & ~Copyable>(
        to rip: UInt64?, _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found? {
        var stops = Ring3Stops()
        try kvm { () throws(KVMError) in try stops.park(&cpu) }
        let stop: Ring3Stops.Stop?
        do throws(ExecutionError) {
            stop = try runInRing3(to: rip, &stops, &cpu, memory)
        } catch {
            try stops.unpark(&cpu, memory)
            throw error
        }
        try stops.unpark(&cpu, memory)
        try kvm { () throws(KVMError) in
            try cpu.armKick(nanoseconds: 0)
            _ = cpu.acknowledgeKick()
        }
        switch stop {
        case .kicked: return .missed("ring 3 runs on and on without coming to it")
        case .breakpoint, .stepped: return nil
        case .raised(let vector): return try enterRing0(vector, &cpu, memory)
        case .exit(let exit): return .missed("the guest exits before it (\(exit.reason.name))")
        case nil: return .stopped(self.stop.reason ?? .user)
        }
    }

    private mutating func runInRing3<CPU: Processor & ~Copyable>(
        to rip: UInt64?, _ stops: inout Ring3Stops, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Ring3Stops.Stop? {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: Self.ring3Bound + 1) }
        if let rip { _ = try stops.plant(rip, system: system, memory: memory) }
        // It stands at the very place already, in another state: on to the next time.
        var isStep = unsafe system.cpl == 3 && cpu.registersPointer.pointee.rip == rip
        let began = HostThread.monotonicNanoseconds()
        while true {
            let stop =
                isStep ? try stops.step(&cpu, memory) : try stops.run(&cpu, memory)
            midFlight.ring3Stops += 1
            switch stop {
            case .stepped:
                isStep = false
                // In a loop of one instruction, or a REP.
                if unsafe cpu.registersPointer.pointee.rip == rip { return stop }
            case .breakpoint, .raised: return stop
            case .exit(let exit):
                if Self.isUncounted(exit) { continue }
                return stop
            case .kicked:
                _ = cpu.acknowledgeKick()
                if self.stop.reason != nil, self.stop.isInsistent { return nil }
                if HostThread.monotonicNanoseconds() &- began > Self.ring3Bound { return stop }
            }
        }
    }

    /// Lets ring 3 raise its exception, and runs to the first instruction of the handler.
    private func enterRing0<CPU: Processor & ~Copyable>(
        _ vector: UInt8, _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found? {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        guard let handler = PageWalk.handler(of: vector, system: system, memory: memory) else {
            return .missed("ring 3 raises exception \(vector), for which there is no handler")
        }
        guard try isSettled(&cpu) else { return .missed("an exit comes before it") }
        try kvm { () throws(KVMError) in
            try cpu.setGuestDebug(
                GuestDebug(breakpoints: [.init(GuestVirtualAddress(handler))]))
        }
        var found: Found?
        run: while true {
            switch try kvm({ () throws(KVMError) in try cpu.run() }) {
            case .interrupted:
                _ = cpu.acknowledgeKick()
                guard let reason = stop.reason, stop.isInsistent else { continue }
                found = .stopped(reason)
                break run
            case .exit(.debug): break run
            case .exit(let exit):
                if Self.isUncounted(exit) { continue }
                return .missed("the guest exits before it (\(exit.reason.name))")
            }
        }
        guard try isSettled(&cpu) else { return .missed("an exit comes before it") }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        return found
    }

    private func disarm<CPU: Processor & ~Copyable>(
        _ armed: inout GuestDebug, _ cpu: inout CPU
    ) throws(ExecutionError) {
        guard armed != .off, try isSettled(&cpu) else { return }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        armed = .off
    }
}
