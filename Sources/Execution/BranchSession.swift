public import Devices
internal import Guest
internal import KVM
public import Machine
public import Trace

/// How a run leaves its tape.
public struct BranchOptions: Sendable {
    /// Up to here the run is the tape's, and live from here on. Nil: never, the devices are only run
    /// again and compared.
    public var liveFrom: Position?
    /// Where the guest prints once it is live.
    public var consoles = DeviceSet.Configuration()
    /// Prints what the guest printed while it was on tape, too.
    public var printsTapedOutput = false
    /// Where the whole run is recorded; nil: nowhere.
    public var recording: RecordSession.Recording?
    /// Ends after this many exits, taped ones included.
    public var exitLimit: UInt64 = .max
    /// What is watched beside the run.
    public var supervision = Supervisor.Configuration()
    /// The host CPU that the guest runs on; nil: the recording's, where this host has it.
    public var cpu: Int?
    /// Goes on a host whose behaviour differs from the recording's.
    public var isForced = false

    /// Runs the devices again, and nothing else.
    public init() {}
}

/// What came of a run that was to leave its tape.
public struct BranchOutcome: Sendable {
    /// The verdict on the whole.
    public enum Verdict: Sendable {
        /// It went live, and ended.
        case live(Ending)
        /// The tape ended before the run went live; the devices agreed with all of it.
        case endOfTape
        /// Somebody asked for an end before the run went live.
        case stopped
        /// The devices do not answer as the tape does.
        case disagreement(DeviceDisagreement)
        /// The guest does not do what it did.
        case diverged(ReplayDivergence)
    }

    /// The verdict.
    public var verdict: Verdict
    /// What came of the run, the taped part included.
    public var report: RunReport
    /// What was recorded; nil where nothing was, or the run did not go live.
    public var summary: TraceSummary?
    /// What no device claimed.
    public var unclaimed: UnclaimedAccesses
    /// The first failure to write the guest's output.
    public var outputFailure: DeviceError?
}

/// A recorded guest that runs again with its devices: to compare these with the tape, or to leave
/// the tape and go on live (`vmtape replay --live-from`).
///
/// The new trace holds the whole run, the parent's part too, so that it replays by itself.
public struct BranchSession: ~Copyable {
    private var machine: GuestMachine
    /// Nil once the run has begun.
    private var parts: Parts?
    private let reader: TraceReader
    private let behaviour: HostBehaviour
    private let options: BranchOptions
    private let plan: LoadPlan
    /// Where the tape is left, if that is between two exits.
    private let departure: Departure?
    /// Where others ask for an end.
    public let stop = StopRequest()
    /// How far the taped part is, for other threads.
    public let progress = ReplayProgress()

    /// What the other side of the cut is made of.
    private struct Parts: ~Copyable {
        var tape: Tape
        var world: LiveWorld
        var stream: WorldCursor
        var console: ConsoleInput
    }

    /// Creates the machine and the devices that the trace tells of.
    ///
    /// - Parameter console: the guest's input once it is live.
    /// - Throws: ``ExecutionError/cannotReplay(_:)`` where this host does not match, or the trace does
    ///   not hold what it takes.
    public init(
        host: borrowing Host, reader: TraceReader, options: BranchOptions,
        console: consuming ConsoleInput = ConsoleInput()
    ) throws(ExecutionError) {
        let properties = reader.header.machine.properties
        func property(_ key: String) -> String? { properties.first { $0.key == key }?.value }
        let clock = try Self.clock(reader, property("clock"), machine: property("machine"))
        if let position = options.liveFrom { try Self.check(position, reader) }
        // Its machine is gone before the run's is made.
        let departure = try options.liveFrom.flatMap { position throws(ExecutionError) in
            try Departure(
                host: host, reader: reader, position: position, isForced: options.isForced,
                cpu: options.cpu)
        }
        let plan = try LoadPlan(recordedIn: reader)
        var configuration = try Self.devices(reader, plan, property)
        configuration.serial = options.consoles.serial
        configuration.debugConsole = options.consoles.debugConsole
        let machine = try GuestMachine.replaying(
            reader, host: host, isForced: options.isForced,
            differences: host.probe.facts.behavioursThatDiffer(from: reader.header.hostFacts),
            watches: options.liveFrom != nil && host.probe.behaviour.breakpointRing0 == .yes)
        let cursor = try trace { () throws(TraceError) in try reader.tape() }
        let tape = try Tape(
            cursor, file: reader.path, registers: machine.registers,
            system: machine.systemRegisters, progress: progress)
        let stream = try trace { () throws(TraceError) in try reader.worldEvents() }
        let devices: DeviceSet
        do throws(DeviceError) { devices = try DeviceSet(configuration) } catch {
            throw .cannotReplay(error.description)
        }
        var world = LiveWorld(
            devices: devices, clock: clock, cpuidTable: reader.header.requestedCPUID, stop: stop,
            hasCompletions: property("completions") != "off",
            stall: property("interrupts") == TraceHeader.interruptsWhereStalled ? .kick : .end)
        if options.recording?.hasWorldStream == true { world.keepArrivals() }
        parts = Parts(tape: tape, world: world, stream: stream, console: console)
        self.departure = departure
        self.machine = machine
        self.plan = plan
        self.reader = reader
        self.options = options
        behaviour = host.probe.behaviour
    }

