internal import Disassembly
internal import Guest
public import KVM
public import Machine
public import Trace

/// How a recorded run is to be travelled.
public struct TravelOptions: Sendable {
    /// What keyframes may take in memory, in bytes (`--keyframe-memory`). The machine as it was
    /// loaded is always kept.
    public var keyframeBytes = 256 << 20
    /// Keyframes are made no closer than this, in nanoseconds of the guest's running.
    public var keyframeSpacing: UInt64 = 20_000_000
    /// A way that takes less than this is run rather than leapt over, in nanoseconds.
    var worthRestoring: UInt64 = 2_000_000
    /// Replays on a host whose behaviour differs from the recording's.
    public var isForced = false
    /// The host CPU that the guest runs on; nil: the recording's, where this host has it.
    public var cpu: Int?
    /// Counts instructions by the host's counter, where it has one; else by stepping.
    public var usesCounter = true

    /// The defaults.
    public init() {}
}

/// A machine that stands anywhere in a recorded run, and goes from one place to another.
///
/// It goes forward by the same loop as a replay, and compares everything with the trace on the way;
/// it goes back by restoring a keyframe and running forward. Nothing it does shows in the guest:
/// breakpoints are the CPU's, and stepping does not reach the flags that the guest sees.
///
/// Positions count instructions as the host's counter does where there is one. KVM's emulator, which
/// has it, counts a REP once for each 1,024 iterations that it begins and once when it ends, and an
/// instruction that faults; a machine never rests inside of either. In ring 3 such a host neither
/// steps nor counts: there the guest's own exceptions do (``Ring3Stops``).
///
/// Everything is called on one thread, the one that made it: it runs the vCPU, and is pinned.
public struct TimeMachine: ~Copyable {
    var machine: GuestMachine
    var loop: RunLoop
    var tape: Tape
    var keyframes: Keyframes
    /// The trace.
    public let reader: TraceReader
    /// Ways in which this host differs from the recording's; empty unless forced.
    public let hostDifferences: [HostFacts.Difference]
    /// Makes a move look at once whether it is to stop; from any thread.
    public let kicker: Kicker
    let options: TravelOptions
    /// What is known of this host.
    let hostFacts: HostFacts
    private let pin: ThreadPin
    /// How far the way is that the machine goes; from any thread.
    public let progress: ReplayProgress

    /// Where the machine stands; where in ring 3, only if ``isNamed``.
    public internal(set) var position = Position.begin
    /// The run ends here, and how; nil elsewhere.
    public internal(set) var ending: Ending?
    /// Why nothing can go forward from here: the replay is not the recording any more.
    public internal(set) var divergence: ReplayDivergence?

    /// Why the keyframe file is not used any more: one line; nil: it is, or there was none.
    public internal(set) var keyframeFileProblem: String?
    /// Exits taken so far, again and again.
    public internal(set) var replayedExits: UInt64 = 0

    // While it moves.
    /// The host counts instructions.
    let hasCounter: Bool
    /// The host steps ring 3.
    let stepsRing3: Bool
    /// The count at the last exit.
    var spanStart: UInt64 = 0
    /// Steps since the last exit, where the host does not count.
    var steps: UInt64 = 0
    /// Instructions between the last two exits.
    var lastSpan: UInt64 = 0
    /// Steps since ring 3 was entered, where the machine stands in ring 3; at least, where the place
    /// has no name yet.
    var ring3Steps: UInt64 = 0
    /// How it came to stand where it does.
    var standing = Standing.atExit { didSet { if standing != .inRing3 { forgetStretch() } } }
    /// How ring 3 was run to where the machine stands, where that has no name yet; nil: it has.
    var way: Ring3Way?
    /// It stands before an instruction of ring 3 that touches memory that is shielded, and was told so:
    /// a run goes on with that instruction.
    var isAtTouch = false
    /// How often the place of an interrupt was passed in this stretch of ring 3.
    var ring3Passes = 0
    /// What is known of places before one in ring 3; nil: nothing.
    var approach: Ring3Approach?
    /// What was written since the beginning of the stretch of ring 3, at the anchor that the machine
    /// was at last.
    var anchorPages: [Int: PageCopy] = [:]
    /// Who asks what was written since; nil before the first anchor.
    var anchorWrites: DirtyPages.Reader?
    /// What a move came to while it was being prepared.
    var lastArrival = Arrival.reached
    /// The last place before watched bytes were touched.
    var touchedAfter: Place?
    /// Memory that the guest must not come to; nil: there is none.
    var shield: Shield?
    /// How many places going back remembers at once; at least 2.
    var placeLimit = 1 << 17
    /// Stretches of the run are tried with a shield before they are stepped.
    var usesShield = true
    /// What stops the guest now.
    var armed = GuestDebug.off
    /// A kick will come.
    var isTimerSet = false
    /// How long the guest runs from the beginning to here, in nanoseconds.
    var guestNanoseconds: UInt64 = 0
    /// When the guest began to run freely; nil where it does not.
    var began: UInt64?
    /// What an instruction takes at least, as seen.
    var nanosecondsPerInstruction: UInt64 = 450
    /// How much earlier than usual to begin stepping.
    var caution: UInt64 = 1

