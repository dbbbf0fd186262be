public import Machine

/// What an exit carries besides registers: its reason, and what the guest asked for or sent.
///
/// `Bytes` is how variable data is referred to: ``ExitDetail`` over `UnsafeRawBufferPointer` (into
/// the run page) when an exit is recorded, over `Range<Int>` (places in a block's rows) when it is
/// read. Cases are named after their `KVM_EXIT_` twin; field meanings are those of
/// `struct kvm_run` in `linux/kvm.h`.
public enum ExitDetail<Bytes> {
    /// KVM_EXIT_IO: `count` accesses of `size` (1, 2, 4) bytes. `data` holds `size * count` bytes
    /// of an OUT, at most 4096, and none of an IN.
    case io(isWrite: Bool, size: UInt8, port: UInt16, count: UInt32, data: Bytes)
    /// KVM_EXIT_MMIO: `length` is 1 to 8 bytes; `value` is what a write sent, little-endian with the
    /// unused high bytes zero, and zero for a read.
    case mmio(address: GuestPhysicalAddress, length: UInt8, isWrite: Bool, value: UInt64)
    /// KVM_EXIT_X86_RDMSR; `why` is a `KVM_MSR_EXIT_REASON_*` bit.
    case rdmsr(index: UInt32, why: UInt32)
    /// KVM_EXIT_X86_WRMSR.
    case wrmsr(index: UInt32, why: UInt32, value: UInt64)
    /// KVM_EXIT_HYPERCALL: `arguments` holds six 64-bit words.
    case hypercall(number: UInt64, isLongMode: Bool, arguments: Bytes)
    /// KVM_EXIT_INTERNAL_ERROR: `data` holds at most 16 64-bit words.
    case internalError(suberror: UInt32, data: Bytes)
    /// KVM_EXIT_FAIL_ENTRY.
    case failEntry(hardwareReason: UInt64, cpu: UInt32)
    /// KVM_EXIT_SYSTEM_EVENT: `data` holds at most 16 64-bit words.
    case systemEvent(type: UInt32, data: Bytes)
    /// KVM_EXIT_EXCEPTION.
    case exception(vector: UInt32, errorCode: UInt32)
    /// KVM_EXIT_DEBUG.
    case debug(exception: UInt32, pc: UInt64, dr6: UInt64, dr7: UInt64)
    /// Any other reason; at most 256 bytes of its part of the run page, none where it says nothing
    /// (HLT, shutdown, ...).
    case other(ExitReason, data: Bytes)

    /// The exit's reason.
    public var reason: ExitReason {
        switch self {
        case .io: .io
        case .mmio: .mmio
        case .rdmsr: .rdmsr
        case .wrmsr: .wrmsr
        case .hypercall: .hypercall
        case .internalError: .internalError
        case .failEntry: .failEntry
        case .systemEvent: .systemEvent
        case .exception: .exception
        case .debug: .debug
        case .other(let reason, _): reason
        }
    }

    /// The guest sent something out: a write to a port, to device memory or to an MSR.
    public var isOutput: Bool {
        switch self {
        case .io(let isWrite, _, _, _, _), .mmio(_, _, let isWrite, _): isWrite
        case .wrmsr: true
        default: false
        }
    }
}

extension ExitDetail: Sendable where Bytes: Sendable {}
extension ExitDetail: Equatable where Bytes: Equatable {}

extension ExitDetail where Bytes == UnsafeRawBufferPointer {
    /// An exit that says nothing but its reason: HLT, shutdown, an open interrupt window.
    public static func plain(_ reason: ExitReason) -> ExitDetail {
        // SAFETY: an empty buffer refers to nothing.
        unsafe .other(reason, data: UnsafeRawBufferPointer(start: nil, count: 0))
    }
}

/// Bits of an exit that are not part of its reason.
public struct ExitFlags: OptionSet, Hashable, Sendable {
    /// The bits as the row holds them; bit 0 is the row's own (system registers follow).
    public var rawValue: UInt8

    /// Makes a set of bits.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The OUT stands for an instruction that vmtape rewrote (RDTSC, CPUID): it is not output, and
    /// takes no part in the output digest.
    public static let rewrittenInstruction = ExitFlags(rawValue: 1 << 1)

    /// The bits that format 1 defines for callers.
    static let defined: ExitFlags = [.rewrittenInstruction]
}
