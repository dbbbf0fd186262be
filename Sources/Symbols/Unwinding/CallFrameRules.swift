internal import Machine

/// Where the caller's registers are, at one address of a function (DWARF 5, 6.4.1).
struct CallFrameRules {
    /// How the canonical frame address is computed.
    enum CanonicalAddress: Equatable {
        /// A register, by its DWARF number, plus an offset.
        case register(Int, offset: Int64)
        /// An expression, at these offsets in the section.
        case expression(Range<Int>)
        /// Nothing says.
        case unknown
    }

    /// Where one register of the caller is.
    enum Rule: Equatable {
        /// It cannot be recovered.
        case undefined
        /// It was not changed.
        case sameValue
        /// In memory at the canonical frame address plus this.
        case offset(Int64)
        /// The canonical frame address plus this.
        case valueOffset(Int64)
        /// In another register, by its DWARF number.
        case register(Int)
        /// In memory at what an expression gives.
        case expression(Range<Int>)
        /// What an expression gives.
        case valueExpression(Range<Int>)
    }

    var canonicalAddress = CanonicalAddress.unknown
    /// By DWARF number. Those beyond are vector and system registers, which nobody asks for.
    var registers: InlineArray<17, Rule>

    /// The rules before any instruction: what the ABI says a function preserves (System V ABI,
    /// AMD64 figure 3.4; i386 figure 2.3), the caller's stack pointer, and the return address
    /// just below the frame.
    init(_ machine: CallFrameMachine) {
        registers = InlineArray(repeating: .undefined)
        for number in machine.preserved { registers[number] = .sameValue }
        registers[machine.stackPointer] = .valueOffset(0)
        registers[machine.returnAddress] = .offset(-Int64(machine.wordSize))
    }
}

/// How DWARF numbers the registers of a machine.
enum CallFrameMachine {
    /// System V ABI for AMD64, figure 3.36.
    case amd64
    /// System V ABI for i386, table 2.14.
    case i386

    var wordSize: Int { self == .amd64 ? 8 : 4 }

    /// Registers by DWARF number; the last is the return address.
    var registers: [Register] { self == .amd64 ? Self.amd64Registers : Self.i386Registers }

    private static let amd64Registers: [Register] = [
        .rax, .rdx, .rcx, .rbx, .rsi, .rdi, .rbp, .rsp,
        .r8, .r9, .r10, .r11, .r12, .r13, .r14, .r15, .rip,
    ]
    private static let i386Registers: [Register] = [
        .rax, .rcx, .rdx, .rbx, .rsp, .rbp, .rsi, .rdi, .rip,
    ]

    /// The DWARF number of the stack pointer.
    var stackPointer: Int { self == .amd64 ? 7 : 4 }
    /// The DWARF number of the return address.
    var returnAddress: Int { self == .amd64 ? 16 : 8 }
    /// The DWARF numbers of the registers that a function leaves as they were.
    var preserved: [Int] { self == .amd64 ? [3, 6, 12, 13, 14, 15] : [3, 5, 6, 7] }
}
