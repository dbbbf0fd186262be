public import Devices
internal import Glibc
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
    private var clock: GuestClock
    private let cpuidTable: [CPUIDEntry]
    private let stop: StopRequest
    private let hasCompletions: Bool
    /// How long the guest has made no exit, under a virtual clock.
    private var silence: Silence
    /// It made none since the kick before.
    private var isSilent = false

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
    }

    /// An exit was made: time passes, and devices are brought up to it.
    @inline(__always)
    private mutating func advance() {
        guard devices.machine == .pc else { return }
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
        case .timeStamp: clock.setTimeStamp(value)
        case .timeStampAdjust: clock.timeStampAdjust = value
        case .zero: break
        case .absent, nil: return false
        }
        return true
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
            // OSXSAVE shows CR4's bit 18, whatever the table says.
            let isEnabled = system[.cr4] >> 18 & 1 != 0
            row.ecx = row.ecx & ~(1 << 27) | (isEnabled ? 1 << 27 : 0)
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
        guard natural.reason == .halted, canWake else { return .end(natural) }
        switch idle() {
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

    /// Whether an interrupt waits for the CPU.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool { devices.hasInterrupt }

    /// The interrupt controller's acknowledge cycle.
    public mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        waitingSince = nil
        // The 8259 gives a vector in any case: that of the spurious interrupt where nothing is
        // pending any more.
        return devices.acknowledgeInterrupt() ?? 0
    }

    /// When an interrupt that waits, or that the next deadline raises, has waited long enough.
    /// Under a virtual clock, with which a run is to be the same every time, nothing is injected:
    /// the kick looks whether the guest waits in vain.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? {
        guard devices.machine == .pc else { return nil }
        guard clock.isHost else {
            return silence.policy == .kick ? Silence.kickNanoseconds : Silence.lookNanoseconds
        }
        if devices.hasInterrupt { return Self.patienceNanoseconds }
        guard let deadline = devices.nextDeadline else { return nil }
        let now = clock.nanoseconds
        return (deadline > now ? deadline - now : 0) &+ Self.patienceNanoseconds
    }

    /// Lets time pass, and looks whether an interrupt has waited too long.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool {
        guard devices.machine == .pc else { return false }
        guard clock.isHost else { return isSilent && devices.hasInterrupt }
        let wasWaiting = devices.hasInterrupt
        let deadline = devices.nextDeadline
        advance()
        guard devices.hasInterrupt else { return false }
        let now = clock.nanoseconds
        let since = waitingSince ?? (wasWaiting ? now : min(deadline ?? now, now))
        waitingSince = since
        return now &- since >= Self.patienceNanoseconds
    }

    /// Only under a virtual clock.
    public var watchesSilence: Bool { devices.machine == .pc && !clock.isHost }

    /// A guest that waits without an exit for an interrupt which the clock would have to bring is
    /// stalled, or the clock moves on.
    public mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? {
        let now = HostThread.monotonicNanoseconds()
        isSilent = silence.notes(exitCount: exitCount, progress: progress, now: now)
        let deadline = devices.nextDeadline
        guard isSilent, canWake, devices.hasInterrupt || deadline != nil else { return nil }
        if silence.policy == .end {
            return silence.isTooLong(progress: progress, now: now)
                ? Ending(.stalled, isInMidFlight: true) : nil
        }
        if !devices.hasInterrupt, let deadline {
            _ = clock.idle(until: deadline)
            devices.advance(to: clock.nanoseconds)
        }
        return nil
    }

    /// What became of a guest that waits for an interrupt.
    private enum Idling {
        /// There is one, or somebody wants the run to end.
        case woken
        /// None can come any more.
        case asleepForEver
        /// A virtual clock ran on and on, and none came.
        case stalled
    }

    /// The guest waits for an interrupt.
    @inline(never)
    private mutating func idle() -> Idling {
        devices.flush()
        var jumps = 0
        while !devices.hasInterrupt {
            // Somebody wants the run to end: it ends at this very exit.
            if stop.reason != nil { return .woken }
            let deadline = devices.nextDeadline
            guard deadline != nil || devices.canInputInterrupt else { return .asleepForEver }
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
            } else if !clock.isHost {
                jumps += 1
                if jumps > Self.longestIdling { return .stalled }
            }
            devices.advance(to: clock.nanoseconds)
        }
        return .woken
    }

    /// Deadlines that a virtual clock may come to while the guest waits, and none of them raises an
    /// interrupt: a timer whose last interrupt was never ended. Six minutes of one at 1 kHz.
    private static let longestIdling = 360_000

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
