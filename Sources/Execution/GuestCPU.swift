public import KVM
public import Machine
internal import Trace

/// KVM's vCPU as the loop drives it: pending or settled, whichever it is just then.
///
/// KVM's two types keep the rules of what may be done when; this one moves between them, so that
/// a loop can hold a vCPU in one place.
@safe
public struct GuestCPU: ~Copyable {
    /// Nil only within ``whileSettled(_:)``.
    private var pending: PendingCPU?
    // SAFETY (all uses): the CPU is never given away, so its page stays mapped as long as self.
    private let registers: UnsafePointer<GeneralRegisters>
    private let systemRegisters: UnsafePointer<SystemRegisters>
    /// Kicks that are asked for ahead of time; made when the first is.
    private var timer: KickTimer?
    private var statistics: Statistics?
    private var instructions: Statistic?
    /// Where the guest is stopped while nothing else is armed.
    private var watchedCode: [GuestVirtualAddress] = []
    /// The MSRs that landmarks compare; empty until they are first needed.
    var comparedMSRs: [UInt32] = []
    /// The MSRs that KVM would have saved; those that can also be set once they are known.
    var savedMSRs: [UInt32]
    /// ``savedMSRs`` are known to be settable.
    var areSavedMSRsSettable = false
    /// What the count of instructions must be moved by: the host's never goes back, and the guest
    /// does when a checkpoint is restored.
    var progressOffset: UInt64 = 0

    /// What was asked to stop the guest, and where it is stopped in any case.
    private var wish = GuestDebug.off
    private var standing: GuestVirtualAddress?
    /// A handle on the machine that it is of, for what it wrote in memory.
    var machine: VirtualMachine
    /// Which pages were written; nil: nobody asked.
    var writes: DirtyPages?
    /// What of them the digest of RAM has not seen; nil: it has seen nothing yet.
    var digestReader: DirtyPages.Reader?
    /// The digest of RAM when it was last asked for.
    var memoryDigest = MemoryDigest()
    /// The hashes that pages had when they were marked, of those that were replaced since.
    var markedHashes: [UInt64: UInt64] = [:]
    /// Where a search for a landmark began.
    var kept: Checkpoint?
    /// The #BP or #OF that was injected last, and where.
    private var injection: Injection?

    init(
        _ cpu: consuming PendingCPU, of machine: consuming VirtualMachine, savedMSRs: [UInt32]
    ) {
        unsafe registers = cpu.registersPointer
        unsafe systemRegisters = cpu.systemRegistersPointer
        pending = consume cpu
        self.machine = machine
        self.savedMSRs = savedMSRs
    }

    /// Makes the run page show what was written by requests; nothing may be pending.
    mutating func refreshPage() throws(KVMError) { try pending?.refreshPage() }

    private static func gone() -> Never {
        preconditionFailure("the vCPU is used while it is being settled")
    }
}

extension GuestCPU: Processor {
    /// Runs the guest until it exits or is interrupted.
    @inline(__always)
    public mutating func run() throws(KVMError) -> RunResult {
        guard let result = try pending?.run() else { Self.gone() }
        return result
    }

    /// The same, with the exits that come by the million apart from the others.
    @inline(__always)
    public mutating func run(other: inout Exit) throws(KVMError) -> RunStep {
        guard let step = try pending?.run(other: &other) else { Self.gone() }
        pending?.clearInterruptBitmap()
        return step
    }

    /// Finishes what is pending, or gives back a further exit.
    public mutating func settle() throws(KVMError) -> Settlement {
        guard let exit = try pending?.finish() else { return .settled }
        pending?.clearInterruptBitmap()
        return .exit(exit)
    }

    /// Injects an external interrupt; the CPU must be settled and ready for it.
    public mutating func interrupt(vector: UInt8) throws(KVMError) {
        try whileSettled { cpu throws(KVMError) in try cpu.interrupt(vector: vector) }
    }

