public import Devices
public import Guest
internal import KVM
public import Machine
public import Trace

/// The live world: device models on their buses, and a clock.
public struct LiveWorld: World, ~Copyable {
    /// The devices.
    public var devices: DeviceSet
    /// What a device asked for in the exit that is being handled.
    private var outcome = DeviceOutcome.none
    var clock: GuestClock
    private let cpuidTable: [CPUIDEntry]
    let stop: StopRequest
    private let hasCompletions: Bool
    /// How long the guest has made no exit, under a virtual clock.
    private var silence: Silence
    /// It made none since the kick before.
    private var isSilent = false
    /// IA32_TSC_DEADLINE is there, as CPUID shows (leaf 1, ECX bit 24).
    private let hasTimerDeadline: Bool

    /// How long an interrupt waits for an exit before it is injected in mid-flight.
    private static let patienceNanoseconds: UInt64 = 1_000_000
    /// Since when the interrupt that waits does so, on the device clock, once a kick found it.
    private var waitingSince: UInt64?
    /// When a device has something to do by itself next; `.max`: never.
    var deadline = UInt64.max
    /// The devices were brought up to a time since ``deadline`` was asked for.
    var hasMoved = false
    /// What came from outside and no listener was told of; kept for a world stream only.
    var arrivals: [WorldEvent] = []
    var keepsArrivals = false
    /// The world is run again by what was recorded.
    var isRerun = false
    var script = WorldScript()

    /// Makes a world.
    ///
    /// - Parameters:
    ///   - clock: what devices and rewritten RDTSCs see.
    ///   - cpuidTable: what rewritten CPUIDs show.
    ///   - stop: ends the wait of an idle guest.
    ///   - hasCompletions: completes instructions that KVM cannot emulate.
    ///   - stall: what becomes of a guest that waits for a virtual clock without an exit.
    public init(
        devices: consuming DeviceSet, clock: ClockKind = .host, cpuidTable: [CPUIDEntry] = [],
        stop: StopRequest = StopRequest(), hasCompletions: Bool = true,
        stall: StallPolicy = .end
    ) {
        self.devices = devices
        self.clock = GuestClock(clock)
        self.cpuidTable = cpuidTable
        self.stop = stop
        self.hasCompletions = hasCompletions
        silence = Silence(stall)
        hasTimerDeadline =
            self.devices.machine.hasAPIC
            && cpuidTable.contains { $0.function == 1 && $0.ecx >> 24 & 1 != 0 }
    }

    /// Keeps what comes from outside from now on, for ``tellArrivals(_:)``.
    mutating func keepArrivals() {
        keepsArrivals = true
        arrivals.reserveCapacity(64)
        devices.keepTakenInput()
    }

    /// Whether something came from outside that no listener was told of.
    @inline(__always)
    public var hasArrivals: Bool { !arrivals.isEmpty }

    /// Tells a listener what came from outside since the last call.
    public mutating func tellArrivals<Listener: RunListener & ~Copyable>(
        _ listener: inout Listener
    ) throws(ExecutionError) {
        for event in arrivals { try listener.arrival(event) }
        arrivals.removeAll(keepingCapacity: true)
    }

    // MARK: Accesses

