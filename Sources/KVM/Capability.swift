internal import CKVM

/// A capability of KVM: the number that KVM_CHECK_EXTENSION and KVM_ENABLE_CAP take.
public struct Capability: RawRepresentable, Hashable, Sendable {
    /// The `KVM_CAP_*` number.
    public var rawValue: UInt32

    /// Makes a capability of a number; every number is a valid one.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    private init(_ number: Int32) { rawValue = UInt32(bitPattern: number) }

    /// Memory slots backed by user memory.
    public static let userMemory = Capability(KVM_CAP_USER_MEMORY)
    /// How many memory slots a VM may have.
    public static let memorySlots = Capability(KVM_CAP_NR_MEMSLOTS)
    /// KVM_SET_TSS_ADDR.
    public static let setTSSAddress = Capability(KVM_CAP_SET_TSS_ADDR)
    /// KVM_SET_IDENTITY_MAP_ADDR.
    public static let setIdentityMapAddress = Capability(KVM_CAP_SET_IDENTITY_MAP_ADDR)
    /// KVM_GET_SUPPORTED_CPUID and KVM_SET_CPUID2.
    public static let extendedCPUID = Capability(KVM_CAP_EXT_CPUID)
    /// KVM_GET_MP_STATE.
    public static let mpState = Capability(KVM_CAP_MP_STATE)
    /// KVM_NMI.
    public static let userNMI = Capability(KVM_CAP_USER_NMI)
    /// KVM_SET_GUEST_DEBUG.
    public static let setGuestDebug = Capability(KVM_CAP_SET_GUEST_DEBUG)
    /// KVM_GET_VCPU_EVENTS.
    public static let vcpuEvents = Capability(KVM_CAP_VCPU_EVENTS)
    /// KVM_GET_DEBUGREGS.
    public static let debugRegisters = Capability(KVM_CAP_DEBUGREGS)
    /// KVM_GET_XSAVE.
    public static let xsave = Capability(KVM_CAP_XSAVE)
    /// KVM_GET_XCRS.
    public static let xcrs = Capability(KVM_CAP_XCRS)
    /// TSC scaling: KVM_SET_TSC_KHZ.
    public static let tscControl = Capability(KVM_CAP_TSC_CONTROL)
    /// KVM_GET_TSC_KHZ.
    public static let getTSCFrequency = Capability(KVM_CAP_GET_TSC_KHZ)
    /// Memory slots the guest may only read.
    public static let readOnlyMemory = Capability(KVM_CAP_READONLY_MEM)
    /// The `immediate_exit` byte of the run page.
    public static let immediateExit = Capability(KVM_CAP_IMMEDIATE_EXIT)
    /// Registers in the run page; the value is a mask of what can be synchronised.
    public static let syncRegisters = Capability(KVM_CAP_SYNC_REGS)
    /// User-space exits for MSRs.
    public static let userSpaceMSR = Capability(KVM_CAP_X86_USER_SPACE_MSR)
    /// KVM_X86_SET_MSR_FILTER.
    public static let msrFilter = Capability(KVM_CAP_X86_MSR_FILTER)
    /// KVM_GET_SREGS2.
    public static let sregs2 = Capability(KVM_CAP_SREGS2)
    /// KVM_GET_STATS_FD.
    public static let binaryStatistics = Capability(KVM_CAP_BINARY_STATS_FD)
    /// An instruction KVM cannot emulate always exits, with its bytes.
    public static let exitOnEmulationFailure = Capability(KVM_CAP_EXIT_ON_EMULATION_FAILURE)
    /// KVM_GET_XSAVE2; the value is the size of the area in bytes.
    public static let xsave2 = Capability(KVM_CAP_XSAVE2)
    /// Pending triple faults in KVM_GET_VCPU_EVENTS.
    public static let tripleFaultEvent = Capability(KVM_CAP_X86_TRIPLE_FAULT_EVENT)
    /// KVM_EXIT_MEMORY_FAULT.
    public static let memoryFaultInfo = Capability(Int32(CKVM_CAP_MEMORY_FAULT_INFO))
    /// Behaviours kept for old user space that can be turned off.
    public static let disableQuirks2 = Capability(KVM_CAP_DISABLE_QUIRKS2)

    /// Names by number, for messages.
    private static let names: [(Capability, String)] = [
        (.userMemory, "KVM_CAP_USER_MEMORY"),
        (.memorySlots, "KVM_CAP_NR_MEMSLOTS"),
        (.setTSSAddress, "KVM_CAP_SET_TSS_ADDR"),
        (.setIdentityMapAddress, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
        (.extendedCPUID, "KVM_CAP_EXT_CPUID"),
        (.mpState, "KVM_CAP_MP_STATE"),
        (.userNMI, "KVM_CAP_USER_NMI"),
        (.setGuestDebug, "KVM_CAP_SET_GUEST_DEBUG"),
        (.vcpuEvents, "KVM_CAP_VCPU_EVENTS"),
        (.debugRegisters, "KVM_CAP_DEBUGREGS"),
        (.xsave, "KVM_CAP_XSAVE"),
        (.xcrs, "KVM_CAP_XCRS"),
        (.tscControl, "KVM_CAP_TSC_CONTROL"),
        (.getTSCFrequency, "KVM_CAP_GET_TSC_KHZ"),
        (.readOnlyMemory, "KVM_CAP_READONLY_MEM"),
        (.immediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (.syncRegisters, "KVM_CAP_SYNC_REGS"),
        (.userSpaceMSR, "KVM_CAP_X86_USER_SPACE_MSR"),
        (.msrFilter, "KVM_CAP_X86_MSR_FILTER"),
        (.sregs2, "KVM_CAP_SREGS2"),
        (.binaryStatistics, "KVM_CAP_BINARY_STATS_FD"),
        (.exitOnEmulationFailure, "KVM_CAP_EXIT_ON_EMULATION_FAILURE"),
        (.xsave2, "KVM_CAP_XSAVE2"),
        (.tripleFaultEvent, "KVM_CAP_X86_TRIPLE_FAULT_EVENT"),
        (.memoryFaultInfo, "KVM_CAP_MEMORY_FAULT_INFO"),
        (.disableQuirks2, "KVM_CAP_DISABLE_QUIRKS2"),
    ]

    /// Every capability this version has a name for, in a fixed order.
    public static var named: [Capability] { names.map(\.0) }

    /// The kernel's name, or `KVM_CAP_` and the number.
    public var name: String { Self.names.first { $0.0 == self }?.1 ?? "KVM_CAP_\(rawValue)" }
}
