public import Devices
public import Guest
internal import KVM
internal import Machine
public import Trace

/// What a live session — run or record — runs.
public struct LiveConfiguration: Sendable {
    /// The guest.
    public var plan: LoadPlan
    /// Ends after this many exits.
    public var exitLimit: UInt64 = .max
    /// The host CPU that the guest runs on; nil: the one the session is made on.
    public var cpu: Int?
    /// What devices and rewritten RDTSCs see.
    public var clock = ClockKind.host
    /// Rewrites RDTSC (and CPUID where the host shows its own) to exits, so that it is recorded.
    public var rewritesTimeStamp = true
    /// What becomes of a guest that waits for a virtual clock without an exit.
    public var stall = StallPolicy.end
    /// Completes instructions that KVM cannot emulate.
    public var completesInstructions = true
    /// Counts instructions by the host's counter, where it has one.
    public var usesCounter = true
    /// What is watched beside the run.
    public var supervision = Supervisor.Configuration()

    /// A configuration without limits.
    public init(plan: LoadPlan) { self.plan = plan }

    /// The MSRs that are answered here and not by KVM; none where the host has no filter.
    func msrFilter(_ host: borrowing Host) -> [MSRFilterRange] {
        host.probe.behaviour.msrFilter == .yes
            ? FilteredMSRs.ranges(timeStampIsNative: !rewritesTimeStamp) : []
    }
}

/// What a session calls back, from the supervisor's thread.
public struct SessionCallbacks: Sendable {
    /// A second signal arrived: leave at once.
    public var abort: @Sendable (Int32) -> Void
    /// Every few milliseconds, with the milliseconds since the start.
    public var tick: @Sendable (UInt64) -> Void

    /// Makes callbacks.
    public init(
        abort: @escaping @Sendable (Int32) -> Void = { _ in },
        tick: @escaping @Sendable (UInt64) -> Void = { _ in }
    ) {
        self.abort = abort
        self.tick = tick
    }
}

/// A live guest that runs with nobody listening: `vmtape run`.
public struct RunSession: ~Copyable {
    private var machine: GuestMachine
    private var side: Attended<LiveWorld, NoListener>
    private let behaviour: HostBehaviour
    private let configuration: LiveConfiguration
    /// The host CPU that the guest runs on.
    public let cpu: Int
    /// Where others ask for an end.
    public let stop = StopRequest()

    /// Creates the machine and loads the guest.
    public init(
        host: borrowing Host, configuration: LiveConfiguration, devices: consuming DeviceSet
    ) throws(ExecutionError) {
        let cpuid = try host.guestCPUID(configuration, devices.machine)
        let machine = try GuestMachine(
            hypervisor: host.hypervisor, plan: configuration.plan, cpuid: cpuid,
            rewriting: Rewriting(configuration, host),
            msrFilter: configuration.msrFilter(host), isListenedTo: false,
            hasLocalAPIC: devices.machine.hasAPIC)
        cpu = try VCPUPlacement.choose(configuration.cpu)
        self.machine = machine
        side = Attended(
            world: LiveWorld(
                devices: devices, clock: configuration.clock, cpuidTable: cpuid, stop: stop,
                hasCompletions: configuration.completesInstructions, stall: configuration.stall),
            listener: NoListener())
        behaviour = host.probe.behaviour.counting(configuration.usesCounter)
        self.configuration = configuration
    }

    /// Runs the guest to its end.
    public mutating func run(_ callbacks: SessionCallbacks) throws(ExecutionError) -> RunReport {
        return try machine.runSupervised(
            behaviour: behaviour, exitLimit: configuration.exitLimit, cpu: cpu, stop: stop,
            supervision: configuration.supervision, callbacks: callbacks, side: &side)
    }

    /// Writes out what the guest printed and is still held back.
    public mutating func flush() { side.world.devices.flush() }

    /// What no device claimed.
    public var unclaimed: UnclaimedAccesses { side.world.devices.unclaimed }

