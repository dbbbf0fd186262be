internal import Machine

/// The bits of a register as text.
struct FlagNames {
    let fields: [RegisterField]

    /// The names of the bits that are set, and of fields that are not zero with their values:
    /// `PF ZF IF IOPL=3`. Bits without a name come last, as one number.
    func text(_ value: UInt64) -> String { names(value).joined(separator: " ") }

    /// The same as a list.
    func names(_ value: UInt64) -> [String] {
        var rest = value
        var found: [String] = []
        for field in fields {
            let mask = (UInt64(1) << UInt64(field.width) - 1) << UInt64(field.bit)
            let part = (value & mask) >> UInt64(field.bit)
            rest &= ~mask
            guard part != 0 else { continue }
            found.append(field.width == 1 ? field.name : "\(field.name)=\(part)")
        }
        if rest != 0 { found.append("0x\(TextLine.hexadecimal(rest))") }
        return found
    }

    /// RFLAGS. Bit 1 is always set and told by nobody.
    static let rflags = FlagNames(fields: RegisterField.rflags)
    /// CR0.
    static let cr0 = FlagNames(fields: RegisterField.cr0)
    /// CR4.
    static let cr4 = FlagNames(fields: RegisterField.cr4)
    /// IA32_EFER.
    static let efer = FlagNames(fields: RegisterField.efer)
    /// IA32_APIC_BASE, without the address.
    static let apicBase = FlagNames(fields: RegisterField.apicBase)
}
