internal import Devices
internal import Glibc
public import Guest
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
public struct Branch<Listener: RunListener & ~Copyable>: World, RunListener, ~Copyable {
    var tape: Tape
    var world: LiveWorld
    /// Hears everything, taped or live.
    var listener: Listener
    /// The tape does not answer any more.
    public private(set) var isLive = false
    /// Where the devices parted from the tape; nil: they have not.
    public private(set) var disagreement: DeviceDisagreement?

    private var stream: WorldCursor
    /// Goes live after so many exits; nil: never.
    private let liveAfter: UInt64?
    private var exitCount: UInt64 = 0
    /// The console that is connected when the run goes live.
    private var console: ConsoleInput?
    /// Where the devices put their answers.
    private let scratch = AnswerBuffer()

    /// Puts tape and devices together, both at their beginning.
    ///
    /// - Parameters:
    ///   - stream: the trace's world stream from the beginning; empty where it has none.
    ///   - liveAfter: how many exits the tape answers; nil: all.
    ///   - console: the live run's input.
    ///   - printsTapedOutput: prints what the guest printed while the tape answered.
    init(
        tape: consuming Tape, world: consuming LiveWorld, stream: consuming WorldCursor,
        liveAfter: UInt64?, console: consuming ConsoleInput, printsTapedOutput: Bool,
        listener: consuming Listener
    ) {
        self.tape = tape
        self.world = world
        self.stream = stream
        self.liveAfter = liveAfter
        self.console = consume console
        self.listener = listener
        self.world.devices.isMuted = !printsTapedOutput
        self.world.beginRerun()
    }

    // MARK: Both at once

    @inline(__always)
    private mutating func tellArrivals() throws(ExecutionError) {
        if world.hasArrivals { try world.tellArrivals(&listener) }
    }

    private mutating func disagree(_ what: String) {
        guard disagreement == nil else { return }
        disagreement = DeviceDisagreement(exitNumber: exitCount &- 1, what: what)
    }

    /// After the devices were asked something again.
    private mutating func endRerunStep() throws(ExecutionError) {
        if let problem = world.rerunProblem { disagree(problem) }
        try tellArrivals()
    }

    private mutating func goLive() {
        isLive = true
        world.goLive(input: console.take() ?? ConsoleInput())
    }

    /// Compares the devices' bytes, at the front of `scratch`, with the tape's.
    private mutating func compare(
        _ bytes: UnsafeMutableRawBufferPointer, _ place: @autoclosure () -> String
    ) {
        // SAFETY: both hold `bytes.count` bytes: exits have no more than 4096.
        guard let taped = bytes.baseAddress, let own = unsafe scratch.bytes.baseAddress,
            unsafe memcmp(taped, own, bytes.count) != 0
        else { return }
        var difference = 0
        while unsafe difference < bytes.count - 1 && bytes[difference] == scratch.bytes[difference]
        {
            difference += 1
        }
        let (tapedByte, ownByte) = unsafe (bytes[difference], scratch.bytes[difference])
        disagree(
            "\(place()) reads 0x\(String(ownByte, radix: 16)) from the devices, and the tape has "
                + "0x\(String(tapedByte, radix: 16))")
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

    // MARK: The world

    /// The run goes live, or on as the tape says if the devices agree.
    public mutating func verdict(
        natural: Ending?, canWake: Bool
    ) throws(ExecutionError) -> Verdict {
        if !isLive, exitCount == liveAfter { goLive() }
        if isLive {
            let verdict = try world.verdict(natural: natural, canWake: canWake)
            try tellArrivals()
            return verdict
        }
        let taped = try tape.verdict(natural: natural, canWake: canWake)
        switch taped {
        case .end, .endOfTape: return taped
        case .go, .transfer: break
        }
        // An instruction that was completed is no end for anybody.
        let own = try world.verdict(natural: natural, canWake: canWake)
        try endRerunStep()
        switch own {
        case .go: if taped == .transfer { disagree("the tape has a write to RAM of a device here") }
        case .transfer: break
        case .end, .endOfTape: disagree("the devices end the run here, and the tape goes on")
        }
        return disagreement == nil ? own : .endOfTape
    }

    /// The devices', compared when the loop tells of it.
    public mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] { try world.deviceWrites(memory) }

    /// As the tape has it.
    public mutating func completesInstruction() throws(ExecutionError) -> Bool {
        isLive ? try world.completesInstruction() : try tape.completesInstruction()
    }

    /// As the tape has it.
    public mutating func changesToMake(
        _ carriedOut: [Change]?
    ) throws(ExecutionError) -> [Change]? {
        isLive ? try world.changesToMake(carriedOut) : try tape.changesToMake(carriedOut)
    }

