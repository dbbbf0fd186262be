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
    private static let refusedFlags: UInt64 = resumeFlag | 1 << 8
    private static let resumeFlag: UInt64 = 1 << 16
    /// The first wait after a place that was not allowed; doubled from time to time.
    private static let retryNanoseconds: UInt64 = 20_000
    private static let retryDoublings = 6
    /// After so many places in ring 3 that no replay would find the interrupt waits for the next
    /// exit.
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
            return try injectUnrecorded(&cpu, &side)
        }
        // SAFETY: the page's registers do not change before the next run.
        let isRing3 = unsafe cpu.systemRegistersPointer.pointee.cpl == 3
        var isPlace = try isAllowedPlace(&cpu, isRing3: isRing3)
        if isPlace, isRing3, usesRing3Stops {
            switch try findColdPlace(&cpu, &side, memory: memory) {
            case .here: isPlace = try isAllowedPlace(&cpu, isRing3: true)
            case .leftRing3: isPlace = false
            case .exited(let outcome): return outcome
            case .stopped(let reason): return .stopped(reason, isInMidFlight: true)
            }
        }
        guard isPlace else {
            midFlight.refusedPlaces += 1
            if isRing3 { midFlight.refusedInRing3 += 1 }
            attempts += 1
            // Where none is found in ring 0 within the bound, the next exit arms the timer again.
            if isRing3, !isRing3Found, attempts > Self.ring3Attempts { return nil }
            try armRetry(&cpu)
            return nil
        }
        attempts = 0
        let landmark = try kvm { () throws(KVMError) in
            // SAFETY: the page's registers do not change before the next run.
            let registers = unsafe cpu.registersPointer.pointee
            return Landmark(
                registers: registers, state: try Self.wholeState(&cpu, registers, memory),
                progress: hasCounter ? try cpu.progress() : nil)
        }
        let vector = try side.acknowledgeInterrupt()
        guard
            try side.interruption(
                Interruption(.external, vector: vector, landmark: landmark))
        else { return .endedByListener }
        try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        midFlight.landmarks += 1
        if isRing3 { midFlight.landmarksInRing3 += 1 }
        if let delay = try side.kickDelay() { try armKick(&cpu, nanoseconds: delay) }
        return nil
    }

    /// Looks again a little later; later still after many attempts.
    private mutating func armRetry<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) {
        let doublings = min(attempts / 8, Self.retryDoublings)
        try armKick(&cpu, nanoseconds: Self.retryNanoseconds << UInt64(doublings))
    }

    /// Whether an interrupt may be injected where the CPU stands, and a replay can find the place.
    private func isAllowedPlace<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, isRing3: Bool
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        var flags = unsafe cpu.registersPointer.pointee[.rflags]
        if isRing3 {
            // (A code segment elsewhere than at 0 is nothing that today's ring 3 has.)
            guard isRing3Found, unsafe cpu.systemRegistersPointer.pointee[.cs].base == 0 else {
                return false
            }
            // A kick's: the search for a cold place leaves a REP behind.
            if usesRing3Stops { flags &= ~Self.resumeFlag }
        }
        guard flags & (Self.refusedFlags | Self.interruptFlag) == Self.interruptFlag,
            cpu.isReadyForInterrupt
        else { return false }
        return try kvm { () throws(KVMError) in try cpu.isQuiet() }
    }

    /// Injects an interrupt that nobody will have to find again: wherever the CPU takes it.
    private mutating func injectUnrecorded<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // SAFETY: the page's registers do not change before the next run.
        let flags = unsafe cpu.registersPointer.pointee[.rflags]
        var isTaken = flags & Self.interruptFlag != 0 && cpu.isReadyForInterrupt
        if isTaken { isTaken = try kvm { () throws(KVMError) in try cpu.isQuiet() } }
        guard isTaken else {
            midFlight.refusedPlaces += 1
            attempts += 1
            try armRetry(&cpu)
            return nil
        }
        attempts = 0
        let vector = try side.acknowledgeInterrupt()
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
    static func wholeState<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ registers: GeneralRegisters, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> Digest128 {
        try wholeState(&cpu, registers, memory: cpu.memoryDigest(memory))
    }

    /// The same, the digest of RAM being known.
    static func wholeState<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ registers: GeneralRegisters, memory ram: Digest128
    ) throws(KVMError) -> Digest128 {
        let rest = try cpu.stateDigest()
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
}

extension [UInt8] {
    /// A number, little-endian.
    mutating func append(word: UInt64) {
        for shift in 0..<8 {
            append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8)))
        }
    }
}
