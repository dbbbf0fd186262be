internal import CKVM
internal import Glibc
public import Machine

/// What became of a run.
public enum RunResult: Sendable {
    /// KVM returned an exit. What it asks for is answered before the next run.
    case exit(Exit)
    /// KVM_RUN ended by EINTR or EAGAIN: a kick, a timer or another signal. Not an exit; what was
    /// asked before has been taken in.
    case interrupted
}

/// What became of a run, with only the exits that come by the million: small enough for registers,
/// where an ``Exit`` is copied in memory.
public enum RunStep: Sendable {
    /// A port access.
    case io(PortIO)
    /// An access to memory that is not there.
    case mmio(MMIO)
    /// Any other exit, which the caller was given.
    case other
    /// As ``RunResult/interrupted``.
    case interrupted
}

/// A vCPU that runs: the guest may be in the middle of an instruction that waits for an answer.
///
/// An IN, INS, MMIO read or RDMSR finishes at the *next* run, and registers written before that
/// would be lost or would repeat the exit. So this type can run, answer, and read what is on the
/// run page; everything else is ``SettledCPU``, had by ``settle()``. Both are move-only, and one
/// is made by consuming the other: the compiler keeps the rule.
@safe
public struct PendingCPU: ~Copyable {
    var core: CPUCore
    /// Whether nothing can be pending: just begun, or the last run was interrupted.
    private var isClean: Bool

    init(core: consuming CPUCore) {
        self.core = core
        isClean = true
    }

    // SAFETY (whole type): the core owns the run page, and KVM writes it only inside run(), which
    // is mutating; so no read below can see it change.

    /// Runs the guest until it exits or is interrupted (KVM_RUN).
    ///
    /// Allocates nothing. `exit_reason` is read only if the request returned 0, or if it failed
    /// with EFAULT or EHWPOISON and the reason is memory_fault, as documented.
    @inline(__always)
    public mutating func run() throws(KVMError) -> RunResult {
        let result = unsafe enter(core.page.run)
        if result != 0 {
            guard try isFault(result) else { return .interrupted }
        }
        if !core.fetched.isEmpty { try core.fetch() }
        return .exit(unsafe core.page.decodeExit())
    }

    /// As ``run()``, for loops that count nanoseconds.
    ///
    /// - Parameter other: set to the exit where ``RunStep/other`` is returned.
    public mutating func run(other: inout Exit) throws(KVMError) -> RunStep {
        let result = unsafe enter(core.page.run)
        if result != 0 {
            guard try isFault(result) else { return .interrupted }
        }
        if !core.fetched.isEmpty { try core.fetch() }
        return unsafe core.page.decodeStep(other: &other)
    }

    @inline(__always)
    private mutating func enter(_ run: UnsafeMutablePointer<kvm_run>) -> Int {
        unsafe ckvm_clear_exit_reason(run)
        isClean = false
        return ckvm_run(core.descriptor.number)
    }

    /// False if the run was interrupted, true if it is an exit in spite of the error.
    @inline(never)
    private mutating func isFault(_ result: Int) throws(KVMError) -> Bool {
        switch Int32(truncatingIfNeeded: -result) {
        case EINTR:
            isClean = true
        case EAGAIN: break
        case EFAULT where unsafe ckvm_exit_reason(core.page.run) == UInt32(CKVM_EXIT_MEMORY_FAULT),
            EHWPOISON
        where unsafe ckvm_exit_reason(core.page.run)
            == UInt32(CKVM_EXIT_MEMORY_FAULT):
            return true
        case EFAULT:
            // Who took memory from the guest goes on from where it stands.
            if !core.fetched.isEmpty { try core.fetch() }
            throw KVMError.failure(result, "KVM_RUN")
        default: throw KVMError.failure(result, "KVM_RUN")
        }
        if !core.fetched.isEmpty { try core.fetch() }
        return false
    }

