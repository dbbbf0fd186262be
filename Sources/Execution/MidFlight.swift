internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Interrupts between two exits (DESIGN 2): the recorder injects where a kick found the guest and
/// writes down the state of the whole machine; the replay runs to where that state is reached.
///
/// None of this runs while no interrupt waits.
extension RunLoop {
    /// The first wait after a place that was not allowed; doubled from time to time.
    private static let retryNanoseconds: UInt64 = 20_000
    private static let retryDoublings = 6

    /// Kicks the vCPU after a time, for a look at what waits.
    @inline(never)
    mutating func armKick<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, nanoseconds: UInt64
    ) throws(ExecutionError) {
        try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: nanoseconds) }
        isKickArmed = true
    }

    /// A kick came while recording: injects what has waited too long, if the place is allowed.
    @inline(never)
    mutating func takeKick<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        isKickArmed = false
        // What a step delivers shows that it was one: not before the handler's first instruction.
        guard handlerStep == nil else {
            try armRetry(&cpu)
            return nil
        }
        if side.watchesSilence, let ending = try lookAtSilence(&cpu, &side) {
            return .ended(ending)
        }
        guard try side.hasOverdueInterrupt() else {
            if let delay = try side.kickDelay() { try armKick(&cpu, nanoseconds: delay) }
            return nil
        }
        if !Side.isListening {
            try refresh(&cpu)
        }
        // SAFETY: the page's registers do not change before the next run.
        let isRing3 = unsafe cpu.systemRegistersPointer.pointee.cpl == 3
        // What nobody listens to nobody will have to find again.
        var isPlace = try takesInterrupt(&cpu)
        var isStored = false
        if Side.isListening, isPlace {
            isPlace = isFindable(cpu, isRing3: isRing3)
            // What no replay finds on this host is stored.
            if !isPlace, isRing3, !isInREP(cpu) { (isPlace, isStored) = (true, true) }
        }
        if Side.isListening, isPlace, !isStored, isRing3 ? usesRing3Stops : movesInRing0(cpu) {
            switch try findColdPlace(isRing3: isRing3, &cpu, &side, memory: memory) {
            case .here: isPlace = try takesInterrupt(&cpu)
            case .hot:
                isPlace = try takesInterrupt(&cpu)
                isStored = true
            case .none: isPlace = false
            case .exited(let outcome):
                // The guest may not exit again.
                if outcome == nil, let delay = try side.kickDelay() {
                    try armKick(&cpu, nanoseconds: delay)
                }
                return outcome
            case .stopped(let reason): return .stopped(reason, isInMidFlight: true)
            }
            // What was passed on the way to a place in ring 0 may have been the return to ring 3.
            if isPlace, !isRing3 {
                let isNowRing3 = unsafe cpu.systemRegistersPointer.pointee.cpl == 3
                isPlace = isFindable(cpu, isRing3: isNowRing3)
            }
        }
        guard isPlace else {
            midFlight.refusedPlaces += 1
            if isRing3 { midFlight.refusedInRing3 += 1 }
            attempts += 1
            try armRetry(&cpu)
            return nil
        }
        attempts = 0
        let place =
            Side.isListening
            ? try kvm { () throws(KVMError) in
                try self.landmark(&cpu, isStored: isStored, memory)
            } : nil
        guard try inject(place?.landmark, stored: place?.stored ?? [], &cpu, &side) else {
            return .endedByListener
        }
        if isRing3 { midFlight.landmarksInRing3 += 1 }
        if let delay = try side.kickDelay() { try armKick(&cpu, nanoseconds: delay) }
        return nil
    }

    /// The place where the machine stands, which must be settled, and the machine if it is stored.
    private mutating func landmark<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, isStored: Bool, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> (landmark: Landmark, stored: [[Change]]) {
        let state = try MachineState(&cpu, memory)
        let changed = isPagesMarked ? cpu.changedPages() : nil
        cpu.markPages()
        isPagesMarked = true
        var landmark = state.landmark(
            progress: hasCounter ? try cpu.progress() : nil, changedPages: changed)
        guard isStored else { return (landmark, []) }
        let completions = try storedPlace(&cpu, changedPages: changed, memory)
        guard !completions.isEmpty else { return (landmark, []) }
        landmark.stored = StoredPlace(
            rowCount: UInt16(completions.count),
            taskPriorityClass: UInt8(truncatingIfNeeded: cpu.taskPriorityClass & 0xF))
        return (landmark, completions)
    }

    /// Gives the CPU the interrupt that the world has, between two exits; false: the listener ends.
    ///
    /// - Parameter stored: the machine as it stands, where the trace is to hold it.
    mutating func inject<CPU, Side>(
        _ landmark: Landmark?, stored: [[Change]] = [], _ cpu: inout CPU, _ side: inout Side
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let vector = try side.acknowledgeInterrupt()
        let interruption = Interruption(.external, vector: vector, landmark: landmark)
        guard try side.interruption(interruption), try store(stored, &side) else { return false }
        try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        midFlight.landmarks += 1
        if !stored.isEmpty { midFlight.storedPlaces += 1 }
        return true
    }

    /// Looks again a little later; later still after many attempts.
    private mutating func armRetry<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) {
        let doublings = min(attempts / 8, Self.retryDoublings)
        try armKick(&cpu, nanoseconds: Self.retryNanoseconds << UInt64(doublings))
    }

    /// Whether the CPU would take an interrupt where it stands, and nothing else is under way.
    private func takesInterrupt<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        let flags = unsafe cpu.registersPointer.pointee[.rflags]
        guard flags & FlagBits.interrupt != 0, cpu.isReadyForInterrupt else { return false }
        return try kvm { () throws(KVMError) in try cpu.isQuiet() }
    }

    /// Whether a replay can find the place where the CPU stands: none where TF or RF is set, which a
    /// REP that was cut short carries.
    private func isFindable<CPU: Processor & ~Copyable>(
        _ cpu: borrowing CPU, isRing3: Bool
    ) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        let flags = unsafe cpu.registersPointer.pointee[.rflags]
        guard isRing3 else { return flags & (FlagBits.trap | FlagBits.resume) == 0 }
        // (A code segment elsewhere than at 0 is nothing that today's ring 3 has.)
        guard isRing3Found, unsafe cpu.systemRegistersPointer.pointee[.cs].base == 0 else {
            return false
        }
        // A kick's: the search for a cold place leaves a REP behind.
        return flags & (usesRing3Stops ? FlagBits.trap : FlagBits.trap | FlagBits.resume) == 0
    }

    /// Whether the CPU stands in a REP that was cut short, or is stepped by the guest itself.
    private func isInREP<CPU: Processor & ~Copyable>(_ cpu: borrowing CPU) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        unsafe cpu.registersPointer.pointee[.rflags] & (FlagBits.trap | FlagBits.resume) != 0
    }

    /// Has the world judge how long the guest has made no exit.
    private func lookAtSilence<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side
    ) throws(ExecutionError) -> Ending?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let progress = try kvm { () throws(KVMError) in try cpu.progress() }
        // SAFETY: the page's registers do not change before the next run.
        let flags = unsafe cpu.registersPointer.pointee.rflags
        return try side.silence(
            exitCount: exitCount, progress: progress, canWake: flags & FlagBits.interrupt != 0)
    }
}
