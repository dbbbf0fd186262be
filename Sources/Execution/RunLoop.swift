internal import Disassembly
public import Guest
public import KVM
internal import Machine
internal import Trace

/// How the loop came to its end.
public enum LoopOutcome: Equatable, Sendable {
    /// The world ended the run.
    case ended(Ending)
    /// The tape had no further event.
    case endOfTape
    /// The number of exits that was asked for has been made.
    case exitLimit
    /// Somebody asked for an end; in mid-flight when the guest would not exit.
    case stopped(StopReason, isInMidFlight: Bool)
    /// The listener had enough: a divergence.
    case endedByListener
}

/// The loop that drives a vCPU against a world while somebody listens: the same code for run,
/// record and replay, so that they issue the same requests in the same order.
///
/// Nothing is allocated per exit.
public struct RunLoop: ~Copyable {
    /// Exits made so far; the next one has this number.
    public internal(set) var exitCount: UInt64 = 0
    /// The last exit that nobody answers: with it the guest stops.
    public internal(set) var unansweredExit: Exit?
    /// The last exit that is neither a port access nor one to device memory.
    var other = Exit.unknown(hardwareReason: 0)
    var finder: InstructionFinder
    /// Words of rare exits, laid out as the trace takes them.
    var words: InlineArray<16, UInt64> = InlineArray(repeating: 0)
    /// The count of exits after the last one at which a completion raised an exception.
    var exceptionCount: UInt64 = .max
    private let exitLimit: UInt64
    let traps: RewriteTraps
    /// Finds instructions to be rewritten; nil where none is looked for.
    var codeWatch: CodeWatch?
    /// Where a breakpoint stands for the tape's next rewriting.
    var watched: GuestVirtualAddress?
    /// What was rewritten on the way, each place once.
    var rewrittenSites: [RewrittenSite] = []
    let stop: StopRequest
    /// KVM counts ring 0's instructions here.
    let hasCounter: Bool
    /// Ring 3 is stopped as ``Ring3Stops`` has it; elsewhere as ring 0 is.
    let usesRing3Stops: Bool
    /// Hardware breakpoints stop ring 0.
    let breaksRing0: Bool
    /// Hardware breakpoints stop ring 3 as they stop ring 0.
    let breaksRing3: Bool
    /// SYSCALL in ring 3 is completed here (``BrokenSyscall``).
    let mendsSyscall: Bool
    /// The guest's page-fault handler, where a breakpoint stands; nil: none does.
    var syscallHandler: UInt64?
    /// The count of exits at which a run that nobody listens to looks for that handler again.
    var nextSyscallLook: UInt64 = 0
    /// The step over the handler's first instruction that is under way.
    var handlerStep: StepTrace?
    /// Which pages changed is kept since the landmark before.
    var isPagesMarked = false
    /// What is known of where landmarks in ring 3 may stand.
    var coldPlaces = ColdPlaceSearch()
    /// The same of ring 0.
    var ring0Places = ColdPlaceSearch(isRing3: false)
    /// How fast the guest coasts to a landmark.
    var pace = CoastingPace()
    /// What runs since the last exit took that came to none, in ticks: the guest had it.
    var kickedTicks: UInt64 = 0
    /// What interrupts in mid-flight took so far.
    public internal(set) var midFlight = MidFlightCounts()
    /// The timer runs.
    var isKickArmed = false
    /// Places refused since the last interrupt in mid-flight.
    var attempts = 0
    /// The machine has a local APIC, which is the world's; its task priority is CR8 too.
    var hasLocalAPIC = false

    /// Makes a loop.
    ///
    /// - Parameters:
    ///   - behaviour: where RIP stands in exits of this host.
    ///   - exitLimit: how many exits to make at most.
    ///   - traps: which OUTs stand for another instruction.
    ///   - stop: where others ask for an end.
    public init(
        behaviour: HostBehaviour, exitLimit: UInt64 = .max, traps: RewriteTraps = RewriteTraps(),
        stop: StopRequest
    ) {
        finder = InstructionFinder(behaviour)
        hasCounter = behaviour.instructionCounter != .no
        mendsSyscall = behaviour.syscall == .no && behaviour.breakpointRing0 == .yes
        breaksRing0 = behaviour.breakpointRing0 == .yes
        breaksRing3 = behaviour.breakpointRing3 == .yes
        usesRing3Stops = behaviour.exceptionStopsRing3 == .yes
        self.exitLimit = exitLimit
        self.traps = traps
        self.stop = stop
    }

