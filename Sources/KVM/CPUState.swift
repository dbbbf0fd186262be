/// Pending exceptions, interrupts and NMIs, and what shadows them.
///
/// Same layout as KVM's `struct kvm_vcpu_events`: 8 words of 64 bits, little-endian.
public struct VCPUEvents: Sendable {
    /// The number of 64-bit words.
    public static let wordCount = 8

    /// The events as KVM lays them out.
    public var words: InlineArray<8, UInt64>

    /// Nothing pending.
    public init() { words = InlineArray(repeating: 0) }

    private func byte(_ index: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: words[index / 8] >> UInt64(index % 8 * 8))
    }

    private mutating func setByte(_ index: Int, _ value: UInt8) {
        let shift = UInt64(index % 8 * 8)
        words[index / 8] = words[index / 8] & ~(0xFF << shift) | UInt64(value) << shift
    }

    private mutating func setFlag(_ index: Int, _ flag: Bool) { setByte(index, flag ? 1 : 0) }

    /// An exception is being delivered: the next run delivers it.
    public var exceptionInjected: Bool {
        get { byte(0) != 0 }
        set { setFlag(0, newValue) }
    }
    /// Which exception.
    public var exceptionVector: UInt8 {
        get { byte(1) }
        set { setByte(1, newValue) }
    }
    /// Whether it pushes an error code.
    public var exceptionHasErrorCode: Bool {
        get { byte(2) != 0 }
        set { setFlag(2, newValue) }
    }
    /// An exception is pending (KVM_CAP_EXCEPTION_PAYLOAD only).
    public var exceptionPending: Bool {
        get { byte(3) != 0 }
        set { setFlag(3, newValue) }
    }
    /// The error code.
    public var exceptionErrorCode: UInt32 {
        get { UInt32(truncatingIfNeeded: words[0] >> 32) }
        set { words[0] = words[0] & 0xFFFF_FFFF | UInt64(newValue) << 32 }
    }
    /// An interrupt is being delivered.
    public var interruptInjected: Bool {
        get { byte(8) != 0 }
        set { setFlag(8, newValue) }
    }
    /// Which interrupt.
    public var interruptVector: UInt8 {
        get { byte(9) }
        set { setByte(9, newValue) }
    }
    /// It comes of INT n.
    public var interruptIsSoft: Bool {
        get { byte(10) != 0 }
        set { setFlag(10, newValue) }
    }
    /// Interrupt shadow: bit 0 MOV SS, bit 1 STI. Written only with ``validShadow``.
    public var interruptShadow: UInt8 {
        get { byte(11) }
        set { setByte(11, newValue) }
    }
    /// An NMI is being delivered.
    public var nmiInjected: Bool {
        get { byte(12) != 0 }
        set { setFlag(12, newValue) }
    }
    /// An NMI waits. Written only with ``validNMIPending``.
    public var nmiPending: Bool {
        get { byte(13) != 0 }
        set { setFlag(13, newValue) }
    }
    /// NMIs are masked until IRET.
    public var nmiMasked: Bool {
        get { byte(14) != 0 }
        set { setFlag(14, newValue) }
    }
    /// Which optional fields are meant: KVM_VCPUEVENT_VALID_*.
    public var flags: UInt32 {
        get { UInt32(truncatingIfNeeded: words[2] >> 32) }
        set { words[2] = words[2] & 0xFFFF_FFFF | UInt64(newValue) << 32 }
    }
    /// A triple fault is pending.
    public var tripleFaultPending: Bool {
        get { byte(28) != 0 }
        set { setFlag(28, newValue) }
    }

    /// KVM_VCPUEVENT_VALID_NMI_PENDING.
    public static let validNMIPending: UInt32 = 1
    /// KVM_VCPUEVENT_VALID_SHADOW.
    public static let validShadow: UInt32 = 4

    /// Whether an exception or interrupt is on its way into the guest.
    public var isAnythingUnderWay: Bool {
        exceptionInjected || exceptionPending || interruptInjected || nmiInjected || nmiPending
    }

    /// Whether #BP or #OF is being delivered, of which KVM_GET_VCPU_EVENTS does not tell.
    public var isSoftException: Bool {
        exceptionInjected && (exceptionVector == 3 || exceptionVector == 4)
    }

    /// Whether anything is being delivered, waits or is shadowed: no place for a landmark.
    public var isAnythingPending: Bool {
        isAnythingUnderWay || interruptShadow != 0 || tripleFaultPending
    }
}

extension VCPUEvents {
    /// These, with nothing on its way or held back, to be written.
    public var settled: VCPUEvents {
        var events = self
        events.exceptionInjected = false
        events.exceptionPending = false
        events.exceptionVector = 0
        events.exceptionHasErrorCode = false
        events.exceptionErrorCode = 0
        events.interruptInjected = false
        events.interruptIsSoft = false
        events.interruptVector = 0
        events.interruptShadow = 0
        events.nmiInjected = false
        events.nmiPending = false
        events.nmiMasked = false
        events.flags |= Self.validNMIPending | Self.validShadow
        return events
    }
}

extension VCPUEvents: Equatable {
    /// Whether all words are equal.
    public static func == (a: Self, b: Self) -> Bool {
        for index in 0..<wordCount where a.words[index] != b.words[index] { return false }
        return true
    }
}

/// The guest's own debug registers; layout of `struct kvm_debugregs`, 16 words of 64 bits.
public struct DebugRegisters: Sendable {
    /// DR0–DR3, DR6, DR7, flags, then reserved words of zero.
    public var words: InlineArray<16, UInt64>
    /// All zero.
    public init() { words = InlineArray(repeating: 0) }
    /// DR6.
    public var dr6: UInt64 {
        get { words[4] }
        set { words[4] = newValue }
    }
    /// DR7.
    public var dr7: UInt64 {
        get { words[5] }
        set { words[5] = newValue }
    }
}

/// Segment and control registers with the PDPTEs; layout of `struct kvm_sregs2`, 40 words: the
/// first 35 of ``Machine/SystemRegisters``, flags, and four PDPTEs.
public struct SystemRegisters2: Sendable {
    /// The registers as KVM lays them out.
    public var words: InlineArray<40, UInt64>
    /// All zero.
    public init() { words = InlineArray(repeating: 0) }
}

/// Whether a vCPU runs (KVM_MP_STATE_*).
public struct MPState: RawRepresentable, Hashable, Sendable {
    /// The number.
    public var rawValue: UInt32
    /// Makes a state of a number; every number is a valid one.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// It runs.
    public static let runnable = MPState(rawValue: 0)
    /// It executed HLT (only with an interrupt controller in the kernel).
    public static let halted = MPState(rawValue: 3)
}

/// An MSR and its value.
public struct MSRValue: Hashable, Sendable {
    /// Which MSR.
    public var index: UInt32
    /// Its value.
    public var value: UInt64
    /// Makes a pair.
    public init(index: UInt32, value: UInt64) {
        self.index = index
        self.value = value
    }
}

/// An extended control register and its value.
public struct ExtendedControlRegister: Hashable, Sendable {
    /// Which: 0 is XCR0.
    public var index: UInt32
    /// Its value.
    public var value: UInt64
    /// Makes a pair.
    public init(index: UInt32, value: UInt64) {
        self.index = index
        self.value = value
    }
}
