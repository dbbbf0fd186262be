public import Machine

/// Why KVM_RUN returned, decoded from the run page (`struct kvm_run`,
/// Documentation/virt/kvm/api.rst 5).
///
/// Every reason that exists on x86 has a case. A reason without one, or a payload that does not
/// fit the run page, is ``other(_:)``; its bytes are at ``PendingCPU/withPayload(_:)``. Cases hold
/// plain numbers: nothing is allocated, and an exit outlives the run page it came from.
public enum Exit: Sendable {
    /// KVM_EXIT_UNKNOWN.
    case unknown(hardwareReason: UInt64)
    /// KVM_EXIT_EXCEPTION.
    case exception(vector: UInt32, errorCode: UInt32)
    /// KVM_EXIT_IO: the bytes are at ``PendingCPU/withIOData(_:)`` or ``PendingCPU/ioValue``.
    case io(PortIO)
    /// KVM_EXIT_HYPERCALL.
    case hypercall(Hypercall)
    /// KVM_EXIT_DEBUG.
    case debug(DebugStop)
    /// KVM_EXIT_HLT.
    case hlt
    /// KVM_EXIT_MMIO.
    case mmio(MMIO)
    /// KVM_EXIT_IRQ_WINDOW_OPEN.
    case irqWindowOpen
    /// KVM_EXIT_SHUTDOWN: a triple fault.
    case shutdown
    /// KVM_EXIT_FAIL_ENTRY.
    case failEntry(hardwareReason: UInt64, cpu: UInt32)
    /// KVM_EXIT_INTR.
    case intr
    /// KVM_EXIT_SET_TPR.
    case setTPR
    /// KVM_EXIT_TPR_ACCESS.
    case tprAccess(rip: UInt64, isWrite: Bool)
    /// KVM_EXIT_NMI.
    case nmi
    /// KVM_EXIT_INTERNAL_ERROR.
    case internalError(InternalError)
    /// KVM_EXIT_SYSTEM_EVENT.
    case systemEvent(SystemEvent)
    /// KVM_EXIT_IOAPIC_EOI.
    case ioapicEOI(vector: UInt8)
    /// KVM_EXIT_HYPERV; the rest is in the payload.
    case hyperv(type: UInt32)
    /// KVM_EXIT_X86_RDMSR; answered by ``PendingCPU/answerMSR(_:fault:)``.
    case rdmsr(MSRAccess)
    /// KVM_EXIT_X86_WRMSR; answered by ``PendingCPU/answerMSR(_:fault:)``.
    case wrmsr(MSRAccess)
    /// KVM_EXIT_DIRTY_RING_FULL.
    case dirtyRingFull
    /// KVM_EXIT_AP_RESET_HOLD.
    case apResetHold
    /// KVM_EXIT_X86_BUS_LOCK.
    case busLock
    /// KVM_EXIT_XEN; the rest is in the payload.
    case xen(type: UInt32)
    /// KVM_EXIT_NOTIFY; bit 0: the vCPU's state is lost.
    case notify(flags: UInt32)
    /// KVM_EXIT_MEMORY_FAULT.
    case memoryFault(MemoryFault)
    /// KVM_EXIT_TDX; the rest is in the payload.
    case tdx(flags: UInt64, number: UInt64)
    /// A reason without a case here, or one whose payload is not of the documented form.
    case other(ExitReason)

    /// The KVM_EXIT_ number.
    public var reason: ExitReason {
        switch self {
        case .unknown: .unknown
        case .exception: .exception
        case .io: .io
        case .hypercall: .hypercall
        case .debug: .debug
        case .hlt: .hlt
        case .mmio: .mmio
        case .irqWindowOpen: .irqWindowOpen
        case .shutdown: .shutdown
        case .failEntry: .failEntry
        case .intr: .intr
        case .setTPR: .setTPR
        case .tprAccess: .tprAccess
        case .nmi: .nmi
        case .internalError: .internalError
        case .systemEvent: .systemEvent
        case .ioapicEOI: .ioapicEOI
        case .hyperv: .hyperv
        case .rdmsr: .rdmsr
        case .wrmsr: .wrmsr
        case .dirtyRingFull: .dirtyRingFull
        case .apResetHold: ExitReason(rawValue: 32)
        case .busLock: .busLock
        case .xen: .xen
        case .notify: .notify
        case .memoryFault: .memoryFault
        case .tdx: ExitReason(rawValue: 40)
        case .other(let reason): reason
        }
    }
}

