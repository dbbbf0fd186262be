public import Devices
internal import Glibc
public import Guest
public import Machine
public import Trace

/// The live world: device models on their buses, and a clock.
public struct LiveWorld: World, ~Copyable {
    /// The devices.
    public var devices: DeviceSet
    /// What a device asked for in the exit that is being handled.
    private var outcome = DeviceOutcome.none
    private var clock: GuestClock
    private let cpuidTable: [CPUIDEntry]
    private let stop: StopRequest
    private let hasCompletions: Bool
    /// IA32_TSC_DEADLINE is there, as CPUID shows (leaf 1, ECX bit 24).
    private let hasTimerDeadline: Bool

    /// While the guest idles on the host's clock, how long to sleep before looking around for
    /// keys and requests to end.
    private static let napNanoseconds: UInt64 = 5_000_000

    /// How long an interrupt waits for an exit before it is injected in mid-flight.
    private static let patienceNanoseconds: UInt64 = 1_000_000
    /// Since when the interrupt that waits does so, on the device clock, once a kick found it.
    private var waitingSince: UInt64?

    /// Makes a world.
    ///
    /// - Parameters:
    ///   - clock: what devices and rewritten RDTSCs see.
    ///   - cpuidTable: what rewritten CPUIDs show.
    ///   - stop: ends the wait of an idle guest.
    ///   - hasCompletions: completes instructions that KVM cannot emulate.
    public init(
        devices: consuming DeviceSet, clock: ClockKind = .host, cpuidTable: [CPUIDEntry] = [],
        stop: StopRequest = StopRequest(), hasCompletions: Bool = true
    ) {
        self.devices = devices
        self.clock = GuestClock(clock)
        self.cpuidTable = cpuidTable
        self.stop = stop
        self.hasCompletions = hasCompletions
        hasTimerDeadline =
            self.devices.machine.hasAPIC
            && cpuidTable.contains { $0.function == 1 && $0.ecx >> 24 & 1 != 0 }
    }

    /// An exit was made: time passes, and devices are brought up to it.
    @inline(__always)
    private mutating func advance() {
        guard devices.machine.isPC else { return }
        clock.tick()
        devices.advance(to: clock.nanoseconds)
    }

    /// A port write reaches its device.
    @inline(__always)
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        advance()
        // SAFETY: the buffer is the caller's, alive through the call.
        outcome = unsafe devices.portOut(port, size: size, bytes)
    }

    /// A port read is answered by its device.
    @inline(__always)
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        advance()
        // SAFETY: the buffer is the caller's, alive through the call.
        unsafe devices.portIn(port, size: size, into: bytes)
    }

    /// A write to device memory reaches its device.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        advance()
        // SAFETY: the buffer is the caller's, alive through the call.
        outcome = unsafe devices.memoryWrite(address, bytes)
    }

    /// A read of device memory is answered by its device.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        advance()
        // SAFETY: the buffer is the caller's, alive through the call.
        unsafe devices.memoryRead(address, into: bytes)
    }

    /// As ``FilteredMSRs`` has it.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        advance()
        switch FilteredMSRs.meaning(of: index) {
        case .timeStamp: return try timeStamp()
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
        advance()
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
        devices.advance(to: clock.nanoseconds)
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
        advance()
        if natural.reason == .halted, canWake, idle() { return .go }
        return .end(natural)
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
        devices.synchroniseAPIC(taskPriorityClass: taskPriorityClass, base: apicBase)
    }

    /// Whether an interrupt waits for the CPU.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        devices.hasInterrupt || devices.hasNonMaskableInterrupt
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
        // The 8259 gives a vector in any case: that of the spurious interrupt where nothing is
        // pending any more.
        return devices.acknowledgeInterrupt() ?? 0
    }

    /// When an interrupt that waits, or that the next deadline raises, has waited long enough.
    /// Only under the host's clock: with a virtual one a run is to be the same every time.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? {
        guard devices.machine.isPC, clock.isHost else { return nil }
        if devices.hasInterrupt { return Self.patienceNanoseconds }
        guard let deadline = devices.nextDeadline else { return nil }
        let now = clock.nanoseconds
        return (deadline > now ? deadline - now : 0) &+ Self.patienceNanoseconds
    }

    /// Lets time pass, and looks whether an interrupt has waited too long.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool {
        guard devices.machine.isPC, clock.isHost else { return false }
        let wasWaiting = devices.hasInterrupt
        let deadline = devices.nextDeadline
        advance()
        guard devices.hasInterrupt else { return false }
        let now = clock.nanoseconds
        let since = waitingSince ?? (wasWaiting ? now : min(deadline ?? now, now))
        waitingSince = since
        return now &- since >= Self.patienceNanoseconds
    }

    /// The guest waits for an interrupt. False where none can come any more.
    @inline(never)
    private mutating func idle() -> Bool {
        devices.flush()
        while !devices.hasInterrupt, !devices.hasNonMaskableInterrupt {
            // Somebody wants the run to end: it ends at this very exit.
            if stop.reason != nil { return true }
            let deadline = devices.nextDeadline
            guard deadline != nil || devices.canInputInterrupt else { return false }
            let nap: UInt64
            if let deadline {
                nap = min(clock.idle(until: deadline), Self.napNanoseconds)
            } else {
                // Keys come in the host's time; a virtual clock stands still meanwhile.
                nap = Self.napNanoseconds
            }
            if nap > 0 {
                var wait = timespec(tv_sec: 0, tv_nsec: Int(nap))
                // SAFETY: the struct lives through the call; the rest of the time is not asked for.
                unsafe nanosleep(&wait, nil)
                if clock.isHost { clock.tick() }
            }
            devices.advance(to: clock.nanoseconds)
        }
        return true
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