    /// As the tape has it.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        isLive ? try world.hasInterrupt() : try tape.hasInterrupt()
    }

    /// The tape's vector, which the devices must give too.
    public mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        if isLive { return try world.acknowledgeInterrupt() }
        let isInMidFlight = try tape.landmark() != nil
        let vector = try tape.acknowledgeInterrupt()
        let own = try world.acknowledgeAgain(isInMidFlight: isInMidFlight)
        try endRerunStep()
        if own != vector {
            disagree("the devices interrupt with vector \(own), and the tape has \(vector)")
        }
        return vector
    }

    /// As the tape has it.
    public mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool {
        isLive ? try world.hasNonMaskableInterrupt() : try tape.hasNonMaskableInterrupt()
    }

    /// The devices must have had one.
    public mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) {
        if !isLive, try !world.hasNonMaskableInterrupt() {
            disagree("the tape has a non-maskable interrupt, and the devices have none")
        }
        try world.acknowledgeNonMaskableInterrupt()
    }

    /// Live only.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? {
        isLive ? try world.kickDelay() : nil
    }

    /// Live only.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool {
        guard isLive else { return false }
        let isOverdue = try world.hasOverdueInterrupt()
        try tellArrivals()
        return isOverdue
    }

    /// Live only.
    public var watchesSilence: Bool { isLive && world.watchesSilence }

    /// Live only.
    public mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? {
        guard isLive else { return nil }
        let ending = try world.silence(
            exitCount: exitCount, progress: progress, canWake: canWake)
        try tellArrivals()
        return ending
    }

    /// The tape's.
    public mutating func landmark() throws(ExecutionError) -> Landmark? {
        isLive ? nil : try tape.landmark()
    }

    /// Kept for the report.
    public mutating func missed(_ miss: LandmarkMiss) { tape.missed(miss) }

    /// The devices do what they did.
    @inline(__always)
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the loop's, valid during the call.
        try unsafe world.portOut(port, size: size, bytes: bytes)
        if isLive { try tellArrivals() } else { try endRerunStep() }
    }

    /// The tape's bytes, which the devices must give too.
    @inline(__always)
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffers are the loop's, valid during the call, and `scratch`.
        if isLive {
            try unsafe world.portIn(port, size: size, into: bytes)
            try tellArrivals()
            return
        }
        try unsafe tape.portIn(port, size: size, into: bytes)
        let own = unsafe UnsafeMutableRawBufferPointer(rebasing: scratch.bytes[..<bytes.count])
        try unsafe world.portIn(port, size: size, into: own)
        try endRerunStep()
        unsafe compare(bytes, "port 0x\(String(port, radix: 16))")
    }

    /// The devices do what they did.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the loop's, valid during the call.
        try unsafe world.memoryWrite(address, bytes: bytes)
        if isLive { try tellArrivals() } else { try endRerunStep() }
    }

    /// The tape's bytes, which the devices must give too.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffers are the loop's, valid during the call, and `scratch`.
        if isLive {
            try unsafe world.memoryRead(address, into: bytes)
            try tellArrivals()
            return
        }
        try unsafe tape.memoryRead(address, into: bytes)
        let own = unsafe UnsafeMutableRawBufferPointer(rebasing: scratch.bytes[..<bytes.count])
        try unsafe world.memoryRead(address, into: own)
        try endRerunStep()
        unsafe compare(bytes, "memory 0x\(String(address.rawValue, radix: 16))")
    }

    /// What the devices know of the CPU, taped or live.
    @inline(__always)
    public mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) {
        try world.processorHolds(taskPriorityClass: taskPriorityClass, apicBase: apicBase)
    }

    /// The tape's.
    @inline(__always)
    public mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress? {
        isLive ? nil : try tape.nextRewriting()
    }

    /// Once it is live.
    @inline(__always)
    public var choosesRewritings: Bool { isLive }

    /// No: the listener is told at once.
    @inline(__always)
    public var hasArrivals: Bool { false }

    /// Nothing is left to tell.
    public mutating func tellArrivals<Other: RunListener & ~Copyable>(
        _ listener: inout Other
    ) throws(ExecutionError) {}

    /// The tape's answer; the world is asked too.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        if isLive {
            let value = try world.readMSR(index)
            try tellArrivals()
            return value
        }
        _ = try world.readMSR(index)
        try endRerunStep()
        return try tape.readMSR(index)
    }

    /// The tape's answer; the world is told too.
    public mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool {
        if isLive {
            let isTaken = try world.writeMSR(index, value)
            try tellArrivals()
            return isTaken
        }
        _ = try world.writeMSR(index, value)
        try endRerunStep()
        return try tape.writeMSR(index, value)
    }

    /// The tape's, from which live time goes on.
    public mutating func timeStamp() throws(ExecutionError) -> UInt64 {
        if isLive { return try world.timeStamp() }
        let value = try tape.timeStamp()
        try world.timeStampAgain(value)
        try endRerunStep()
        return value
    }

    /// The tape's.
    public mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer {
        isLive
            ? try world.cpuid(function: function, index: index, system: system)
            : try tape.cpuid(function: function, index: index, system: system)
    }
}

/// Room for the longest answer (FORMAT.md): 4096 bytes.
@safe
struct AnswerBuffer: ~Copyable {
    let bytes: UnsafeMutableRawBufferPointer

    init() {
        // SAFETY: owned by self, freed in deinit.
        unsafe bytes = .allocate(byteCount: 4096, alignment: 16)
    }

    deinit {
        // SAFETY: allocated in init, and nothing else frees it.
        unsafe bytes.deallocate()
    }
}