    /// Runs until something ends it.
    ///
    /// - Parameter side: what stands on the other side of the cut: answers, and listens.
    public mutating func run<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        guard exitLimit > 0 else { return .exitLimit }
        // A tape may end before the first exit: a guest that never exits was cut off, or the
        // recorder was killed. Such a guest must not be entered, for it would not come back.
        if let outcome = try outcome(&side, natural: nil, canWake: false, memory: memory) {
            return outcome
        }
        // A run may leave its tape before the first exit.
        if side.isLeavingTape, let outcome = try deliver(&cpu, &side, memory: memory) {
            return outcome
        }
        try watchCode(&cpu, &side, memory: memory)
        while true {
            let entered = Side.timestamp
            let step: RunStep
            do throws(KVMError) { step = try cpu.run(other: &other) } catch { throw .kvm(error) }
            let returned = Side.timestamp
            if case .interrupted = step {
                // A kick or a signal: not an exit, and never counted.
                kickedTicks &+= returned &- entered
                _ = cpu.acknowledgeKick()
                if let reason = stop.reason, stop.isInsistent {
                    return .stopped(reason, isInMidFlight: true)
                }
                try synchroniseAPIC(cpu, &side)
                if isKickArmed, let outcome = try takeKick(&cpu, &side, memory: memory) {
                    return outcome
                }
                continue
            }
            if case .other = step {
                if Self.isUncounted(other) {
                    kickedTicks &+= returned &- entered
                    continue
                }
                if case .debug(let stop) = other,
                    try passes(stop.pc, &cpu, &side, memory: memory)
                {
                    kickedTicks &+= returned &- entered
                    continue
                }
            }
            if let outcome = try take(
                step, &cpu, &side, memory: memory, entered: entered, returned: returned)
            {
                return outcome
            }
            if let outcome = try afterExit(&cpu, &side, memory: memory) { return outcome }
        }
    }

    /// What is looked for after each exit that was dealt with.
    @inline(__always)
    mutating func afterExit<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if mendsSyscall {
            try watchSyscalls(&cpu, isListenedTo: Side.isListening, memory: memory)
        }
        if try side.hasInterrupt(), let outcome = try deliver(&cpu, &side, memory: memory) {
            return outcome
        }
        if !isKickArmed, let delay = try side.kickDelay() {
            try armKick(&cpu, nanoseconds: delay)
        }
        try watchCode(&cpu, &side, memory: memory)
        return nil
    }

    /// A breakpoint or step of ours came to nothing: it is no exit.
    @inline(never)
    mutating func passes<CPU, Side>(
        _ place: GuestVirtualAddress, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if handlerStep == nil, cpu.isWatched(place) {
            return try isFalseAlarm(at: place, &cpu, &side, memory: memory)
        }
        guard mendsSyscall else { return false }
        return try passesDebugExit(&cpu, memory: memory)
    }

    /// Tells the world's local APIC what the CPU holds of it.
    @inline(__always)
    func synchroniseAPIC<CPU, Side>(
        _ cpu: borrowing CPU, _ side: inout Side
    ) throws(ExecutionError)
    where CPU: Processor & ~Copyable, Side: World & ~Copyable {
        guard hasLocalAPIC else { return }
        try side.processorHolds(
            taskPriorityClass: cpu.taskPriorityClass, apicBase: cpu.apicBase)
    }

    /// Everything that one exit asks for; nil: the guest runs on.
    @inline(__always)
    mutating func take<CPU, Side>(
        _ step: RunStep, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // All of the guest's time counts as such, and all of it before the exit.
        let entered = entered &- kickedTicks
        kickedTicks = 0
        var goesOn: Bool
        var natural: Ending?
        try synchroniseAPIC(cpu, &side)
        switch step {
        case .io(let io):
            goesOn = try handle(
                io, &cpu, &side, memory: memory, entered: entered, returned: returned)
        case .mmio(let mmio):
            goesOn = try handle(
                mmio, &cpu, &side, memory: memory, entered: entered, returned: returned)
        case .other:
            if case .debug(let stop) = other, try isRewriting(stop.pc, cpu, &side) {
                goesOn = try rewrite(
                    at: stop.pc, &cpu, &side, memory: memory, entered: entered,
                    returned: returned)
                break
            }
            goesOn = try handleOther(&cpu, &side, entered: entered, returned: returned)
            natural = Self.naturalEnding(other)
            if goesOn, natural != nil,
                let completed = try complete(other, &cpu, &side, memory: memory)
            {
                natural = nil
                goesOn = completed == .completed
            }
        case .interrupted: return nil
        }
        guard goesOn else { return .endedByListener }
        exitCount += 1
        // SAFETY: the page's registers do not change before the next run.
        let canWake =
            unsafe natural != nil
            && cpu.registersPointer.pointee.rflags & FlagBits.interrupt != 0
        if let outcome = try outcome(&side, natural: natural, canWake: canWake, memory: memory) {
            return outcome
        }
        if exitCount >= exitLimit { return .exitLimit }
        if let reason = stop.reason { return .stopped(reason, isInMidFlight: false) }
        return nil
    }

    /// What the world says of going on; nil: the guest does.
    @inline(__always)
    func outcome<Side: World & RunListener & ~Copyable>(
        _ side: inout Side, natural: Ending?, canWake: Bool, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome? {
        switch try side.verdict(natural: natural, canWake: canWake) {
        case .go: return nil
        case .end(let ending): return .ended(ending)
        case .endOfTape: return .endOfTape
        case .transfer: return try transfer(&side, memory: memory)
        }
    }

    /// Makes what devices write to RAM, and tells of it; nil: the guest runs on.
    @inline(never)
    private func transfer<Side: World & RunListener & ~Copyable>(
        _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome? {
        while true {
            for write in try side.deviceWrites(memory) {
                guard try side.deviceWrite(write) else { return .endedByListener }
                do throws(GuestError) {
                    try memory.write(write.address, write.bytes[...])
                } catch { throw .guest(error) }
            }
            switch try side.verdict(natural: nil, canWake: false) {
            case .go: return nil
            case .end(let ending): return .ended(ending)
            case .endOfTape: return .endOfTape
            case .transfer: continue
            }
        }
    }

    /// Exits that neither the guest nor its set-up caused: where they come varies, so they are never
    /// numbered, and nothing is done at them.
    @inline(__always)
    static func isUncounted(_ exit: Exit) -> Bool {
        switch exit {
        case .irqWindowOpen, .intr: true
        default: false
        }
    }

    /// What of the loop belongs to a place in the run.
    struct Place: Sendable {
        var exitCount: UInt64
        var exceptionCount: UInt64
        /// What was found of the instructions at its sites.
        var sites: InstructionFinder.Memory
    }

    /// Where the loop stands: to be set only together with CPU, memory and world.
    var place: Place {
        get {
            Place(
                exitCount: exitCount, exceptionCount: exceptionCount, sites: finder.memory)
        }
        set {
            exitCount = newValue.exitCount
            exceptionCount = newValue.exceptionCount
            finder.memory = newValue.sites
            unansweredExit = nil
            isPagesMarked = false
        }
    }

    /// How an exit ends a run where nothing can wake or rescue the CPU; nil if it can be answered.
    private static func naturalEnding(_ exit: Exit) -> Ending? {
        switch exit {
        case .io, .mmio, .rdmsr, .wrmsr, .setTPR: nil
        case .hlt: Ending(.halted)
        case .shutdown: Ending(.shutdown)
        case .internalError: Ending(.internalError)
        case .failEntry: Ending(.failEntry)
        case .systemEvent(let event):
            switch event.type {
            case 1: Ending(.powerOff)
            case 2: Ending(.reset)
            default: Ending(.unhandledExit)
            }
        default: Ending(.unhandledExit)
        }
    }
}