    /// Whether no other is being served, nothing is on its way and there is no shadow.
    public mutating func takesNonMaskableInterrupt() throws(KVMError) -> Bool {
        let events = try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            try cpu.events()
        }
        return !events.isAnythingPending && !events.nmiMasked
    }

    /// Queues a non-maskable interrupt; the CPU must be settled.
    public mutating func nonMaskableInterrupt() throws(KVMError) {
        try whileSettled { cpu throws(KVMError) in try cpu.nmi() }
    }

    /// Does something with all of the CPU's state, which is settled.
    mutating func whileSettled<Result: ~Copyable>(
        _ body: (inout SettledCPU) throws(KVMError) -> Result
    ) throws(KVMError) -> Result {
        // In place first: where KVM fails, the CPU stays.
        guard try pending?.finish() == nil else {
            throw .malformed("an exit of a vCPU of which nothing is pending")
        }
        guard let cpu = pending.take() else { Self.gone() }
        switch try cpu.settle() {
        case .settled(var settled):
            do throws(KVMError) {
                let result = try body(&settled)
                pending = settled.begin()
                return result
            } catch {
                pending = settled.begin()
                throw error
            }
        case .exit: preconditionFailure("a vCPU that is finished is settled")
        }
    }

    /// Kicks this CPU after a time; 0 takes that back.
    public mutating func armKick(nanoseconds: UInt64) throws(KVMError) {
        if timer == nil { timer = try pending?.makeKickTimer() }
        if nanoseconds == 0 {
            try timer?.disarm()
        } else {
            try timer?.arm(nanoseconds: nanoseconds)
        }
    }

    /// KVM's count of emulated instructions, where that is a count of all in ring 0, since the
    /// guest's first one: a checkpoint takes it back. The CPU must be settled the first time.
    public mutating func progress() throws(KVMError) -> UInt64? {
        if statistics == nil {
            let all = try whileSettled {
                (cpu: inout SettledCPU) throws(KVMError) -> Statistics in try cpu.statistics()
            }
            instructions = all.find("insn_emulation")
            statistics = consume all
        }
        guard let instructions, let count = try statistics?.read(instructions) else { return nil }
        return count &+ progressOffset
    }

    /// Arms breakpoints and steps.
    public mutating func setGuestDebug(_ debug: GuestDebug) throws(KVMError) {
        wish = debug
        try arm()
    }

    /// Stops the guest at an address whatever else is asked for, steps excepted; nil: no more.
    public mutating func setStandingBreakpoint(
        _ address: GuestVirtualAddress?
    ) throws(KVMError) {
        guard address != standing else { return }
        standing = address
        try arm()
    }

    private mutating func arm() throws(KVMError) {
        var debug = wish == .off ? watch : wish
        if let standing, !debug.singleStep {
            debug.breakpoints.insert(GuestDebug.Breakpoint(standing), at: 0)
        }
        try pending?.setGuestDebug(debug)
    }

    /// Stops the guest at these addresses while nothing else is armed.
    public mutating func watchCode(_ addresses: [GuestVirtualAddress]) throws(KVMError) {
        watchedCode = addresses
        wish = .off
        try arm()
    }

    /// Whether the guest is stopped there.
    public func isWatched(_ address: GuestVirtualAddress) -> Bool {
        watchedCode.contains(address)
    }

    private var watch: GuestDebug {
        watchedCode.isEmpty
            ? .off : GuestDebug(breakpoints: watchedCode.map { GuestDebug.Breakpoint($0) })
    }

    /// Whether an interrupt or exception is on its way into the guest; the CPU must be settled.
    public mutating func hasEventUnderWay() throws(KVMError) -> Bool { try eventsUnderWay() != nil }

    /// The interrupt or exception on its way into the guest; nil: there is none. The CPU must be
    /// settled.
    mutating func eventsUnderWay() throws(KVMError) -> VCPUEvents? {
        let events = try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            try cpu.events()
        }
        return events.isAnythingUnderWay ? events : try withheldEvents()
    }

    /// An exception that was injected, and where the guest stood.
    private struct Injection {
        var events: VCPUEvents
        var progress: UInt64
        var rip: UInt64
        var rsp: UInt64
    }

    /// Remembers what KVM was just told, if it is something that it does not tell of.
    mutating func noteInjection(_ events: VCPUEvents) throws(KVMError) {
        injection = nil
        guard events.isSoftException, let progress = try progress() else { return }
        let registers = try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            try cpu.registers()
        }
        injection = Injection(
            events: events, progress: progress, rip: registers.rip, rsp: registers[.rsp])
    }

    /// The event that was injected where the guest still stands, of which KVM does not tell: #BP and
    /// #OF never show in KVM_GET_VCPU_EVENTS (the instruction is expected to raise them again, and
    /// here the runner carried it out). Nil: there is none. Not known where no instructions are
    /// counted.
    mutating func withheldEvents() throws(KVMError) -> VCPUEvents? {
        guard let injection, try progress() == injection.progress else { return nil }
        // SAFETY: the page's registers do not change before the next run.
        let (rip, rsp) = unsafe (registers.pointee.rip, registers.pointee[.rsp])
        return injection.rip == rip && injection.rsp == rsp ? injection.events : nil
    }

    /// Settles a CPU whose state is of no more use; exits go unanswered.
    mutating func abandon() throws(ExecutionError) {
        // An access of one instruction at a time: 1,024 of a REP, two halves of an MMIO.
        for _ in 0..<Self.abandonedExits {
            let step = try kvm { () throws(KVMError) in try settle() }
            if case .settled = step { return }
        }
        throw .kvm(.malformed("a vCPU that does not settle"))
    }

    private static let abandonedExits = 1 << 16

    /// Puts RFLAGS back; the CPU must be settled.
    public mutating func restoreFlags(_ flags: UInt64) throws(KVMError) {
        try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            var registers = try cpu.registers()
            guard registers[.rflags] != flags else { return }
            registers[.rflags] = flags
            try cpu.setRegisters(registers)
        }
    }

    /// Puts the interrupt table out of force, or back in force.
    public mutating func setInterruptTableLimit(_ limit: UInt16) throws(KVMError) -> UInt16 {
        guard let before = try pending?.setInterruptTableLimit(limit) else { Self.gone() }
        return before
    }

    /// The guest's DR6.
    public mutating func debugStatus() throws(KVMError) -> UInt64 {
        guard let value = try pending?.debugStatus() else { Self.gone() }
        return value
    }

    /// Writes the guest's DR6.
    public mutating func setDebugStatus(_ value: UInt64) throws(KVMError) {
        try pending?.setDebugStatus(value)
    }

    /// Takes instructions off the count that were tried in vain.
    public mutating func discountProgress(_ count: UInt64) throws(KVMError) {
        progressOffset &-= count
    }

    /// The exception behind a shutdown (KVM_GET_VCPU_EVENTS).
    public mutating func raisedException() throws(KVMError) -> UInt8 {
        try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            try cpu.events().exceptionVector
        }
    }

    /// Puts RIP elsewhere; the CPU must be settled.
    public mutating func moveRIP(to address: UInt64) throws(KVMError) {
        // SAFETY: the page's registers do not change before the next run.
        var moved = unsafe registersPointer.pointee
        moved.rip = address
        try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            try cpu.setRegisters(moved)
        }
    }

    /// Whether KVM would take an interrupt now; to be asked when settled.
    public var isReadyForInterrupt: Bool {
        switch pending {
        case .some(let cpu): return cpu.isReadyForInterrupt
        case .none: Self.gone()
        }
    }

    /// The registers at the last exit.
    @inline(__always)
    public var registersPointer: UnsafePointer<GeneralRegisters> { unsafe registers }

    /// Segment and control registers at the last exit.
    @inline(__always)
    public var systemRegistersPointer: UnsafePointer<SystemRegisters> { unsafe systemRegisters }

    /// Fetches segment and control registers where they are not synchronised.
    public mutating func refreshSystemRegisters() throws(KVMError) {
        try pending?.refreshSystemRegisters()
    }

    /// The bytes of the last port access.
    @inline(__always)
    public mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        guard let result = try pending?.withIOData(body) else { Self.gone() }
        return result
    }

    /// The bytes of the last MMIO access.
    public var mmioValue: UInt64 {
        get {
            switch pending {
            case .some(let cpu): return cpu.mmioValue
            case .none: Self.gone()
            }
        }
        set { pending?.mmioValue = newValue }
    }

    /// CR8 on the run page.
    public var taskPriorityClass: UInt64 {
        get {
            switch pending {
            case .some(let cpu): return cpu.cr8
            case .none: Self.gone()
            }
        }
        set { pending?.cr8 = newValue }
    }

    /// IA32_APIC_BASE on the run page.
    public var apicBase: UInt64 {
        switch pending {
        case .some(let cpu): return cpu.apicBase
        case .none: Self.gone()
        }
    }

    /// Answers an MSR access.
    public mutating func answerMSR(_ value: UInt64, fault: Bool) {
        pending?.answerMSR(value, fault: fault)
    }

    /// Replaces registers after an OUT of count 1.
    public mutating func replaceRegistersAfterOut(
        _ registers: GeneralRegisters
    ) throws(KVMError) -> Bool {
        guard let isReplaced = try pending?.replaceRegistersAfterOut(registers) else {
            Self.gone()
        }
        return isReplaced
    }

    /// The payload of the last exit.
    public func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        switch pending {
        case .some(let cpu): return try cpu.withPayload(body)
        case .none: Self.gone()
        }
    }

    /// Withdraws a kick.
    public mutating func acknowledgeKick() -> Bool { pending?.acknowledgeKick() ?? false }
}
