public import Machine

/// The registers of one vCPU that a debugger can be shown.
///
/// What is nil is shown as unavailable.
public struct TargetRegisters: Sendable {
    /// General-purpose registers, RIP as the CPU holds it (an offset in CS), RFLAGS.
    public var general: GeneralRegisters
    /// Segments, control registers, EFER.
    public var system: SystemRegisters?
    /// MSR 0xC0000102, which SWAPGS exchanges with the base of GS.
    public var kernelGSBase: UInt64?
    /// x87 and SSE state, nil where not known.
    public var floatingPoint: FloatingPointState?

    /// Makes a set of registers.
    public init(
        general: GeneralRegisters, system: SystemRegisters? = nil, kernelGSBase: UInt64? = nil,
        floatingPoint: FloatingPointState? = nil
    ) {
        self.general = general
        self.system = system
        self.kernelGSBase = kernelGSBase
        self.floatingPoint = floatingPoint
    }
}

/// x87 and SSE registers as FXSAVE64 lays them out (Intel SDM vol. 1, 10.5.1, table 10-2): the
/// legacy region that KVM_GET_XSAVE starts with.
public struct FloatingPointState: Sendable {
    /// The length of the region that is looked at: up to the end of XMM15.
    public static let count = 416

    /// The bytes, ``count`` of them.
    public private(set) var bytes: [UInt8]

    /// Takes the first ``count`` bytes of an FXSAVE64 or XSAVE area; nil where there are fewer.
    public init?(_ area: some Collection<UInt8>) {
        guard area.count >= Self.count else { return nil }
        bytes = Array(area.prefix(Self.count))
    }

    /// Bytes of the area; the range must be within ``count``.
    subscript(range: Range<Int>) -> [UInt8] {
        get { Array(bytes[range]) }
        set {
            precondition(newValue.count == range.count)
            bytes.replaceSubrange(range, with: newValue)
        }
    }
}