    /// Who asks whether watched pages were written; nil before the first watchpoint.
    var watchedWrites: DirtyPages.Reader?
    /// Breakpoints, without those that are there twice.
    public internal(set) var breakpoints: [GuestVirtualAddress] = []
    /// Watchpoints.
    public internal(set) var watchpoints: [Watchpoint] = []

    /// Creates the machine that the trace describes, at its first instruction.
    ///
    /// - Throws: ``ExecutionError/cannotReplay(_:)`` where this host does not match, the trace does
    ///   not hold what a replay needs, or this host cannot step.
    public init(
        host: borrowing Host, reader: TraceReader, options: TravelOptions = TravelOptions()
    ) throws(ExecutionError) {
        let differences = host.probe.facts.behavioursThatDiffer(from: reader.header.hostFacts)
        var machine = try GuestMachine.replaying(
            reader, host: host, isForced: options.isForced, differences: differences)
        let cpu = try VCPUPlacement.choose(options.cpu, as: reader.header)
        let pin = try kvm { () throws(KVMError) in try ThreadPin(toCPU: cpu) }
        let progress = ReplayProgress()
        let cursor = try trace { () throws(TraceError) in try reader.tape() }
        let tape = try Tape(
            cursor, file: reader.path, registers: machine.registers,
            system: machine.systemRegisters, progress: progress)
        if tape.mismatch != nil {
            throw .cannotReplay(Self.startDiffers(reader))
        }
        try machine.trackWrites()
        var loop = RunLoop(
            behaviour: host.probe.behaviour, traps: machine.traps, stop: StopRequest())
        loop.hasLocalAPIC = machine.hasLocalAPIC
        let first = try kvm { () throws(KVMError) in
            try machine.cpu.refreshPage()
            return Keyframe(
                position: .begin, cpu: try machine.cpu.checkpoint(), tape: tape.place,
                loop: loop.place, spanStart: 0, standing: .atExit,
                nanoseconds: 0)
        }
        let keyframes = try Keyframes(
            &machine, first: first, byteLimit: options.keyframeBytes,
            spacing: options.keyframeSpacing)
        hasCounter =
            options.usesCounter && host.probe.behaviour.instructionCounter == .yes
            && first.cpu.progress != nil
        stepsRing3 = host.probe.behaviour.singleStepRing3 == .yes
        spanStart = first.cpu.progress ?? 0
        kicker = machine.kicker
        self.machine = machine
        self.loop = loop
        self.tape = tape
        self.keyframes = keyframes
        self.reader = reader
        self.options = options
        self.pin = pin
        self.progress = progress
        hostDifferences = differences
        hostFacts = host.probe.facts
    }

    private static func startDiffers(_ reader: TraceReader) -> String {
        "\(reader.path): the guest's first state differs from the recorded one; "
            + "vmtape replay says how"
    }

    /// Opens the tape where it stood at a keyframe, unless it stands there.
    mutating func rewindTape(to place: Tape.Place) throws(ExecutionError) {
        guard divergence != nil || ending != nil || tape.place != place else { return }
        let cursor = try trace { () throws(TraceError) in try reader.tape(from: place.firstExit) }
        tape = try Tape(cursor, file: reader.path, at: place, progress: progress)
    }
}
