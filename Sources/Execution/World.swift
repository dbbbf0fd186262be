public import Guest
public import Machine
public import Trace

/// Why the outside ends a run, and with which status of the guest's own.
public struct Ending: Equatable, Sendable {
    /// Why.
    public var reason: EndReason
    /// The guest's own status, where it gave one.
    public var guestStatus: Int32?
    /// The run ends between two exits: its position cannot be found again exactly.
    public var isInMidFlight: Bool

    /// Makes an ending.
    public init(_ reason: EndReason, guestStatus: Int32? = nil, isInMidFlight: Bool = false) {
        self.reason = reason
        self.guestStatus = guestStatus
        self.isInMidFlight = isInMidFlight
    }
}

/// What follows an exit that has been answered.
public enum Verdict: Equatable, Sendable {
    /// The guest runs on.
    case go
    /// The run ends here.
    case end(Ending)
    /// A device wants to reach RAM: ``World/deviceWrites(_:)`` comes first, then another verdict.
    case transfer
    /// The tape ends here, and does not say why: an incomplete recording.
    case endOfTape
}

/// Everything that reaches the CPU and its RAM from outside (DESIGN 1): the cut of a recording.
///
/// There is the live world, which is device models, and the taped world, which is what a trace says
/// the live world answered; ``Branch`` goes from one to the other. Buffers are the run page's own; a world fills or reads
/// them in place. No requirement has a default: whoever passes a world's answers on has to pass on
/// all of them.
public protocol World: ~Copyable {
    /// The guest wrote to a port: `bytes` holds `bytes.count / size` accesses of `size` bytes.
    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError)

    /// The guest reads a port: fills `bytes`, which holds `bytes.count / size` accesses.
    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError)

    /// The guest wrote 1–8 bytes to an address that no RAM covers.
    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError)

    /// The guest reads 1–8 bytes from an address that no RAM covers.
    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError)

    /// The guest reads an MSR that the filter gives to user space; nil: the guest gets #GP.
    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64?

    /// The guest writes an MSR that the filter gives to user space; false: the guest gets #GP.
    mutating func writeMSR(_ index: UInt32, _ value: UInt64) throws(ExecutionError) -> Bool

    /// The time-stamp counter, for an RDTSC that was rewritten to an exit.
    mutating func timeStamp() throws(ExecutionError) -> UInt64

    /// What CPUID shows, for a CPUID that was rewritten to an exit.
    mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer

    /// Whether the guest runs on after the exit that has just been answered.
    ///
    /// - Parameters:
    ///   - natural: how the exit itself ends a run on a bare machine (HLT with nothing to wake the
    ///     CPU, a triple fault); nil for an exit that can be answered.
    ///   - canWake: interrupts are enabled, so that a HLT can be waited out.
    mutating func verdict(natural: Ending?, canWake: Bool) throws(ExecutionError) -> Verdict

    /// What a device puts in RAM at this exit, in order; asked for by ``Verdict/transfer``.
    ///
    /// The caller makes the writes, whether or not the device has made them already.
    mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite]

    /// Whether an instruction that KVM could not emulate may be completed: at the exit that has
    /// just been listened to.
    mutating func completesInstruction() throws(ExecutionError) -> Bool

    /// What a completion changes.
    ///
    /// - Parameter carriedOut: what vmtape would do in the CPU's place; nil where it cannot.
    /// - Returns: what is to be done; nil: the instruction is not completed.
    mutating func changesToMake(_ carriedOut: [Change]?) throws(ExecutionError) -> [Change]?

    /// What the CPU holds of its local APIC, as of an exit: CR8 and IA32_APIC_BASE, which the guest
    /// changes without one. Told only where the machine has a local APIC.
    mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError)

    /// Whether an interrupt waits for the CPU to take it.
    mutating func hasInterrupt() throws(ExecutionError) -> Bool

    /// Whether what waits is a non-maskable interrupt.
    mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool

    /// Takes the non-maskable interrupt that waits.
    mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError)

    /// Takes the interrupt that waits, as the CPU's acknowledge cycle does: its vector.
    mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8

    /// When to kick the guest out of a long computation, from now, so that no interrupt waits
    /// without bound; nil: there is nothing to wait for.
    mutating func kickDelay() throws(ExecutionError) -> UInt64?

    /// A kick came and time passed: whether an interrupt has waited so long that it is to be
    /// injected between two exits.
    mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool

    /// Whether a kick is to look at how long the guest has made no exit.
    var watchesSilence: Bool { get }

    /// A kick came: what becomes of a guest that has made no exit for long; nil: it runs on.
    ///
    /// - Parameters:
    ///   - exitCount: exits so far.
    ///   - progress: the host's count of the guest's instructions; nil where it has none.
    ///   - canWake: interrupts are enabled.
    mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending?

    /// The place in mid-flight where the interrupt that waits is to be injected; nil: at an exit.
    mutating func landmark() throws(ExecutionError) -> Landmark?

    /// The landmark was not found: the run ends.
    mutating func missed(_ miss: LandmarkMiss)

    /// Where the instruction stands that is rewritten before the next exit, as it is about to be
    /// executed; nil: there is none, or none is known.
    mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress?

    /// Whether the loop looks for instructions to be rewritten, where it can; else
    /// ``nextRewriting()`` tells of them.
    var choosesRewritings: Bool { get }

    /// Whether something came from outside that no listener was told of.
    var hasArrivals: Bool { get }

    /// Tells a listener what came from outside since the last call.
    mutating func tellArrivals<Listener: RunListener & ~Copyable>(
        _ listener: inout Listener
    ) throws(ExecutionError)
}

/// What CPUID gives.
public struct CPUIDAnswer: Equatable, Sendable {
    /// EAX, EBX, ECX, EDX.
    public var words: InlineArray<4, UInt32>

    /// Makes an answer.
    public init(eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) {
        words = [eax, ebx, ecx, edx]
    }

    /// Whether all four registers are equal.
    public static func == (a: Self, b: Self) -> Bool {
        a.words[0] == b.words[0] && a.words[1] == b.words[1] && a.words[2] == b.words[2]
            && a.words[3] == b.words[3]
    }
}