    private static func clock(
        _ reader: TraceReader, _ name: String?, machine: String?
    ) throws(ExecutionError) -> ClockKind {
        guard let name, let clock = ClockKind(name: name) else {
            throw .cannotReplay("\(reader.path): the trace does not say which clock the guest had")
        }
        // A bare machine has no clock; under a virtual one, time follows from the exits.
        if clock == .host, machine != MachineKind.bare.rawValue, !reader.hasWorldStream {
            throw .cannotReplay(
                "\(reader.path): the trace has no world stream, and the guest's clock was the "
                    + "host's: its devices cannot be brought to where they were (record it again "
                    + "with --world on, or with --clock virtual)")
        }
        return clock
    }

    private static func check(
        _ position: Position, _ reader: TraceReader
    ) throws(ExecutionError) {
        guard position.exitCount <= reader.exitCount else {
            throw .cannotReplay(
                "\(reader.path): there is no exit \(position): the trace has \(reader.exitCount)")
        }
    }

    private static func devices(
        _ reader: TraceReader, _ plan: LoadPlan, _ property: (String) -> String?
    ) throws(ExecutionError) -> DeviceSet.Configuration {
        do throws(DeviceError) {
            return try DeviceSet.Configuration(of: PCConfiguration(plan), property: property)
        } catch { throw .cannotReplay("\(reader.path): \(error.message)") }
    }

    /// Runs to the end: of the live run, or of the tape. A session runs once.
    public mutating func run(
        _ callbacks: SessionCallbacks
    ) throws(ExecutionError) -> BranchOutcome {
        guard let recording = options.recording, options.liveFrom != nil else {
            var side = try makeSide(NoListener())
            return try drive(&side, callbacks)
        }
        var side = try makeSide(Recorder(writer: try makeWriter(recording)))
        var outcome = try drive(&side, callbacks)
        guard case .live(let ending) = outcome.verdict else {
            side.listener.writer.discard()
            return outcome
        }
        let memory = ending.isInMidFlight ? nil : machine.memory.digest()
        let end = EndRecord(outcome.report)
        do throws(TraceError) {
            outcome.summary = try side.listener.writer.finish(end, memory: memory)
        } catch { throw .trace(error) }
        return outcome
    }

    /// The new trace: set up as its parent, which it names.
    private func makeWriter(
        _ recording: RecordSession.Recording
    ) throws(ExecutionError) -> TraceWriter {
        var header = reader.header
        header.images = plan.records.map { ImageRecord($0) }
        header.observed = recording.hasTiming ? recording.observed : nil
        header.observed?.properties.append(
            Property(
                VCPUPlacement.property,
                "\(try VCPUPlacement.choose(options.cpu, as: reader.header))"))
        let exit = options.liveFrom?.exitCount ?? 0
        let registers = machine.registers
        let system = machine.systemRegisters
        var traceOptions = TraceOptions(overwrites: recording.overwrites)
        traceOptions.hasWorldStream = recording.hasWorldStream
        if recording.hasTiming { traceOptions.timing = HostClock.timeBase() }
        do throws(TraceError) {
            header.parent = ParentTrace(
                name: reader.path.split(separator: "/").last.map(String.init) ?? reader.path,
                identity: reader.identity, exit: exit,
                digest: try reader.digests(before: exit).full)
            var writer = try TraceWriter(
                path: recording.path, header: header, options: traceOptions)
            try writer.start(registers: registers, system: system)
            return writer
        } catch { throw .trace(error) }
    }

    private mutating func makeSide<Listener: RunListener & ~Copyable>(
        _ listener: consuming Listener
    ) throws(ExecutionError) -> Branch<Listener> {
        guard let parts = parts.take() else {
            throw .cannotReplay("\(reader.path): this session has run already")
        }
        return Branch(
            tape: parts.tape, world: parts.world, stream: parts.stream,
            liveAfter: options.liveFrom?.exitCount, departure: departure, console: parts.console,
            printsTapedOutput: options.printsTapedOutput, listener: listener)
    }

    private mutating func drive<Listener: RunListener & ~Copyable>(
        _ side: inout Branch<Listener>, _ callbacks: SessionCallbacks
    ) throws(ExecutionError) -> BranchOutcome {
        let report: RunReport
        if side.tape.mismatch == nil {
            report = try machine.runSupervised(
                behaviour: behaviour, exitLimit: options.exitLimit,
                cpu: try VCPUPlacement.choose(options.cpu, as: reader.header), stop: stop,
                supervision: options.supervision, callbacks: callbacks, side: &side)
        } else {
            report = RunReport(
                outcome: .endedByListener, exitCount: 0, nanoseconds: 0,
                registers: machine.registers, systemRegisters: machine.systemRegisters)
        }
        side.world.devices.flush()
        return BranchOutcome(
            verdict: verdict(report, side), report: report,
            unclaimed: side.world.devices.unclaimed,
            outputFailure: side.world.devices.outputFailure)
    }

    private func verdict<Listener: RunListener & ~Copyable>(
        _ report: RunReport, _ side: borrowing Branch<Listener>
    ) -> BranchOutcome.Verdict {
        if let disagreement = side.disagreement { return .disagreement(disagreement) }
        if let mismatch = side.tape.mismatch, !mismatch.isTapeEnd {
            return .diverged(
                ReplayDivergence(
                    mismatch, place: report.exitCount == 0 ? .start : .exit,
                    exitNumber: report.exitCount, reader: reader, registers: report.registers,
                    system: report.systemRegisters))
        }
        if let miss = side.tape.miss {
            var divergence = ReplayDivergence(place: .exit, exitNumber: report.exitCount)
            divergence.causes = miss.lines
            return .diverged(divergence)
        }
        if side.isLive { return .live(report.ending) }
        if case .stopped = report.outcome { return .stopped }
        return .endOfTape
    }
}