    /// One step towards a CPU whose state may be read and written as a whole: runs under
    /// `immediate_exit`, so that what is pending finishes and no further instruction starts.
    ///
    /// The second half of a page-crossing MMIO, or the rest of a string I/O, comes back as a
    /// further exit; it is an ordinary one: answer it and settle again. No request is made where
    /// nothing can be pending.
    public consuming func settle() throws(KVMError) -> SettleStep {
        if let exit = try finish() { return .exit(exit, self) }
        return .settled(SettledCPU(core: core))
    }

    /// As ``settle()``, in place: the CPU is kept where KVM fails.
    ///
    /// - Returns: The further exit; nil where nothing is pending any more, and settling this CPU
    ///   takes no request.
    public mutating func finish() throws(KVMError) -> Exit? {
        let run = unsafe core.page.run
        // A debug exit comes between two instructions: it leaves nothing to finish
        // (kvm_vcpu_do_singlestep and the handlers of #DB set no completion).
        if isClean { return nil }
        // Nor does a triple fault, which is a request to the next run and no work of this one.
        let reason = unsafe ckvm_exit_reason(run)
        if reason == UInt32(KVM_EXIT_DEBUG) || reason == UInt32(KVM_EXIT_SHUTDOWN) { return nil }
        unsafe ckvm_set_immediate_exit(run, 1)
        let result = unsafe enter(run)
        unsafe ckvm_kick_restore(core.mapping.kick)
        if result != 0, try !isFault(result) { return nil }
        if !core.fetched.isEmpty { try core.fetch() }
        return unsafe core.page.decodeExit()
    }

    /// Clears the interrupt bitmap on the run page, the last four words of the system registers.
    ///
    /// After a kick that comes while KVM delivers an interrupt, the bitmap still shows it at later
    /// exits of the emulator (measured on KVM without hardware virtualization): which exits show it
    /// depends on when the host was interrupted, and says nothing of the guest. The page is
    /// not written back.
    @inline(__always)
    public mutating func clearInterruptBitmap() {
        // Nobody keeps the page's registers up to date elsewhere.
        guard core.keepsSystemRegisters else { return }
        let registers = unsafe core.page.systemRegisters
        unsafe registers.pointee.words[35] = 0
        unsafe registers.pointee.words[36] = 0
        unsafe registers.pointee.words[37] = 0
        unsafe registers.pointee.words[38] = 0
    }

    /// Puts segment and control registers on the page where the CPU was not asked to synchronise
    /// them (KVM_GET_SREGS); nothing to do where it was.
    public mutating func refreshSystemRegisters() throws(KVMError) {
        guard !core.keepsSystemRegisters else { return }
        // SAFETY: the area of the page has the size that the kernel writes.
        try KVMError.check(
            unsafe ckvm_get_sregs(core.descriptor.number, core.page.systemRegisters),
            "KVM_GET_SREGS")
    }

    /// Makes the run page show the CPU as it stands, after its state was written by requests
    /// (KVM_RUN under `immediate_exit`): registers, and whether an interrupt would be taken. Nothing
    /// may be pending.
    public mutating func refreshPage() throws(KVMError) {
        let run = unsafe core.page.run
        unsafe ckvm_set_immediate_exit(run, 1)
        let result = unsafe enter(run)
        unsafe ckvm_kick_restore(core.mapping.kick)
        guard result != 0, try !isFault(result) else {
            throw .malformed("an exit of a vCPU of which nothing is pending")
        }
        clearInterruptBitmap()
    }

    // MARK: What the page says

    // Of what the CPU was not asked to synchronise, the page holds nothing of use.

    /// The registers at the last exit or interruption. Copies 144 bytes; see
    /// ``registersPointer``.
    public var registers: GeneralRegisters { unsafe core.page.registers.pointee }

    /// The registers at the last exit, in place. Valid until the next run, and while self lives.
    public var registersPointer: UnsafePointer<GeneralRegisters> {
        unsafe UnsafePointer(core.page.registers)
    }

    /// Segment and control registers at the last exit. Copies 312 bytes; see
    /// ``systemRegistersPointer``.
    public var systemRegisters: SystemRegisters { unsafe core.page.systemRegisters.pointee }

