/// A bit of a register, or a field of several, by the name that assemblers and manuals give it.
public struct RegisterField: Sendable {
    /// The lowest bit.
    public let bit: Int
    /// How many bits it has.
    public let width: Int
    /// What it is called.
    public let name: String

    private init(_ bit: Int, _ width: Int, _ name: String) {
        self.bit = bit
        self.width = width
        self.name = name
    }

    private static func bits(_ names: [(bit: Int, name: String)]) -> [RegisterField] {
        names.map { RegisterField($0.bit, 1, $0.name) }
    }

    /// RFLAGS (Intel SDM vol. 1, 3.4.3). Bit 1 is always set and has no name.
    public static let rflags =
        bits([
            (0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (8, "TF"), (9, "IF"),
            (10, "DF"), (11, "OF"),
        ]) + [RegisterField(12, 2, "IOPL")]
        + bits([
            (14, "NT"), (16, "RF"), (17, "VM"), (18, "AC"), (19, "VIF"), (20, "VIP"), (21, "ID"),
        ])

    /// CR0 (Intel SDM vol. 3, 2.5).
    public static let cr0 = bits([
        (0, "PE"), (1, "MP"), (2, "EM"), (3, "TS"), (4, "ET"), (5, "NE"), (16, "WP"), (18, "AM"),
        (29, "NW"), (30, "CD"), (31, "PG"),
    ])

    /// CR4 (Intel SDM vol. 3, 2.5).
    public static let cr4 = bits([
        (0, "VME"), (1, "PVI"), (2, "TSD"), (3, "DE"), (4, "PSE"), (5, "PAE"), (6, "MCE"),
        (7, "PGE"), (8, "PCE"), (9, "OSFXSR"), (10, "OSXMMEXCPT"), (11, "UMIP"), (12, "LA57"),
        (13, "VMXE"), (14, "SMXE"), (16, "FSGSBASE"), (17, "PCIDE"), (18, "OSXSAVE"), (19, "KL"),
        (20, "SMEP"), (21, "SMAP"), (22, "PKE"), (23, "CET"), (24, "PKS"), (25, "UINTR"),
        (28, "LAM_SUP"),
    ])

    /// IA32_EFER (Intel SDM vol. 3, 2.2.1; AMD APM vol. 2, 3.1.7).
    public static let efer = bits([
        (0, "SCE"), (8, "LME"), (10, "LMA"), (11, "NXE"), (12, "SVME"), (13, "LMSLE"),
        (14, "FFXSR"), (15, "TCE"), (17, "MCOMMIT"), (18, "INTWB"), (20, "UAIE"), (21, "AIBRSE"),
    ])

    /// IA32_APIC_BASE (Intel SDM vol. 3, 11.4.4), without the address.
    public static let apicBase = bits([(8, "BSP"), (10, "x2APIC"), (11, "enabled")])
}

/// Bits of RFLAGS as masks (Intel SDM vol. 1, 3.4.3).
public enum FlagBits {
    /// CF.
    public static let carry: UInt64 = 1
    /// PF.
    public static let parity: UInt64 = 1 << 2
    /// AF.
    public static let adjust: UInt64 = 1 << 4
    /// ZF.
    public static let zero: UInt64 = 1 << 6
    /// SF.
    public static let sign: UInt64 = 1 << 7
    /// TF: a trap after each instruction.
    public static let trap: UInt64 = 1 << 8
    /// IF: interrupts are taken.
    public static let interrupt: UInt64 = 1 << 9
    /// OF.
    public static let overflow: UInt64 = 1 << 11
    /// RF: no breakpoint at the next instruction.
    public static let resume: UInt64 = 1 << 16
    /// AC.
    public static let alignment: UInt64 = 1 << 18
    /// Those that arithmetic sets.
    public static let arithmetic = carry | parity | adjust | zero | sign | overflow
}
