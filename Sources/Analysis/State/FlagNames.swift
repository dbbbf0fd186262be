/// What the bits of a register are called: the assembler's and the manuals' names.
struct FlagNames {
    /// A bit or a field of several bits, the lowest first.
    private struct Field {
        var bit: UInt64
        var width: UInt64
        var name: String
    }

    private let fields: [Field]

    /// Bits by name; a name with `:2` takes two bits, and is shown with its value.
    init(_ names: [(bit: Int, name: String)]) {
        fields = names.map { entry in
            let parts = entry.name.split(separator: ":")
            return Field(
                bit: UInt64(entry.bit), width: parts.count > 1 ? UInt64(parts[1]) ?? 1 : 1,
                name: String(parts[0]))
        }
    }

    /// The names of the bits that are set, and of fields that are not zero with their values:
    /// `PF ZF IF IOPL=3`. Bits without a name come last, as one number.
    func text(_ value: UInt64) -> String { names(value).joined(separator: " ") }

    /// The same as a list.
    func names(_ value: UInt64) -> [String] {
        var rest = value
        var found: [String] = []
        for field in fields {
            let mask = (UInt64(1) << field.width - 1) << field.bit
            let part = (value & mask) >> field.bit
            rest &= ~mask
            guard part != 0 else { continue }
            found.append(field.width == 1 ? field.name : "\(field.name)=\(part)")
        }
        if rest != 0 { found.append("0x\(TextLine.hexadecimal(rest))") }
        return found
    }

    /// RFLAGS (Intel SDM vol. 1, 3.4.3). Bit 1 is always set and told by nobody.
    static let rflags = FlagNames([
        (0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (8, "TF"), (9, "IF"), (10, "DF"),
        (11, "OF"), (12, "IOPL:2"), (14, "NT"), (16, "RF"), (17, "VM"), (18, "AC"), (19, "VIF"),
        (20, "VIP"), (21, "ID"),
    ])

    /// CR0 (Intel SDM vol. 3, 2.5).
    static let cr0 = FlagNames([
        (0, "PE"), (1, "MP"), (2, "EM"), (3, "TS"), (4, "ET"), (5, "NE"), (16, "WP"), (18, "AM"),
        (29, "NW"), (30, "CD"), (31, "PG"),
    ])

    /// CR4 (Intel SDM vol. 3, 2.5).
    static let cr4 = FlagNames([
        (0, "VME"), (1, "PVI"), (2, "TSD"), (3, "DE"), (4, "PSE"), (5, "PAE"), (6, "MCE"),
        (7, "PGE"), (8, "PCE"), (9, "OSFXSR"), (10, "OSXMMEXCPT"), (11, "UMIP"), (12, "LA57"),
        (13, "VMXE"), (14, "SMXE"), (16, "FSGSBASE"), (17, "PCIDE"), (18, "OSXSAVE"), (19, "KL"),
        (20, "SMEP"), (21, "SMAP"), (22, "PKE"), (23, "CET"), (24, "PKS"), (25, "UINTR"),
        (28, "LAM_SUP"),
    ])

    /// IA32_EFER (Intel SDM vol. 3, 2.2.1; AMD APM vol. 2, 3.1.7).
    static let efer = FlagNames([
        (0, "SCE"), (8, "LME"), (10, "LMA"), (11, "NXE"), (12, "SVME"), (13, "LMSLE"),
        (14, "FFXSR"), (15, "TCE"), (17, "MCOMMIT"), (18, "INTWB"), (20, "UAIE"), (21, "AIBRSE"),
    ])

    /// IA32_APIC_BASE (Intel SDM vol. 3, 11.4.4), without the address.
    static let apicBase = FlagNames([(8, "BSP"), (10, "x2APIC"), (11, "enabled")])
}