    /// The first failure to write the guest's output.
    public var outputFailure: DeviceError? { side.world.devices.outputFailure }
}

/// A live guest that is recorded: `vmtape record`.
public struct RecordSession: ~Copyable {
    private var machine: GuestMachine
    private var side: Attended<LiveWorld, Recorder>
    private let behaviour: HostBehaviour
    private let configuration: LiveConfiguration
    /// The host CPU that the guest runs on.
    public let cpu: Int
    /// Where others ask for an end.
    public let stop = StopRequest()
    /// How far the recording is, for other threads.
    public let progress: TraceProgress

    /// What is recorded beside the guest.
    public struct Recording: Sendable {
        /// Where the trace goes.
        public var path: String
        /// Replaces an existing trace.
        public var overwrites = false
        /// Records observed facts: host time, creation time, command, host name.
        public var hasTiming = true
        /// Records what the devices took from outside, so that they can be run again.
        public var hasWorldStream = true
        /// Observed facts for the header.
        public var observed: ObservedFacts?
        /// Ends the run when the trace has about this many bytes.
        public var maximumBytes: UInt64?

        /// A recording with timing.
        public init(path: String) { self.path = path }
    }

    private let recording: Recording

    /// Creates the machine, loads the guest, and creates the trace.
    public init(
        host: borrowing Host, configuration: LiveConfiguration, devices: consuming DeviceSet,
        recording: Recording
    ) throws(ExecutionError) {
        let cpuid = try host.guestCPUID(configuration, devices.machine)
        let rewriting = Rewriting(configuration, host)
        let machine = try GuestMachine(
            hypervisor: host.hypervisor, plan: configuration.plan, cpuid: cpuid,
            rewriting: rewriting, msrFilter: configuration.msrFilter(host),
            hasLocalAPIC: devices.machine.hasAPIC)
        let registers = machine.registers
        let system = machine.systemRegisters
        // Without observed facts, two recordings must not differ by where they happened to run.
        let cpu = try VCPUPlacement.choose(
            configuration.cpu, fallback: recording.hasTiming ? .current : .first)
        let header = TraceHeader(
            recording: recording, cpu: cpu, configuration: configuration, rewriting: rewriting,
            msrFilter: configuration.msrFilter(host), host: host.probe.facts,
            requestedCPUID: cpuid, observedCPUID: machine.observedCPUID,
            devices: devices)
        var options = TraceOptions(overwrites: recording.overwrites)
        options.hasWorldStream = recording.hasWorldStream
        if recording.hasTiming { options.timing = HostClock.timeBase() }
        let writer = try trace { () throws(TraceError) in
            var writer = try TraceWriter(
                path: recording.path, header: header, options: options)
            try writer.start(registers: registers, system: system)
            return writer
        }
        progress = writer.progress
        var world = LiveWorld(
            devices: devices, clock: configuration.clock, cpuidTable: cpuid, stop: stop,
            hasCompletions: configuration.completesInstructions, stall: configuration.stall)
        if recording.hasWorldStream { world.keepArrivals() }
        side = Attended(world: world, listener: Recorder(writer: writer))
        self.machine = machine
        behaviour = host.probe.behaviour.counting(configuration.usesCounter)
        self.configuration = configuration
        self.recording = recording
        self.cpu = cpu
    }

