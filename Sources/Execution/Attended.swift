public import Guest
public import Machine
public import Trace

/// A world with somebody who listens beside it: what the loop runs live guests in.
///
/// (The tape is both by itself: what it answers and what it compares come from one cursor.)
public struct Attended<Surroundings: World & ~Copyable, Listener: RunListener & ~Copyable>:
    ~Copyable
{
    /// What answers.
    public var world: Surroundings
    /// Who listens.
    public var listener: Listener

    /// Puts the two together.
    public init(world: consuming Surroundings, listener: consuming Listener) {
        self.world = world
        self.listener = listener
    }
}

// SAFETY (whole extensions): buffers and pointers are passed on, and not kept.
extension Attended: World where Surroundings: ~Copyable, Listener: ~Copyable {
    /// The world's arrivals go to the listener after the event at which they came.
    @inline(__always)
    private mutating func tellArrivals() throws(ExecutionError) {
        if world.hasArrivals { try world.tellArrivals(&listener) }
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        try unsafe world.portOut(port, size: size, bytes: bytes)
        try tellArrivals()
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        try unsafe world.portIn(port, size: size, into: bytes)
        try tellArrivals()
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        try unsafe world.memoryWrite(address, bytes: bytes)
        try tellArrivals()
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        try unsafe world.memoryRead(address, into: bytes)
        try tellArrivals()
    }

    /// Passed on to the world.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        let value = try world.readMSR(index)
        try tellArrivals()
        return value
    }

    /// Passed on to the world.
    public mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool {
        let isTaken = try world.writeMSR(index, value)
        try tellArrivals()
        return isTaken
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func verdict(
        natural: Ending?, canWake: Bool
    ) throws(ExecutionError) -> Verdict {
        let verdict = try world.verdict(natural: natural, canWake: canWake)
        try tellArrivals()
        return verdict
    }

    /// Passed on to the world.
    public mutating func timeStamp() throws(ExecutionError) -> UInt64 { try world.timeStamp() }

    /// Passed on to the world.
    public mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer {
        try world.cpuid(function: function, index: index, system: system)
    }

    /// Passed on to the world.
    public mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] { try world.deviceWrites(memory) }

    /// Passed on to the world.
    public mutating func completesInstruction() throws(ExecutionError) -> Bool {
        try world.completesInstruction()
    }

    /// Passed on to the world.
    public mutating func changesToMake(
        _ carriedOut: [Change]?
    ) throws(ExecutionError) -> [Change]? { try world.changesToMake(carriedOut) }

    /// Passed on to the world.
    @inline(__always)
    public mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) {
        try world.processorHolds(taskPriorityClass: taskPriorityClass, apicBase: apicBase)
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        try world.hasInterrupt()
    }

    /// Passed on to the world.
    public mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool {
        try world.hasNonMaskableInterrupt()
    }

    /// Passed on to the world.
    public mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) {
        try world.acknowledgeNonMaskableInterrupt()
    }

    /// Passed on to the world.
    public mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        try world.acknowledgeInterrupt()
    }

    /// Passed on to the world.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? { try world.kickDelay() }

    /// Passed on to the world.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool {
        let isOverdue = try world.hasOverdueInterrupt()
        try tellArrivals()
        return isOverdue
    }

    /// Passed on to the world.
    public var watchesSilence: Bool { world.watchesSilence }

    /// Passed on to the world.
    public mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? {
        let ending = try world.silence(
            exitCount: exitCount, progress: progress, canWake: canWake)
        try tellArrivals()
        return ending
    }

    /// Passed on to the world.
    public mutating func landmark() throws(ExecutionError) -> Landmark? { try world.landmark() }

    /// Passed on to the world.
    @inline(__always)
    public mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress? {
        try world.nextRewriting()
    }

    /// Passed on to the world.
    @inline(__always)
    public var choosesRewritings: Bool { world.choosesRewritings }

    /// No: the listener is told at once.
    @inline(__always)
    public var hasArrivals: Bool { false }

    /// Nothing is left to tell.
    public mutating func tellArrivals<Other: RunListener & ~Copyable>(
        _ listener: inout Other
    ) throws(ExecutionError) {}

    /// Passed on to the world.
    public mutating func missed(_ miss: LandmarkMiss) { world.missed(miss) }
}

extension Attended: RunListener where Surroundings: ~Copyable, Listener: ~Copyable {
    /// Whether the listener does.
    @inline(__always)
    public static var isListening: Bool { Listener.isListening }

    /// Passed on to the listener.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        try unsafe listener.exit(
            detail, flags: flags, rewind: rewind, registers: registers, system: system,
            entered: entered, returned: returned)
    }

    /// Passed on to the listener.
    @inline(__always)
    public mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        try unsafe listener.answer(form, bytes)
    }

    /// Passed on to the listener.
    public mutating func interruption(
        _ interruption: Interruption
    ) throws(ExecutionError) -> Bool {
        try listener.interruption(interruption)
    }

    /// Passed on to the listener.
    public mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool {
        try listener.deviceWrite(write)
    }

    /// Passed on to the listener.
    public mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool {
        try listener.completion(changes)
    }

    /// Passed on to the listener.
    public mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {
        try listener.arrival(event)
    }
}
