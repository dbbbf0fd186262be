internal import CKVM
public import Machine

/// What stops the guest for us (KVM_SET_GUEST_DEBUG). While anything is armed, the guest's own
/// debug registers are out of force.
public struct GuestDebug: Equatable, Sendable {
    /// A hardware breakpoint or watchpoint.
    public struct Breakpoint: Equatable, Sendable {
        /// What it waits for; the raw value is the R/W field of DR7.
        public enum Kind: UInt64, Sendable {
            /// The instruction at the address is about to execute; length 1.
            case execute = 0
            /// The bytes are written.
            case write = 1
            /// The bytes are read or written.
            case access = 3
        }
        /// The linear address; aligned to its length.
        public var address: GuestVirtualAddress
        /// What it waits for.
        public var kind: Kind
        /// 1, 2, 4 or 8 bytes; anything else counts as 1.
        public var length: Int

        /// Makes a breakpoint.
        public init(_ address: GuestVirtualAddress, kind: Kind = .execute, length: Int = 1) {
            self.address = address
            self.kind = kind
            self.length = length
        }

        var lengthField: UInt64 {
            switch length {
            case 2: 1
            case 4: 3
            case 8: 2
            default: 0
            }
        }
    }

    /// Stop after every instruction.
    public var singleStep: Bool
    /// Exit on INT3 of the guest instead of delivering #BP.
    public var softwareBreakpoints: Bool
    /// Hold interrupts back while stepping (KVM_GUESTDBG_BLOCKIRQ).
    public var blockInterrupts: Bool
    /// At most four; more are ignored.
    public var breakpoints: [Breakpoint]

    /// Makes a wish; the default is none.
    public init(
        singleStep: Bool = false, softwareBreakpoints: Bool = false, blockInterrupts: Bool = false,
        breakpoints: [Breakpoint] = []
    ) {
        self.singleStep = singleStep
        self.softwareBreakpoints = softwareBreakpoints
        self.blockInterrupts = blockInterrupts
        self.breakpoints = breakpoints
    }

    /// Nothing armed.
    public static let off = GuestDebug()

    var control: UInt32 {
        var bits: UInt32 = 0
        if singleStep { bits |= UInt32(KVM_GUESTDBG_SINGLESTEP) }
        if softwareBreakpoints { bits |= UInt32(KVM_GUESTDBG_USE_SW_BP) }
        if !breakpoints.isEmpty { bits |= UInt32(KVM_GUESTDBG_USE_HW_BP) }
        if bits != 0 {
            bits |= UInt32(KVM_GUESTDBG_ENABLE)
            if blockInterrupts { bits |= UInt32(KVM_GUESTDBG_BLOCKIRQ) }
        }
        return bits
    }

    /// DR0–DR7 as KVM takes them (Intel SDM vol. 3, 18.2.4).
    var debugRegisters: InlineArray<8, UInt64> {
        var registers = InlineArray<8, UInt64>(repeating: 0)
        for (index, breakpoint) in breakpoints.prefix(4).enumerated() {
            registers[index] = breakpoint.address.rawValue
            let control = breakpoint.kind.rawValue | breakpoint.lengthField << 2
            registers[7] |= 2 << UInt64(index * 2) | control << UInt64(16 + index * 4)
        }
        if !breakpoints.isEmpty { registers[7] |= 0x600 }
        return registers
    }
}
