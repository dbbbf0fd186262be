internal import Devices
internal import Execution
internal import Glibc
internal import Guest
internal import KVM
internal import Machine
internal import Trace

extension Bench {
    /// What the vCPU thread spends on encoding an exit and its answer, against the round trip of
    /// the very same exits.
    func encoding() throws -> [Figure] {
        let guest = try BenchGuest(options.guest, rounds: options.roundsPerRecording, cpu: cpu)
        var machine = try GuestMachine(
            hypervisor: host.hypervisor, plan: guest.plan, cpuid: host.guestCPUID())
        let start = HostThread.timestamp()
        let startNanoseconds = HostThread.monotonicNanoseconds()
        var writer = try TraceWriter(
            path: path("encoding"),
            header: TraceHeader(machine: .init(ramBytes: guest.plan.ram.lengthInBytes)),
            options: TraceOptions(
                timing: TimeBase(ticksPerSecond: 1_000_000_000, origin: start), overwrites: true))
        try writer.start(registers: machine.registers, system: machine.systemRegisters)
        var loop = RunLoop(behaviour: host.probe.behaviour, stop: StopRequest())
        var side = Attended(
            world: LiveWorld(devices: try DeviceSet(.init())),
            listener: TimedRecorder(
                Recorder(writer: writer), capacity: options.roundsPerRecording * 2 + 64))
        // After the writer's thread exists, which would inherit it.
        let pin = try ThreadPin(toCPU: cpu)
        _ = try machine.run(&loop, &side)
        extendLifetime(pin)
        let ticks = Double(HostThread.timestamp() &- start)
        let perNanosecond =
            ticks / Double(HostThread.monotonicNanoseconds() - startNanoseconds)
        let costs = side.listener.costs.sorted()
        // The slowest thousandth is where something else ran on this CPU; a slot of the ring, which
        // a cell of 4096 exits fills, costs what it costs within the rest.
        let counted = costs.prefix(costs.count - costs.count / 1000)
        let mean = Double(counted.reduce(0) { $0 + UInt64($1) }) / Double(max(1, counted.count))
        let roundTrip = median(side.listener.roundTrips.map(Double.init))
        return [
            Figure(
                name: "encoding / round trip", value: 100 * mean / roundTrip, unit: "%",
                goal: .atMost(1),
                note: "\(Figure.short(mean / perNanosecond)) of "
                    + "\(Figure.short(roundTrip / perNanosecond)) ns, mean of \(counted.count)")
        ]
    }
}

/// A recorder whose calls are timed by the time-stamp counter.
struct TimedRecorder: RunListener, ~Copyable {
    private var recorder: Recorder
    /// Ticks of each exit, with its answer.
    private(set) var costs: [UInt32] = []
    /// Ticks between one exit and the next.
    private(set) var roundTrips: [UInt32] = []
    private var previous: UInt64 = 0
    private let overhead: UInt64

    init(_ recorder: consuming Recorder, capacity: Int) {
        self.recorder = recorder
        costs.reserveCapacity(capacity)
        roundTrips.reserveCapacity(capacity)
        // What reading the counter twice costs by itself.
        overhead =
            (0..<1000).map { _ in
                let begin = HostThread.timestamp()
                return HostThread.timestamp() &- begin
            }.min() ?? 0
    }

    static var isListening: Bool { true }

    mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        if previous != 0 {
            roundTrips.append(UInt32(truncatingIfNeeded: returned &- previous))
        }
        previous = returned
        let begin = HostThread.timestamp()
        // SAFETY: the pointers are the loop's, valid during the call.
        let goesOn = try unsafe recorder.exit(
            detail, flags: flags, rewind: rewind, registers: registers, system: system,
            entered: entered, returned: returned)
        let ticks = HostThread.timestamp() &- begin
        costs.append(UInt32(truncatingIfNeeded: ticks &- min(ticks, overhead)))
        return goesOn
    }

    mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        let begin = HostThread.timestamp()
        // SAFETY: the buffer is the loop's, valid during the call.
        let goesOn = try unsafe recorder.answer(form, bytes)
        let ticks = HostThread.timestamp() &- begin
        if let last = costs.popLast() {
            costs.append(last &+ UInt32(truncatingIfNeeded: ticks &- min(ticks, overhead)))
        }
        return goesOn
    }

    mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool {
        try recorder.deviceWrite(write)
    }

    mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool {
        try recorder.completion(changes)
    }

    mutating func interruption(_ interruption: Interruption) throws(ExecutionError) -> Bool {
        try recorder.interruption(interruption)
    }

    mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {
        try recorder.arrival(event)
    }
}
