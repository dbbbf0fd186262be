internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Replaying interrupts in ring 3 where KVM's breakpoints and steps do not reach it.
extension RunLoop {
    /// How long ring 3 runs without a stop until the clock is looked at.
    private static let ring3Look: UInt64 = 1_000_000_000

    /// Runs ring 3 to where the search's landmark may be, or to where it enters ring 0; nil: it stands
    /// there.
    ///
    /// - Parameter stopsThere: the landmark may be in this stretch.
    mutating func runInRing3<CPU: Processor & ~Copyable>(
        _ search: inout LandmarkSearch, stopsThere: Bool, since began: UInt64, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Found? {
        var stops = Ring3Stops()
        try kvm { () throws(KVMError) in try stops.park(&cpu) }
        let stop: Ring3Stops.Stop?
        do throws(ExecutionError) {
            stop = try runInRing3(
                &search, to: stopsThere ? search.landmark.registers.rip : nil, since: began, &stops,
                &cpu, memory)
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
        case .kicked: return .exhausted(Self.exhausted)
        case .breakpoint, .stepped, .touched: return nil
        case .raised(let vector): return try enterRing0(vector, &cpu, memory)
        case .exit(let exit): return .missed("the guest exits before it (\(exit.reason.name))")
        case nil: return .stopped(self.stop.reason ?? .user)
        }
    }

    private mutating func runInRing3<CPU: Processor & ~Copyable>(
        _ search: inout LandmarkSearch, to rip: UInt64?, since began: UInt64,
        _ stops: inout Ring3Stops, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Ring3Stops.Stop? {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: Self.ring3Look) }
        if let rip { _ = try stops.plant(rip, system: system, memory: memory) }
        // It stands at the very place already, in another state: on to the next time.
        var isStep = unsafe system.cpl == 3 && cpu.registersPointer.pointee.rip == rip
        // It was stopped there.
        var isThere = false
        while true {
            let stop =
                isThere
                ? try stops.leave(&cpu, memory)
                : isStep ? try stops.step(&cpu, memory) : try stops.run(&cpu, memory)
            midFlight.ring3Stops += 1
            switch stop {
            case .breakpoint, .stepped:
                isStep = false
                // Behind a step too: in a loop of one instruction, or a REP.
                isThere = unsafe cpu.registersPointer.pointee.rip == rip
                // What is another state is left at once: putting the table in force takes longer.
                if isThere, try !isElsewhere(&search, &stops, &cpu, memory) { return stop }
            case .touched, .raised: return stop
            case .exit(let exit):
                if Self.isUncounted(exit) { continue }
                return stop
            case .kicked:
                _ = cpu.acknowledgeKick()
                if self.stop.reason != nil, self.stop.isInsistent { return nil }
                guard HostThread.ownNanoseconds() &- began < LandmarkSearch.budgetNanoseconds else {
                    return stop
                }
                try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: Self.ring3Look) }
            }
        }
    }

    /// Whether the guest, which stands at the landmark's instruction, is in another state.
    private mutating func isElsewhere<CPU: Processor & ~Copyable>(
        _ search: inout LandmarkSearch, _ stops: inout Ring3Stops, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        // The counter stands still here.
        search.notePlace(registers, count: nil)
        guard search.matches(registers) else { return true }
        let digest = try stops.memoryDigest(&cpu, memory)
        let changed = isPagesMarked ? cpu.changedPages() : nil
        let parts = search.landmark.parts
        // What differs in RAM no less than the nearest place so far is not looked at further.
        if let parts, let nearest = search.difference, digest.low != parts.memory,
            LandmarkDifference(inMemory: parts, changedPages: changed).weight >= nearest.weight
        {
            search.noteRejectedHit(nil)
            return true
        }
        let state = try kvm { () throws(KVMError) in
            MachineState(
                registers: registers, processor: try stops.stateDigest(&cpu), memory: digest)
        }
        guard state.digest != search.landmark.state else { return false }
        search.noteRejectedHit(LandmarkDifference(parts, state, changedPages: changed))
        return true
    }

    /// Lets ring 3 raise its exception, and runs to the first instruction of the handler.
    func enterRing0<CPU: Processor & ~Copyable>(
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
}
