internal import Devices
public import Machine
public import Trace

/// Where devices that were run again gave another answer than the tape has.
public struct DeviceDisagreement: Equatable, Sendable {
    /// The exit.
    public var exitNumber: UInt64
    /// One line: what differs.
    public var what: String
}

/// The tape, with the devices run again beside it; and from a position on, those devices alone:
/// a run that leaves its tape and goes on live (DESIGN 1).
///
/// As long as the tape answers, the devices are asked the same things in the same order, by the
/// code that asked them when they were recorded, and their answers must be the tape's. So at any
/// exit they are what they were then.
public struct Branch<Listener: RunListener & ~Copyable>: RunListener, ~Copyable {
    var tape: Tape
    var world: LiveWorld
    /// Hears everything, taped or live.
    var listener: Listener
    /// The tape does not answer any more.
    public internal(set) var isLive = false
    /// Where the devices parted from the tape; nil: they have not.
    public private(set) var disagreement: DeviceDisagreement?

    private var stream: WorldCursor
    /// Goes live after so many exits; nil: never, or between two.
    let liveAfter: UInt64?
    /// Goes live there; nil: never, or at an exit.
    let departure: Departure?
    var exitCount: UInt64 = 0
    /// The console that is connected when the run goes live.
    private var console: ConsoleInput?
    /// Where the devices put their answers.
    let scratch = AnswerBuffer()

    /// Puts tape and devices together, both at their beginning.
    ///
    /// - Parameters:
    ///   - stream: the trace's world stream from the beginning; empty where it has none.
    ///   - liveAfter: how many exits the tape answers; nil: all.
    ///   - departure: where it is left, if that is between two exits.
    ///   - console: the live run's input.
    ///   - printsTapedOutput: prints what the guest printed while the tape answered.
    init(
        tape: consuming Tape, world: consuming LiveWorld, stream: consuming WorldCursor,
        liveAfter: UInt64?, departure: Departure?, console: consuming ConsoleInput,
        printsTapedOutput: Bool,
        listener: consuming Listener
    ) {
        self.tape = tape
        self.world = world
        self.stream = stream
        self.liveAfter = departure == nil ? liveAfter : nil
        self.departure = departure
        self.console = consume console
        self.listener = listener
        self.world.devices.isMuted = !printsTapedOutput
        self.world.beginRerun()
    }

    // MARK: Both at once

    @inline(__always)
    mutating func tellArrivals() throws(ExecutionError) {
        if world.hasArrivals { try world.tellArrivals(&listener) }
    }

    mutating func disagree(_ what: String) {
        guard disagreement == nil else { return }
        disagreement = DeviceDisagreement(exitNumber: exitCount &- 1, what: what)
    }

    /// After the devices were asked something again.
    mutating func endRerunStep() throws(ExecutionError) {
        if let problem = world.rerunProblem { disagree(problem) }
        try tellArrivals()
    }

    mutating func goLive() {
        isLive = true
        world.goLive(input: console.take() ?? ConsoleInput())
    }

    // MARK: The listener

    /// It does.
    @inline(__always)
    public static var isListening: Bool { true }

    /// The exit is compared with the tape's, or is the first of its kind.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the pointers are the loop's, valid during the call.
        if !isLive {
            guard
                try unsafe tape.exit(
                    detail, flags: flags, rewind: rewind, registers: registers, system: system,
                    entered: entered, returned: returned)
            else { return false }
            try takeEvents()
        }
        exitCount += 1
        return try unsafe listener.exit(
            detail, flags: flags, rewind: rewind, registers: registers, system: system,
            entered: entered, returned: returned)
    }

    /// Hands the world what its stream says of the exit that has come.
    private mutating func takeEvents() throws(ExecutionError) {
        var events: [WorldEvent] = []
        do throws(TraceError) {
            while let next = try stream.peek(), next.exitCount <= exitCount + 1 {
                // Kicks before the first exit need no exit to belong to.
                events.append(next.event)
                _ = try stream.next()
            }
        } catch { throw .trace(error) }
        world.rerun(events)
        try endRerunStep()
    }

    /// The answer is on the tape, and the devices agree; or it is theirs.
    @inline(__always)
    public mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the buffer is the loop's, valid during the call.
        if !isLive {
            guard disagreement == nil, try unsafe tape.answer(form, bytes) else { return false }
        }
        return try unsafe listener.answer(form, bytes)
    }

    /// Compared with the tape's.
    public mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool {
        if !isLive { guard try tape.completion(changes) else { return false } }
        return try listener.completion(changes)
    }

    /// The devices' own write is compared with the tape's.
    public mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool {
        if !isLive {
            guard try tape.deviceWrite(write) else {
                disagree("the devices write other bytes to RAM than the tape has")
                return false
            }
        }
        return try listener.deviceWrite(write)
    }

    /// Compared with the tape's.
    public mutating func interruption(
        _ interruption: Interruption
    ) throws(ExecutionError) -> Bool {
        if !isLive {
            guard disagreement == nil, try tape.interruption(interruption) else { return false }
        }
        return try listener.interruption(interruption)
    }

    /// Passed on.
    public mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {
        try listener.arrival(event)
    }
}
