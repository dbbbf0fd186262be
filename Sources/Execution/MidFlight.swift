internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Interrupts between two exits (DESIGN 2): the recorder injects where a kick found the guest and
/// writes down the state of the whole machine; the replay runs to where that state is reached.
///
/// None of this runs while no interrupt waits.
extension RunLoop {
    /// Bits of RFLAGS with which no landmark may stand: TF, and RF, which a REP that was cut short
    /// carries.
    private static let refusedFlags: UInt64 = 1 << 16 | 1 << 8
    /// The first wait after a place that was not allowed; doubled from time to time.
    private static let retryNanoseconds: UInt64 = 20_000
    private static let retryDoublings = 6
    /// After so many places in ring 3 the interrupt waits for the next exit: no breakpoint and no
    /// counter would find it there again on hosts that cannot break in ring 3 (KVM-FACTS).
    private static let ring3Attempts = 256

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
        if side.watchesSilence, let ending = try lookAtSilence(&cpu, &side) {
            return .ended(ending)
        }
        guard try side.hasOverdueInterrupt() else {
            if let delay = try side.kickDelay() { try armKick(&cpu, nanoseconds: delay) }
            return nil
        }
        if !Side.isListening {
            try kvm { () throws(KVMError) in try cpu.refreshSystemRegisters() }
        }
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        let isRing3 = unsafe cpu.systemRegistersPointer.pointee.cpl == 3
        let isAllowed =
            registers[.rflags] & (Self.refusedFlags | Self.interruptFlag) == Self.interruptFlag
            && !isRing3 && cpu.isReadyForInterrupt
        var isPlace = isAllowed
        if isAllowed { isPlace = try kvm { () throws(KVMError) in try cpu.isQuiet() } }
        guard isPlace else {
            midFlight.refusedPlaces += 1
            if isRing3 { midFlight.refusedInRing3 += 1 }
            attempts += 1
            // Where none is found in ring 0 within the bound, the next exit arms the timer again.
            if isRing3, attempts > Self.ring3Attempts { return nil }
            let doublings = min(attempts / 8, Self.retryDoublings)
            try armKick(&cpu, nanoseconds: Self.retryNanoseconds << UInt64(doublings))
            return nil
        }
        attempts = 0
        let landmark = try kvm { () throws(KVMError) in
            Landmark(
                registers: registers, state: try Self.wholeState(&cpu, registers, memory),
                progress: try cpu.progress())
        }
        let vector = try side.acknowledgeInterrupt()
        guard
            try side.interruption(
                Interruption(.external, vector: vector, landmark: landmark))
        else { return .endedByListener }
        try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        midFlight.landmarks += 1
        if let delay = try side.kickDelay() { try armKick(&cpu, nanoseconds: delay) }
        return nil
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
            exitCount: exitCount, progress: progress, canWake: flags & Self.interruptFlag != 0)
    }

    /// The digest of everything that decides what the guest does next: registers, the CPU's other
    /// state, and RAM.
    private static func wholeState<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ registers: GeneralRegisters, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> Digest128 {
        let rest = try cpu.stateDigest()
        let ram = memory.digest().digest
        var bytes: [UInt8] = []
        bytes.reserveCapacity(32 + Register.allCases.count * 8)
        for register in Register.allCases {
            var value = registers[register]
            if register == .rflags { value &= ~LandmarkSearch.maskedFlags }
            bytes.append(word: value)
        }
        for half in [rest.low, rest.high, ram.low, ram.high] { bytes.append(word: half) }
        return Digest128(of: bytes)
    }

    /// Runs on to a landmark and injects what the tape has there, and to those that follow before
    /// the next exit.
    @inline(never)
    mutating func reach<CPU, Side>(
        _ first: Landmark, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        var next: Landmark? = first
        while let landmark = next {
            if let outcome = try reachOne(landmark, &cpu, &side, memory: memory) {
                return outcome
            }
            next = try side.landmark()
        }
        // A tape may end here: the guest never exited again, or the recorder was killed.
        return try outcome(&side, natural: nil, canWake: false, memory: memory)
    }

    private mutating func reachOne<CPU, Side>(
        _ landmark: Landmark, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        var search = LandmarkSearch(landmark)
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
        let vector = try side.acknowledgeInterrupt()
        guard
            try side.interruption(
                Interruption(.external, vector: vector, landmark: landmark))
        else { return .endedByListener }
        try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        midFlight.landmarks += 1
        return nil
    }

    private enum Found {
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
        let hasCounter = landmark.progress != nil
        guard try isSettled(&cpu) else { return .missed("the exit before it goes on") }
        // SAFETY: the page's registers do not change before the next run.
        let breakpoint = GuestDebug.Breakpoint(
            PageWalk.linearRIP(
                landmark.registers.rip, system: unsafe cpu.systemRegistersPointer.pointee))
        var isAtBreakpoint = false
        while true {
            let count =
                hasCounter ? try kvm { () throws(KVMError) in try cpu.progress() } : nil
            // SAFETY: the page's registers do not change before the next run.
            let registers = unsafe cpu.registersPointer.pointee
            search.notePlace(registers, count: count)
            if search.matches(registers) {
                guard try isSettled(&cpu) else { return .missed("an exit comes at it") }
                let state = try kvm { () throws(KVMError) in
                    try Self.wholeState(&cpu, registers, memory)
                }
                let isWhole = state == landmark.state
                search.noteHit(isWhole: isWhole)
                if isWhole {
                    try disarm(&armed, &cpu)
                    try kvm { () throws(KVMError) in
                        try cpu.restoreFlags(landmark.registers[.rflags])
                    }
                    guard cpu.isReadyForInterrupt else {
                        return .missed("the CPU would not take the interrupt there")
                    }
                    return .found
                }
            }
            // SAFETY: the page's registers do not change before the next run.
            let isFlat = unsafe cpu.systemRegistersPointer.pointee.mode == .long
            let move = search.next(
                count: count, isAtBreakpoint: isAtBreakpoint, isFlat: isFlat)
            var wanted = GuestDebug.off
            switch move {
            case .giveUp:
                try disarm(&armed, &cpu)
                return .missed("the guest ran past it")
            case .coast(_, let isGuarded): if isGuarded { wanted.breakpoints = [breakpoint] }
            case .step: wanted.singleStep = true
            case .runToBreakpoint: wanted.breakpoints = [breakpoint]
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
                    instructions: now &- (count ?? now))
            }
        }
    }

    private func disarm<CPU: Processor & ~Copyable>(
        _ armed: inout GuestDebug, _ cpu: inout CPU
    ) throws(ExecutionError) {
        guard armed != .off, try isSettled(&cpu) else { return }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        armed = .off
    }
}

extension [UInt8] {
    /// A number, little-endian.
    mutating func append(word: UInt64) {
        for shift in 0..<8 {
            append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8)))
        }
    }
}