    /// Segment and control registers at the last exit, in place. Valid until the next run, and
    /// while self lives.
    public var systemRegistersPointer: UnsafePointer<SystemRegisters> {
        unsafe UnsafePointer(core.page.systemRegisters)
    }

    /// Pending events at the last exit.
    public var events: VCPUEvents { unsafe core.page.events.pointee }

    /// Whether KVM would take an interrupt now. It can be true while an IN or the first half of
    /// an MMIO is pending: look again after settling.
    public var isReadyForInterrupt: Bool {
        unsafe ckvm_ready_for_interrupt_injection(core.page.run) != 0
    }

    /// CR8 as of the last exit. Without an interrupt controller in the kernel every run takes it
    /// from here, so that what is written is what the guest sees (`kvm_run.cr8`).
    public var cr8: UInt64 {
        get { unsafe ckvm_run_cr8(core.page.run) }
        nonmutating set { unsafe ckvm_set_cr8(core.page.run, newValue) }
    }

    /// IA32_APIC_BASE as of the last exit (`kvm_run.apic_base`).
    public var apicBase: UInt64 { unsafe ckvm_run_apic_base(core.page.run) }

    /// The 256 bytes of payload of the last exit, whatever its reason.
    public func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try unsafe body(core.page.payload.bytes)
    }

    // MARK: Answers

    /// The bytes of the ``Exit/io(_:)`` on the page: what the guest wrote, or where the answer
    /// goes; `size * count` bytes. Empty after any other exit.
    @inline(__always)
    public mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var span = unsafe MutableRawSpan(_unsafeBytes: core.page.ioData)
        return try body(&span)
    }

    /// The first access of the ``Exit/io(_:)`` on the page as a number (little-endian, 1, 2 or 4
    /// bytes). Set it to answer an IN. 0, and setting does nothing, after any other exit.
    @inline(__always)
    public var ioValue: UInt32 {
        get {
            let data = unsafe core.page.ioData
            var value: UInt32 = 0
            for index in 0..<min(data.count, firstAccessBytes) {
                value |= unsafe UInt32(data[index]) << UInt32(index * 8)
            }
            return value
        }
        set {
            let data = unsafe core.page.ioData
            for index in 0..<min(data.count, firstAccessBytes) {
                unsafe data[index] = UInt8(truncatingIfNeeded: newValue >> UInt32(index * 8))
            }
        }
    }

    private var firstAccessBytes: Int { min(4, Int(unsafe ckvm_io_size(core.page.run))) }

    /// The bytes of the ``Exit/mmio(_:)`` on the page as a number (little-endian, 1 to 8 bytes).
    /// Set it to answer a read. 0, and setting does nothing, after any other exit.
    @inline(__always)
    public var mmioValue: UInt64 {
        get {
            let data = unsafe core.page.mmioData
            var value: UInt64 = 0
            for index in 0..<data.count {
                value |= unsafe UInt64(data[index]) << UInt64(index * 8)
            }
            return value
        }
        set {
            let data = unsafe core.page.mmioData
            for index in 0..<data.count {
                unsafe data[index] = UInt8(truncatingIfNeeded: newValue >> UInt64(index * 8))
            }
        }
    }

    /// Answers an ``Exit/rdmsr(_:)`` with a value, or an ``Exit/wrmsr(_:)`` (whose value is
    /// ignored); with `fault`, the guest gets #GP instead. Does nothing after any other exit.
    public mutating func answerMSR(_ value: UInt64 = 0, fault: Bool = false) {
        let reason = ExitReason(rawValue: unsafe ckvm_exit_reason(core.page.run))
        guard reason == .rdmsr || reason == .wrmsr else { return }
        unsafe ckvm_answer_msr(core.page.run, value, fault ? 1 : 0)
    }

    /// The one exception from "registers only when settled": after an OUT of count 1, registers
    /// may be replaced through the run page (`kvm_dirty_regs`), since nothing of an OUT is left
    /// to finish that reads them. RIP must stay as it was: on some hosts the OUT is skipped only
    /// at the next run. This is how a trapped RDTSC gets its answer.
    ///
    /// - Returns: False, with nothing written, if the last exit is not an OUT of count 1, or the
    ///   CPU was made without ``SynchronisedRegisters/general``.
    public mutating func replaceRegistersAfterOut(
        _ registers: GeneralRegisters
    ) throws(KVMError) -> Bool {
        let run = unsafe core.page.run
        guard unsafe ckvm_exit_reason(run) == UInt32(KVM_EXIT_IO),
            unsafe ckvm_io_direction(run) == PortIO.Direction.output.rawValue,
            unsafe ckvm_io_count(run) == 1, !isClean, hasGeneralRegisters
        else { return false }
        unsafe core.page.registers.pointee = registers
        if core.synchronised.contains(.general) {
            unsafe ckvm_set_sync_dirty(run, UInt64(CKVM_SYNC_REGS))
        } else {
            try KVMError.check(
                unsafe ckvm_set_regs(core.descriptor.number, core.page.registers), "KVM_SET_REGS")
        }
        return true
    }

    private var hasGeneralRegisters: Bool {
        core.synchronised.union(core.fetched).contains(.general)
    }

    /// Puts the interrupt descriptor table out of force, or back (KVM_SET_SREGS, its limit alone).
    ///
    /// Allowed while an access waits for its answer: what finishes the access reads none of these
    /// registers (measured on KVM without hardware virtualization, the only user of this).
    ///
    /// - Returns: The limit that was in force.
    public mutating func setInterruptTableLimit(_ limit: UInt16) throws(KVMError) -> UInt16 {
        var system = SystemRegisters()
        try KVMError.check(
            unsafe ckvm_get_sregs(core.descriptor.number, &system), "KVM_GET_SREGS")
        let before = system.idt.limit
        system.idt.limit = limit
        try KVMError.check(
            unsafe ckvm_set_sregs(core.descriptor.number, &system), "KVM_SET_SREGS")
        // SAFETY: the page has room for the registers, and shows those of the last exit.
        unsafe core.page.systemRegisters.pointee.idt.limit = limit
        return before
    }

    /// The guest's DR6 (KVM_GET_DEBUGREGS).
    public func debugStatus() throws(KVMError) -> UInt64 { try debugRegisters().dr6 }

    /// Writes the guest's DR6 (KVM_SET_DEBUGREGS), also while an access waits for its answer: the
    /// request touches no other kind of register.
    public mutating func setDebugStatus(_ value: UInt64) throws(KVMError) {
        var registers = try debugRegisters()
        registers.dr6 = value
        try KVMError.check(
            unsafe ckvm_set_debugregs(core.descriptor.number, &registers), "KVM_SET_DEBUGREGS")
    }

    private func debugRegisters() throws(KVMError) -> DebugRegisters {
        var value = DebugRegisters()
        try KVMError.check(
            unsafe ckvm_get_debugregs(core.descriptor.number, &value), "KVM_GET_DEBUGREGS")
        return value
    }

    /// As ``SettledCPU/setGuestDebug(_:)``, also while an access waits for its answer: the request
    /// changes no register that finishes it.
    public mutating func setGuestDebug(_ debug: GuestDebug) throws(KVMError) {
        try core.setGuestDebug(debug)
    }

    // MARK: Kicks

    /// A handle that makes this vCPU return, for other threads.
    public var kicker: Kicker { Kicker(mapping: core.mapping) }

    /// A timer that kicks this vCPU; made on the thread that runs it.
    public func makeKickTimer() throws(KVMError) -> KickTimer { try KickTimer(core.mapping) }

    /// Withdraws a kick, so that runs go on; whether there was one.
    @discardableResult
    public mutating func acknowledgeKick() -> Bool { core.acknowledgeKick() }
}

/// What one step of settling came to.
@frozen
public enum SettleStep: ~Copyable {
    /// Nothing is pending any more.
    case settled(SettledCPU)
    /// A further exit: answer it and settle again.
    case exit(Exit, PendingCPU)
}
