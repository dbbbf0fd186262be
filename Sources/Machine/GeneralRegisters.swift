/// One of the 18 registers that a snapshot holds at every exit.
///
/// The raw value is the register's index in KVM's `struct kvm_regs` (Linux
/// `arch/x86/include/uapi/asm/kvm.h`), which is also the order of the trace's register masks.
public enum Register: Int, CaseIterable, Sendable {
    case rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp
    case r8, r9, r10, r11, r12, r13, r14, r15
    case rip, rflags

    /// The assembler's name: `rax`, `r8`, `rflags`.
    public var name: String { String(describing: self) }
}

/// The 16 general-purpose registers, RIP and RFLAGS.
///
/// Same layout as KVM's `struct kvm_regs`: 18 words of 64 bits, 144 bytes, in the order of
/// ``Register``; it can be copied to and from the shared run page as it stands.
public struct GeneralRegisters: Sendable {
    /// The number of registers.
    public static let count = 18

    /// The registers in the order of ``Register``.
    public var words: InlineArray<18, UInt64>

    /// All registers zero.
    public init() { words = InlineArray(repeating: 0) }

    /// One register.
    public subscript(register: Register) -> UInt64 {
        get { words[register.rawValue] }
        set { words[register.rawValue] = newValue }
    }

    // The next two are inlinable: called through a pointer to the run page at every exit, either
    // would copy all 144 bytes first.

    /// The instruction pointer: an offset in CS, which is flat in long mode and mostly elsewhere.
    @inlinable public var rip: UInt64 {
        get { words[16] }
        set { words[16] = newValue }
    }

    /// The flags register.
    @inlinable public var rflags: UInt64 {
        get { words[17] }
        set { words[17] = newValue }
    }
}

extension GeneralRegisters: Equatable {
    /// Whether all 18 registers are equal.
    public static func == (a: Self, b: Self) -> Bool {
        for index in 0..<count where a.words[index] != b.words[index] { return false }
        return true
    }
}
