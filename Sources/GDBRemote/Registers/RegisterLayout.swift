internal import Machine

/// A register as the debugger numbers it: its place in ``RegisterLayout/registers``.
struct RegisterDescription: Equatable {
    /// The name in the target description.
    var name: String
    /// Its size in bits, a multiple of 8.
    var bits: Int
    /// Its type in the target description.
    var type: String
    /// The group, where the debugger would not find it by the type.
    var group: String?
    /// Where the value comes from.
    var source: Source

    /// Its size in bytes.
    var size: Int { bits / 8 }

    /// What a register shows.
    enum Source: Equatable {
        /// A general-purpose register.
        case general(Register)
        /// The linear address of the next instruction: RIP plus the base of CS outside 64-bit code.
        ///
        /// gdb has no segments: it compares this with the addresses of breakpoints, and reads
        /// code there. Of a CPU in real mode the offset alone would be of no use to it.
        case linearInstructionPointer
        /// RIP as the CPU holds it.
        case instructionPointer
        /// The low half of RFLAGS; the rest is zero.
        case flags
        /// The visible part of a segment register.
        case selector(SystemRegisters.SegmentName)
        /// The base of a segment.
        case base(SystemRegisters.SegmentName)
        /// MSR 0xC0000102.
        case kernelGSBase
        /// A control register, or EFER.
        case control(SystemRegisters.ControlName)
        /// Base or limit of a descriptor table.
        case globalTableBase, globalTableLimit, interruptTableBase, interruptTableLimit
        /// Bytes of the FXSAVE area, the rest of the register zero.
        case floatingPoint(offset: Int, count: Int)
        /// The x87 tag word, which FXSAVE holds in short.
        case tagWord
    }
}

/// The registers that gdb sees, in its order (gdb's `features/i386/*-core.xml`, `*-sse.xml` and
/// `*-segments.xml`; GDB manual, "i386 Features"), and those that only this server has.
struct RegisterLayout: Sendable {
    /// A feature of the target description.
    struct Feature: Sendable {
        var name: String
        /// XML that stands before the registers: types.
        var types: String
        var registers: [RegisterDescription]
    }

    /// The name of the architecture, as BFD has it.
    let architecture: String
    /// Whether the debugger is to look for no operating system: it warns where it knows none.
    var hasNoSystem: Bool { architecture == Self.i8086.architecture }
    /// Whether registers have 32 bits.
    var isNarrow: Bool { architecture != Self.x86_64.architecture }
    /// All features, in the order of the register numbers.
    let features: [Feature]
    /// All registers; the index is the number.
    let registers: [RegisterDescription]
    /// Numbers that stop replies tell the values of: frame, stack and instruction pointer.
    let expedited: [Int]
    /// The bytes of all registers together.
    let size: Int

    private init(architecture: String, features: [Feature], expedited: [Int]) {
        self.architecture = architecture
        self.features = features
        registers = features.flatMap(\.registers)
        self.expedited = expedited
        size = registers.reduce(0) { $0 + $1.size }
    }

    /// The layout of an architecture.
    static func of(_ architecture: DebugArchitecture) -> RegisterLayout {
        switch architecture {
        case .x86_64: x86_64
        case .i386: i386
        case .i8086: i8086
        }
    }

    static let x86_64 = RegisterLayout(
        architecture: "i386:x86-64",
        features: [
            Feature(
                name: "org.gnu.gdb.i386.core", types: FlagTypes.core, registers: core64 + others),
            Feature(name: "org.gnu.gdb.i386.sse", types: FlagTypes.sse, registers: sse(count: 16)),
            Feature(
                name: "org.gnu.gdb.i386.segments", types: "", registers: segmentBases(bits: 64)),
            Feature(
                name: "org.vmtape.system", types: FlagTypes.system,
                registers: [
                    .init(name: "k_gs_base", bits: 64, type: "int", source: .kernelGSBase)
                ] + system),
        ], expedited: [6, 7, 16])

    static let i386 = RegisterLayout(
        architecture: "i386", features: features32, expedited: [5, 4, 8])

    static let i8086 = RegisterLayout(
        architecture: "i8086", features: features32, expedited: [5, 4, 8])

    private static let features32 = [
        Feature(name: "org.gnu.gdb.i386.core", types: FlagTypes.core, registers: core32 + others),
        Feature(name: "org.gnu.gdb.i386.sse", types: FlagTypes.sse, registers: sse(count: 8)),
        // As a feature of gdb's own they make gdb 13 abort where the CPU is an i386.
        Feature(
            name: "org.vmtape.system", types: FlagTypes.system,
            registers: segmentBases(bits: 32) + system),
    ]

    private static func general(
        _ name: String, _ register: Register, bits: Int
    ) -> RegisterDescription {
        let isPointer = register == .rsp || register == .rbp
        return RegisterDescription(
            name: name, bits: bits, type: isPointer ? "data_ptr" : "int\(bits)",
            source: .general(register))
    }