    /// A port write reaches its device.
    @inline(__always)
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        pass(dependsOnTime: devices.dependsOnTime(port: port, size: size))
        // SAFETY: the buffer is the caller's, alive through the call.
        outcome = unsafe devices.portOut(port, size: size, bytes)
        settle()
    }

    /// A port read is answered by its device.
    @inline(__always)
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        pass(dependsOnTime: devices.dependsOnTime(port: port, size: size))
        // SAFETY: the buffer is the caller's, alive through the call.
        unsafe devices.portIn(port, size: size, into: bytes)
        settle()
    }

    /// A write to device memory reaches its device.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        pass(dependsOnTime: devices.dependsOnTime(address: address.rawValue))
        // SAFETY: the buffer is the caller's, alive through the call.
        outcome = unsafe devices.memoryWrite(address, bytes)
        settle()
    }

    /// A read of device memory is answered by its device.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        pass(dependsOnTime: devices.dependsOnTime(address: address.rawValue))
        // SAFETY: the buffer is the caller's, alive through the call.
        unsafe devices.memoryRead(address, into: bytes)
        settle()
    }

    /// As ``FilteredMSRs`` has it.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        pass(dependsOnTime: true)
        defer { settle() }
        switch FilteredMSRs.meaning(of: index) {
        case .timeStamp: return clock.timeStamp
        case .timeStampAdjust: return clock.timeStampAdjust
        case .timerDeadline: return hasTimerDeadline ? devices.timerDeadline : nil
        case .zero: return 0
        case .absent, nil: return nil
        }
    }

    /// As ``FilteredMSRs`` has it.
    public mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool {
        pass(dependsOnTime: true)
        defer {
            hasMoved = true
            settle()
        }
        switch FilteredMSRs.meaning(of: index) {
        case .timeStamp:
            clock.setTimeStamp(value)
            arm(devices.timerDeadline)
        case .timeStampAdjust:
            clock.timeStampAdjust = value
            arm(devices.timerDeadline)
        case .timerDeadline:
            guard hasTimerDeadline else { return false }
            arm(value)
        case .zero: break
        case .absent, nil: return false
        }
        return true
    }

    /// The local APIC's timer expires when the counter has a value; 0: it does not.
    private mutating func arm(_ deadline: UInt64) {
        devices.setTimerDeadline(deadline, at: clock.time(of: deadline))
    }

    /// The clock's time, in ticks of 1 GHz, and what the guest added to it.
    public mutating func timeStamp() throws(ExecutionError) -> UInt64 {
        clock.tick()
        return clock.timeStamp
    }

    /// The row of the table, as CPUID picks it (Intel SDM vol. 2, CPUID): beyond the highest basic
    /// leaf, and where there is no such row, zeros.
    public mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer {
        let row = cpuidTable.first {
            $0.function == function && (!$0.isIndexSignificant || $0.index == index)
        }
        guard var row else { return CPUIDAnswer(eax: 0, ebx: 0, ecx: 0, edx: 0) }
        if function == 1 {
            // OSXSAVE shows CR4's bit 18, APIC IA32_APIC_BASE's bit 11, whatever the table says.
            row.ecx = row.ecx & ~(1 << 27) | UInt32(system[.cr4] >> 18 & 1) << 27
            row.edx = row.edx & ~(1 << 9) | UInt32(system[.apicBase] >> 11 & 1) << 9
        }
        return CPUIDAnswer(eax: row.eax, ebx: row.ebx, ecx: row.ecx, edx: row.edx)
    }

    /// Ends the run where a device or the exit itself says so, and waits out a HLT.
    @inline(__always)
    public mutating func verdict(
        natural: Ending?, canWake: Bool
    ) throws(ExecutionError) -> Verdict {
        if outcome != .none {
            return outcome == .directMemory ? .transfer : .end(takeOutcome())
        }
        guard let natural else { return .go }
        pass(dependsOnTime: true)
        settle()
        guard natural.reason == .halted, canWake else { return .end(natural) }
        switch isRerun ? idleAgain() : idle() {
        case .woken: return .go
        case .asleepForEver: return .end(natural)
        case .stalled: return .end(Ending(.stalled))
        }
    }

    /// Serves the device that asked for it.
    public mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] {
        outcome = .none
        var access = DeviceMemory(memory)
        try devices.transfer(with: &access)
        return access.writes
    }

    /// Whether that was asked for.
    public mutating func completesInstruction() throws(ExecutionError) -> Bool { hasCompletions }

    /// What vmtape can do is done.
    public mutating func changesToMake(
        _ carriedOut: [Change]?
    ) throws(ExecutionError) -> [Change]? { carriedOut }

    /// The local APIC takes its priority and its place from there.
    @inline(__always)
    public mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) {
        // What the priority held back, or lets through now, changes what is waited for.
        if devices.synchroniseAPIC(taskPriorityClass: taskPriorityClass, base: apicBase) {
            deadline = devices.nextDeadline ?? .max
        }
    }

    /// Whether an interrupt waits for the CPU.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        devices.machine.isPC && (devices.hasInterrupt || devices.hasNonMaskableInterrupt)
    }

    /// Whether the local APIC has one.
    public mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool {
        devices.hasNonMaskableInterrupt
    }

    /// The local APIC's is taken.
    public mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) {
        devices.acknowledgeNonMaskableInterrupt()
    }

    /// The interrupt controller's acknowledge cycle.
    public mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        waitingSince = nil
        defer { deadline = devices.nextDeadline ?? .max }
        // The 8259 gives a vector in any case: that of the spurious interrupt where nothing is
        // pending any more.
        return devices.acknowledgeInterrupt() ?? 0
    }

    /// None is known beforehand: the loop looks for them.
    @inline(__always)
    public mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress? { nil }

    /// It does.
    @inline(__always)
    public var choosesRewritings: Bool { true }

    /// None: an interrupt in mid-flight is injected where a kick finds the guest.
    public mutating func landmark() throws(ExecutionError) -> Landmark? { nil }

    /// Cannot be.
    public mutating func missed(_ miss: LandmarkMiss) {}

    /// There is none.
    @inline(__always)
    public var isLeavingTape: Bool { false }

    /// Cannot be.
    public mutating func leaveTape() throws(ExecutionError) {}

    /// When an interrupt that waits, or that the next deadline raises, has waited long enough.
    /// Under a virtual clock, with which a run is to be the same every time, nothing is injected:
    /// the kick looks whether the guest waits in vain.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? {
        guard devices.machine.isPC else { return nil }
        guard clock.isHost else {
            return silence.policy == .kick ? Silence.kickNanoseconds : Silence.lookNanoseconds
        }
        if devices.hasInterrupt || devices.isHoldingBack { return Self.patienceNanoseconds }
        guard deadline != .max else { return nil }
        let now = clock.nanoseconds
        return (deadline > now ? deadline - now : 0) &+ Self.patienceNanoseconds
    }

    /// Lets time pass, and looks whether an interrupt has waited too long.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool {
        guard devices.machine.isPC else { return false }
        guard clock.isHost else {
            return silence.policy == .kick && isSilent && devices.hasInterrupt
        }
        let wasWaiting = devices.hasInterrupt
        let wasDue = deadline
        devices.admitInput()
        clock.tick()
        // Where nothing comes of it, nothing is noted, however often the guest is kicked.
        if clock.deviceNanoseconds >= deadline || devices.takesInputNow {
            move(to: clock.deviceNanoseconds, .kick)
            settle()
        }
        guard devices.hasInterrupt else { return false }
        let now = clock.nanoseconds
        let since = waitingSince ?? (wasWaiting ? now : min(wasDue, now))
        waitingSince = since
        return now &- since >= Self.patienceNanoseconds
    }

    /// Only under a virtual clock.
    public var watchesSilence: Bool { devices.machine.isPC && !clock.isHost }

    /// A guest that waits without an exit for an interrupt which the clock would have to bring is
    /// stalled, or the clock moves on.
    public mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? {
        let now = HostThread.monotonicNanoseconds()
        isSilent = silence.notes(exitCount: exitCount, progress: progress, now: now)
        let due = devices.nextDeadline
        guard isSilent, canWake, devices.hasInterrupt || due != nil else { return nil }
        if silence.policy == .end {
            return silence.isTooLong(progress: progress, now: now)
                ? Ending(.stalled, isInMidFlight: true) : nil
        }
        if !devices.hasInterrupt, let due, due < .max - 1000 {
            // In whole microseconds, as the world stream keeps it.
            let time = (max(due, clock.nanoseconds) + 999) / 1000 * 1000
            clock.set(time)
            move(to: time, .kick)
            settle()
        }
        return nil
    }

    private mutating func takeOutcome() -> Ending {
        defer { outcome = .none }
        switch outcome {
        case .none, .directMemory, .reset: return Ending(.reset)
        case .debugExit(let status):
            return Ending(.debugExit, guestStatus: Int32(truncatingIfNeeded: status))
        case .powerOff: return Ending(.powerOff)
        }
    }
}
