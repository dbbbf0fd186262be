public import Guest
public import KVM
public import Machine
public import Trace

/// A vCPU as the loop drives it: KVM's in earnest, a scripted one in tests.
///
/// The requirements are those of ``KVM/PendingCPU`` and ``KVM/SettledCPU``; none has a default.
public protocol Processor: ~Copyable {
    /// Runs the guest until it exits or is interrupted.
    mutating func run() throws(KVMError) -> RunResult
    /// The same, with the exits that come by the million apart from the others.
    mutating func run(other: inout Exit) throws(KVMError) -> RunStep
    /// The registers at the last exit; valid until the next run.
    var registersPointer: UnsafePointer<GeneralRegisters> { get }
    /// Segment and control registers at the last exit; valid until the next run.
    var systemRegistersPointer: UnsafePointer<SystemRegisters> { get }
    /// The bytes of the last port access, `size * count` of them.
    mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result
    /// The bytes of the last MMIO access as a little-endian number.
    var mmioValue: UInt64 { get set }
    /// Answers an MSR access.
    mutating func answerMSR(_ value: UInt64, fault: Bool)
    /// CR8: the local APIC's task priority, which the CPU shares with it. What is set holds from the
    /// next run on.
    var taskPriorityClass: UInt64 { get set }
    /// IA32_APIC_BASE.
    var apicBase: UInt64 { get }
    /// The payload of the last exit, whatever its reason.
    func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result
    /// Withdraws a kick; whether there was one.
    mutating func acknowledgeKick() -> Bool
    /// Makes ``systemRegistersPointer`` hold good now, where the CPU does not keep it so at every
    /// exit (it does where somebody listens).
    mutating func refreshSystemRegisters() throws(KVMError)
    /// Finishes what the last exit left pending, or gives back a further exit, which is an ordinary
    /// one: answer it and settle again.
    mutating func settle() throws(KVMError) -> Settlement
    /// Whether an interrupt would be taken now; to be asked when settled.
    var isReadyForInterrupt: Bool { get }
    /// Injects an external interrupt; to be done when settled and ready.
    mutating func interrupt(vector: UInt8) throws(KVMError)
    /// Whether a non-maskable interrupt would be taken now; to be asked when settled.
    mutating func takesNonMaskableInterrupt() throws(KVMError) -> Bool
    /// Queues a non-maskable interrupt; to be done when settled.
    mutating func nonMaskableInterrupt() throws(KVMError)
    /// What a completion needs beside registers; to be asked when settled.
    mutating func extendedState() throws(KVMError) -> ExtendedState
    /// Changes the CPU as a completion says, but for RAM; to be done when settled.
    ///
    /// An interrupt shadow ends with the instruction that is completed.
    mutating func apply(_ changes: [Change]) throws(KVMError)
    /// Replaces the registers after an OUT of count 1, RIP excepted; false after another exit.
    mutating func replaceRegistersAfterOut(
        _ registers: GeneralRegisters
    ) throws(KVMError) -> Bool

    // What interrupts in mid-flight need beside that. All but `armKick` is done when settled.

    /// Kicks this CPU once after a time; 0 takes that back.
    mutating func armKick(nanoseconds: UInt64) throws(KVMError)
    /// The host's exact count of the guest's instructions so far; nil where it has none.
    mutating func progress() throws(KVMError) -> UInt64?
    /// Whether an interrupt injected now can be found again: nothing pending, no shadow.
    mutating func isQuiet() throws(KVMError) -> Bool
    /// The digest of all state but general registers and RAM.
    mutating func stateDigest() throws(KVMError) -> Digest128
    /// What of it ring 3 cannot change, with the guest's own DR6 if that is given.
    mutating func privilegedState(debugStatus: UInt64?) throws(KVMError) -> PrivilegedState
    /// The digest, of which that part is known, with the guest's own limit of the interrupt table if
    /// that is given.
    mutating func stateDigest(
        _ privileged: PrivilegedState, interruptTableLimit: UInt16?
    ) throws(KVMError) -> Digest128
    /// Stops the guest at an address whatever else is asked for, steps excepted; nil: no more.
    mutating func setStandingBreakpoint(_ address: GuestVirtualAddress?) throws(KVMError)
    /// The digest of all of RAM.
    mutating func memoryDigest(_ memory: borrowing GuestMemory) throws(KVMError) -> Digest128
    /// The pages that hold something else than when ``markPages()`` was last called, by ascending
    /// number, as of the last ``memoryDigest(_:)``; of hash 0 where they are all zero.
    func changedPages() -> [MemoryDigest.Page]
    /// Remembers what the pages hold, as of the last ``memoryDigest(_:)``.
    mutating func markPages()
    /// Keeps the whole machine as it stands, in place of what was kept before.
    mutating func keepPlace(_ memory: borrowing GuestMemory) throws(ExecutionError)
    /// Puts the machine back to where it was kept, whatever it is doing, and disarms what stops it;
    /// false where nothing was kept.
    mutating func returnToPlace(_ memory: borrowing GuestMemory) throws(ExecutionError) -> Bool
    /// Arms breakpoints and steps in the guest's place; also while an access waits for its answer.
    mutating func setGuestDebug(_ debug: GuestDebug) throws(KVMError)
    /// Puts RFLAGS back as it was recorded, RF included.
    mutating func restoreFlags(_ flags: UInt64) throws(KVMError)