    private static let core64: [RegisterDescription] = {
        let order: [Register] = [
            .rax, .rbx, .rcx, .rdx, .rsi, .rdi, .rbp, .rsp, .r8, .r9, .r10, .r11, .r12, .r13, .r14,
            .r15,
        ]
        return order.map { general($0.name, $0, bits: 64) } + [
            .init(name: "rip", bits: 64, type: "code_ptr", source: .linearInstructionPointer)
        ]
    }()

    private static let core32: [RegisterDescription] = {
        let order: [Register] = [.rax, .rcx, .rdx, .rbx, .rsp, .rbp, .rsi, .rdi]
        return order.map { general("e" + $0.name.dropFirst(), $0, bits: 32) } + [
            .init(name: "eip", bits: 32, type: "code_ptr", source: .linearInstructionPointer)
        ]
    }()

    /// What follows the instruction pointer in both.
    private static let others: [RegisterDescription] = {
        var registers: [RegisterDescription] = [
            .init(name: "eflags", bits: 32, type: "i386_eflags", source: .flags)
        ]
        let segments: [SystemRegisters.SegmentName] = [.cs, .ss, .ds, .es, .fs, .gs]
        registers += segments.map {
            .init(name: $0.name, bits: 32, type: "int32", source: .selector($0))
        }
        registers += (0..<8).map {
            .init(
                name: "st\($0)", bits: 80, type: "i387_ext",
                source: .floatingPoint(offset: 32 + 16 * $0, count: 10))
        }
        // Offsets in the 64-bit format of FXSAVE: FCW 0, FSW 2, FOP 6, FIP 8, FDP 16.
        let control: [(String, RegisterDescription.Source)] = [
            ("fctrl", .floatingPoint(offset: 0, count: 2)),
            ("fstat", .floatingPoint(offset: 2, count: 2)), ("ftag", .tagWord),
            ("fiseg", .floatingPoint(offset: 12, count: 4)),
            ("fioff", .floatingPoint(offset: 8, count: 4)),
            ("foseg", .floatingPoint(offset: 20, count: 4)),
            ("fooff", .floatingPoint(offset: 16, count: 4)),
            ("fop", .floatingPoint(offset: 6, count: 2)),
        ]
        registers += control.map {
            .init(name: $0.0, bits: 32, type: "int", group: "float", source: $0.1)
        }
        return registers
    }()

    private static func sse(count: Int) -> [RegisterDescription] {
        (0..<count).map {
            .init(
                name: "xmm\($0)", bits: 128, type: "vec128",
                source: .floatingPoint(offset: 160 + 16 * $0, count: 16))
        } + [
            .init(
                name: "mxcsr", bits: 32, type: "i386_mxcsr", group: "vector",
                source: .floatingPoint(offset: 24, count: 4))
        ]
    }

    private static func segmentBases(bits: Int) -> [RegisterDescription] {
        [
            .init(name: "fs_base", bits: bits, type: "int", source: .base(.fs)),
            .init(name: "gs_base", bits: bits, type: "int", source: .base(.gs)),
        ]
    }

    /// The names of the first ones are QEMU's.
    private static let system: [RegisterDescription] = [
        .init(name: "cr0", bits: 64, type: "cr0_flags", source: .control(.cr0)),
        .init(name: "cr2", bits: 64, type: "int", source: .control(.cr2)),
        .init(name: "cr3", bits: 64, type: "int", source: .control(.cr3)),
        .init(name: "cr4", bits: 64, type: "cr4_flags", source: .control(.cr4)),
        .init(name: "cr8", bits: 64, type: "int", source: .control(.cr8)),
        .init(name: "efer", bits: 64, type: "efer_flags", source: .control(.efer)),
        .init(name: "ip", bits: 64, type: "int", group: "system", source: .instructionPointer),
        .init(name: "cs_base", bits: 64, type: "int", group: "system", source: .base(.cs)),
        .init(name: "ss_base", bits: 64, type: "int", group: "system", source: .base(.ss)),
        .init(name: "ds_base", bits: 64, type: "int", group: "system", source: .base(.ds)),
        .init(name: "es_base", bits: 64, type: "int", group: "system", source: .base(.es)),
        .init(name: "tr", bits: 32, type: "int", group: "system", source: .selector(.tr)),
        .init(name: "ldt", bits: 32, type: "int", group: "system", source: .selector(.ldt)),
        .init(name: "gdt_base", bits: 64, type: "int", group: "system", source: .globalTableBase),
        .init(name: "gdt_limit", bits: 32, type: "int", group: "system", source: .globalTableLimit),
        .init(
            name: "idt_base", bits: 64, type: "int", group: "system", source: .interruptTableBase),
        .init(
            name: "idt_limit", bits: 32, type: "int", group: "system",
            source: .interruptTableLimit),
    ]
}

extension DebugArchitecture {
    /// What a CPU in a mode is best taken for.
    init(_ mode: CPUMode) {
        switch mode {
        case .real, .protected16: self = .i8086
        case .protected32: self = .i386
        case .compatibility, .long: self = .x86_64
        }
    }
}