    /// Runs the guest to its end and completes the trace.
    ///
    /// A failure of the run itself is thrown, and what was recorded until then stays in the
    /// partial trace.
    public consuming func run(
        _ callbacks: SessionCallbacks
    ) throws(ExecutionError) -> RecordOutcome {
        var callbacks = callbacks
        if let limit = recording.maximumBytes {
            let tick = callbacks.tick
            callbacks.tick = { [progress, stop] now in
                if progress.bytesWritten >= limit { stop.request(.sizeLimit) }
                tick(now)
            }
        }
        let report = try machine.runSupervised(
            behaviour: behaviour, exitLimit: configuration.exitLimit, cpu: cpu, stop: stop,
            supervision: configuration.supervision, callbacks: callbacks, side: &side)
        side.world.devices.flush()
        let memory = machine.memory.digest()
        let summary: TraceSummary
        do throws(TraceError) {
            summary = try side.listener.writer.finish(
                EndRecord(report), memory: report.ending.isInMidFlight ? nil : memory)
        } catch { throw .trace(error) }
        return RecordOutcome(
            report: report, summary: summary, unclaimed: side.world.devices.unclaimed,
            outputFailure: side.world.devices.outputFailure)
    }
}

/// What came of a recording.
public struct RecordOutcome: Sendable {
    /// What came of the run.
    public var report: RunReport
    /// What the trace holds.
    public var summary: TraceSummary
    /// What no device claimed.
    public var unclaimed: UnclaimedAccesses
    /// The first failure to write the guest's output.
    public var outputFailure: DeviceError?
}

extension EndRecord {
    /// The end of a run as its trace records it.
    init(_ report: RunReport) {
        let ending = report.ending
        self.init(
            reason: ending.reason, guestStatus: ending.guestStatus,
            isInMidFlight: ending.isInMidFlight, registers: report.registers,
            system: report.systemRegisters)
    }
}

extension GuestMemory {
    /// The digest of all RAM, over the pages that are not all zero.
    borrowing func digest() -> MemoryDigest {
        var digest = MemoryDigest()
        unsafe forEachNonZeroPage { number, bytes in
            // SAFETY: the page is the memory's, and the guest does not run.
            if let page = unsafe MemoryDigest.page(number: number, bytes: bytes) {
                digest.append(page)
            }
        }
        return digest
    }
}

extension GuestMachine {
    /// Runs a guest with a supervisor beside it, and reports.
    mutating func runSupervised<Side: World & RunListener & ~Copyable>(
        behaviour: HostBehaviour, exitLimit: UInt64, cpu: Int, stop: StopRequest,
        supervision: Supervisor.Configuration, callbacks: SessionCallbacks, side: inout Side
    ) throws(ExecutionError) -> RunReport {
        var loop = RunLoop(
            behaviour: behaviour, exitLimit: exitLimit, traps: traps, stop: stop)
        loop.hasLocalAPIC = hasLocalAPIC
        loop.codeWatch = codeWatch
        let kicker = kicker
        let supervisor = try Supervisor(
            supervision, request: stop, kick: { kicker.kick() }, abort: callbacks.abort,
            tick: callbacks.tick)
        defer { supervisor.finish() }
        // After every other thread of the session exists: they would inherit it.
        let pin = try kvm { () throws(KVMError) in try ThreadPin(toCPU: cpu) }
        let start = HostThread.monotonicNanoseconds()
        let startOnCPU = HostThread.ownNanoseconds()
        let outcome = try run(&loop, &side)
        let onCPU = HostThread.ownNanoseconds() - startOnCPU
        let end = HostThread.monotonicNanoseconds()
        extendLifetime(pin)
        try kvm { () throws(KVMError) in try self.cpu.refreshSystemRegisters() }
        let registers = currentRegisters
        let system = currentSystemRegisters
        var fault: CPUFault?
        if case .ended = outcome {
            fault = CPUFault(loop.unansweredExit, registers: registers, system: system) {
                bytes(at: $0, count: 15)
            }
        }
        return RunReport(
            outcome: outcome, exitCount: loop.exitCount, nanoseconds: end - start,
            nanosecondsOnCPU: onCPU, registers: registers, systemRegisters: system, fault: fault,
            midFlight: loop.midFlight)
    }
}

extension HostBehaviour {
    /// The host as it is, or as one that counts no instructions.
    func counting(_ counts: Bool) -> HostBehaviour {
        var result = self
        if !counts { result.instructionCounter = .no }
        return result
    }
}