    /// Stops the guest when it is about to execute at one of these linear addresses, at most four,
    /// while nothing else is armed; allowed at any time.
    mutating func watchCode(_ addresses: [GuestVirtualAddress]) throws(KVMError)
    /// Whether that stands at an address.
    func isWatched(_ address: GuestVirtualAddress) -> Bool

    // What stops in ring 3 need on hosts where KVM's own do not reach it (``Ring3Stops``).

    /// Puts the interrupt table out of force, or back in force with this limit; also while an
    /// access waits for its answer. The result is the limit that was in force.
    mutating func setInterruptTableLimit(_ limit: UInt16) throws(KVMError) -> UInt16
    /// The guest's DR6; also while an access waits for its answer.
    mutating func debugStatus() throws(KVMError) -> UInt64
    /// Writes the guest's DR6; also while an access waits for its answer.
    mutating func setDebugStatus(_ value: UInt64) throws(KVMError)
    /// Takes so many instructions off ``progress()``.
    mutating func discountProgress(_ count: UInt64) throws(KVMError)
    /// Whether an interrupt or exception is on its way into the guest; to be asked when settled.
    mutating func hasEventUnderWay() throws(KVMError) -> Bool
    /// The exception behind a shutdown; to be asked right after it.
    mutating func raisedException() throws(KVMError) -> UInt8
    /// Where SYSCALL goes; nil where nothing says. To be asked when settled.
    mutating func syscallTargets() throws(KVMError) -> SyscallTargets?
    /// Puts RIP elsewhere; to be done when settled.
    mutating func moveRIP(to address: UInt64) throws(KVMError)

    // What places need that the trace holds.

    /// All of the CPU, as changes that put any other there; to be asked when settled, with nothing on
    /// its way.
    mutating func wholeState() throws(KVMError) -> [Change]
    /// Puts the CPU where ``wholeState()`` was asked for, with nothing on its way; RAM is there
    /// already. To be done when settled, with no breakpoint or step armed.
    mutating func assume(_ changes: [Change], progress: UInt64?) throws(KVMError)
}

/// What one step of settling a vCPU came to.
public enum Settlement: Sendable {
    /// Nothing is pending any more.
    case settled
    /// A further exit.
    case exit(Exit)
}

extension RunStep {
    /// An exit as a step, with the rarer ones put aside.
    init(_ exit: Exit, other: inout Exit) {
        switch exit {
        case .io(let io): self = .io(io)
        case .mmio(let mmio): self = .mmio(mmio)
        default:
            other = exit
            self = .other
        }
    }
}

/// The MSRs that say where SYSCALL goes (Intel SDM vol. 2, SYSCALL).
public struct SyscallTargets: Equatable, Sendable {
    /// IA32_STAR: the selectors.
    public var star: UInt64
    /// IA32_LSTAR: the address.
    public var lstar: UInt64
    /// IA32_FMASK: the flags that are cleared.
    public var fmask: UInt64

    /// Makes them of their values.
    public init(star: UInt64, lstar: UInt64, fmask: UInt64) {
        self.star = star
        self.lstar = lstar
        self.fmask = fmask
    }
}