/// IN, OUT, INS or OUTS.
public struct PortIO: Equatable, Sendable {
    /// Whether the guest reads or writes.
    public enum Direction: UInt8, Sendable {
        /// The guest reads; the answer is wanted.
        case input = 0
        /// The guest writes.
        case output = 1
    }

    /// Whether the guest reads or writes.
    public var direction: Direction
    /// The size of one access in bytes: 1, 2 or 4.
    public var size: UInt8
    /// The port.
    public var port: UInt16
    /// How many accesses: above 1 for REP INS and REP OUTS.
    public var count: UInt32
    /// Where the bytes are, from the run page's start.
    var dataOffset: Int

    /// `size * count`; the bytes lie inside the run page.
    public var byteCount: Int { Int(size) * Int(count) }
}

/// An access to an address without a memory slot.
public struct MMIO: Equatable, Sendable {
    /// Where.
    public var address: GuestPhysicalAddress
    /// How many bytes: 1 to 8.
    public var size: UInt8
    /// Whether the guest writes; if not, the answer is wanted.
    public var isWrite: Bool
}

/// A hypercall that user space is to answer.
public struct Hypercall: Sendable {
    /// Which.
    public var number: UInt64
    /// Its arguments.
    public var arguments: InlineArray<6, UInt64>
    /// Whether the guest was in long mode.
    public var isLongMode: Bool
}

/// A breakpoint or step that ``SettledCPU/setGuestDebug(_:)`` asked for.
public struct DebugStop: Equatable, Sendable {
    /// The exception: 1 (#DB) or 3 (#BP).
    public var exception: UInt32
    /// The linear address of the instruction.
    public var pc: GuestVirtualAddress
    /// DR6: bits 0–3 which breakpoint, bit 14 single-step.
    public var dr6: UInt64
    /// DR7.
    public var dr7: UInt64
}

/// KVM gave up.
public struct InternalError: Sendable {
    /// KVM_INTERNAL_ERROR_*: 1 emulation, 2 simultaneous exceptions, 3 delivery of an event,
    /// 4 unexpected exit reason.
    public var suberror: UInt32
    /// How many words of ``data`` are meant, 0–16.
    public var count: Int
    /// What the kernel says about it.
    public var data: InlineArray<16, UInt64>

    /// Whether this is an instruction KVM cannot emulate.
    public var isEmulation: Bool { suberror == 1 }

    /// How many bytes of the instruction were delivered, 0–15 (0: none).
    public var instructionByteCount: Int {
        // struct emulation_failure: data[0] flags, then a byte of length and 15 bytes.
        guard isEmulation, count >= 3, data[0] & 1 != 0 else { return 0 }
        return min(15, Int(data[1] & 0xFF))
    }

    /// One byte of the instruction, 0 beyond ``instructionByteCount``. The bytes may hold more
    /// than the instruction.
    public func instructionByte(_ index: Int) -> UInt8 {
        guard index >= 0, index < instructionByteCount else { return 0 }
        let at = index + 1
        return UInt8(truncatingIfNeeded: data[1 + at / 8] >> UInt64(at % 8 * 8))
    }

    /// The bytes of the instruction (allocates; for reports).
    public var instructionBytes: [UInt8] { (0..<instructionByteCount).map(instructionByte) }
}

/// Shutdown, reset or suspend through a paravirtual interface.
public struct SystemEvent: Sendable {
    /// KVM_SYSTEM_EVENT_*: 1 shutdown, 2 reset, 3 crash, 4 wakeup, 5 suspend, 6 SEV termination.
    public var type: UInt32
    /// How many words of ``data`` are meant, 0–16.
    public var count: Int
    /// What comes with it.
    public var data: InlineArray<16, UInt64>
}

/// RDMSR or WRMSR that the MSR filter gives to user space.
public struct MSRAccess: Equatable, Sendable {
    /// Which MSR.
    public var index: UInt32
    /// KVM_MSR_EXIT_REASON_*: 1 invalid, 2 unknown, 4 filtered.
    public var cause: UInt32
    /// What the guest writes; 0 for RDMSR.
    public var value: UInt64
}

/// KVM cannot resolve a guest page.
public struct MemoryFault: Equatable, Sendable {
    /// KVM_MEMORY_EXIT_FLAG_*.
    public var flags: UInt64
    /// The range's first byte.
    public var address: GuestPhysicalAddress
    /// The range's length in bytes.
    public var size: UInt64
}
