/// Why KVM_RUN returned: the `exit_reason` of the run page, a `KVM_EXIT_*` number.
///
/// A struct and not an enum: a kernel newer than this table may return any number.
public struct ExitReason: RawRepresentable, Hashable, Sendable {
    /// The `KVM_EXIT_*` number.
    public var rawValue: UInt32

    /// Makes a reason of a number; every number is a valid one.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The hardware reported something KVM has no reason for.
    public static let unknown = ExitReason(rawValue: 0)
    /// An exception KVM hands to user space.
    public static let exception = ExitReason(rawValue: 1)
    /// Port I/O: IN, OUT, INS, OUTS.
    public static let io = ExitReason(rawValue: 2)
    /// A hypercall that user space is to answer.
    public static let hypercall = ExitReason(rawValue: 3)
    /// A breakpoint or single-step of KVM_SET_GUEST_DEBUG.
    public static let debug = ExitReason(rawValue: 4)
    /// The HLT instruction.
    public static let hlt = ExitReason(rawValue: 5)
    /// An access to an address that no memory slot covers.
    public static let mmio = ExitReason(rawValue: 6)
    /// The guest can take an interrupt now.
    public static let irqWindowOpen = ExitReason(rawValue: 7)
    /// A triple fault.
    public static let shutdown = ExitReason(rawValue: 8)
    /// The hardware refused to enter the guest.
    public static let failEntry = ExitReason(rawValue: 9)
    /// A signal arrived (the ioctl then mostly fails with EINTR).
    public static let intr = ExitReason(rawValue: 10)
    /// The task priority was lowered.
    public static let setTPR = ExitReason(rawValue: 11)
    /// The task priority register was accessed.
    public static let tprAccess = ExitReason(rawValue: 12)
    /// An NMI of the host.
    public static let nmi = ExitReason(rawValue: 16)
    /// KVM gave up: mostly an instruction it cannot emulate.
    public static let internalError = ExitReason(rawValue: 17)
    /// Shutdown, reset or suspend through a paravirtual interface.
    public static let systemEvent = ExitReason(rawValue: 24)
    /// End of interrupt, for a split interrupt controller.
    public static let ioapicEOI = ExitReason(rawValue: 26)
    /// A Hyper-V paravirtual request.
    public static let hyperv = ExitReason(rawValue: 27)
    /// RDMSR of a register the MSR filter gives to user space.
    public static let rdmsr = ExitReason(rawValue: 29)
    /// WRMSR of a register the MSR filter gives to user space.
    public static let wrmsr = ExitReason(rawValue: 30)
    /// The dirty ring must be drained.
    public static let dirtyRingFull = ExitReason(rawValue: 31)
    /// The guest locked the bus.
    public static let busLock = ExitReason(rawValue: 33)
    /// A Xen paravirtual request.
    public static let xen = ExitReason(rawValue: 34)
    /// The guest let no event window open for too long.
    public static let notify = ExitReason(rawValue: 37)
    /// KVM cannot resolve a guest page.
    public static let memoryFault = ExitReason(rawValue: 39)

    /// Names in lower case, by number; the `KVM_EXIT_` of `linux/kvm.h` left off.
    private static let names: [String?] = [
        "unknown", "exception", "io", "hypercall", "debug", "hlt", "mmio", "irq_window_open",
        "shutdown", "fail_entry", "intr", "set_tpr", "tpr_access", "s390_sieic", "s390_reset",
        "dcr", "nmi", "internal_error", "osi", "papr_hcall", "s390_ucontrol", "watchdog",
        "s390_tsch", "epr", "system_event", "s390_stsi", "ioapic_eoi", "hyperv", "arm_nisv",
        "x86_rdmsr", "x86_wrmsr", "dirty_ring_full", "ap_reset_hold", "x86_bus_lock", "xen",
        "riscv_sbi", "riscv_csr", "notify", "loongarch_iocsr", "memory_fault", "tdx",
    ]

    /// Every reason this version has a name for.
    public static let named: [ExitReason] = names.indices.map {
        ExitReason(rawValue: UInt32($0))
    }

    /// The kernel's name in lower case without `KVM_EXIT_`; `reason_N` for a number without one.
    public var name: String {
        guard rawValue < UInt32(Self.names.count), let name = Self.names[Int(rawValue)] else {
            return "reason_\(rawValue)"
        }
        return name
    }

    /// The reason with a name, as ``name`` spells it.
    public init?(name: String) {
        guard let index = Self.names.firstIndex(of: name) else { return nil }
        rawValue = UInt32(index)
    }
}
