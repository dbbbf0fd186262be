/// Types of the target description that show registers bit by bit (Intel SDM vol. 1, 3.4.3 and
/// 10.2.3; vol. 3, 2.5 and 2.2.1).
enum FlagTypes {
    static let core = flags(
        "i386_eflags", size: 4,
        [
            ("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9),
            ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19),
            ("VIP", 20), ("ID", 21),
        ])

    static let sse =
        vectors
        + flags(
            "i386_mxcsr", size: 4,
            [
                ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6),
                ("IM", 7), ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15),
            ])

    static let system =
        flags(
            "cr0_flags", size: 8,
            [
                ("PE", 0), ("MP", 1), ("EM", 2), ("TS", 3), ("ET", 4), ("NE", 5), ("WP", 16),
                ("AM", 18), ("NW", 29), ("CD", 30), ("PG", 31),
            ])
        + flags(
            "cr4_flags", size: 8,
            [
                ("VME", 0), ("PVI", 1), ("TSD", 2), ("DE", 3), ("PSE", 4), ("PAE", 5), ("MCE", 6),
                ("PGE", 7), ("PCE", 8), ("OSFXSR", 9), ("OSXMMEXCPT", 10), ("UMIP", 11),
                ("LA57", 12), ("VMXE", 13), ("SMXE", 14), ("FSGSBASE", 16), ("PCIDE", 17),
                ("OSXSAVE", 18), ("SMEP", 20), ("SMAP", 21), ("PKE", 22),
            ])
        + flags(
            "efer_flags", size: 8,
            [("SCE", 0), ("LME", 8), ("LMA", 10), ("NXE", 11), ("SVME", 12), ("FFXSR", 14)])

    /// What an XMM register may hold: gdb asks for the name of the union and of its fields.
    private static let vectors: String = {
        let elements = [
            ("v8bf16", "bfloat16", 8, "v8_bfloat16"), ("v8h", "ieee_half", 8, "v8_half"),
            ("v4f", "ieee_single", 4, "v4_float"), ("v2d", "ieee_double", 2, "v2_double"),
            ("v16i8", "int8", 16, "v16_int8"), ("v8i16", "int16", 8, "v8_int16"),
            ("v4i32", "int32", 4, "v4_int32"), ("v2i64", "int64", 2, "v2_int64"),
        ]
        var text = ""
        for (id, type, count, _) in elements {
            text += "<vector id=\"\(id)\" type=\"\(type)\" count=\"\(count)\"/>\n"
        }
        text += "<union id=\"vec128\">\n"
        for (id, _, _, field) in elements {
            text += "<field name=\"\(field)\" type=\"\(id)\"/>\n"
        }
        return text + "<field name=\"uint128\" type=\"uint128\"/>\n</union>\n"
    }()

    private static func flags(_ id: String, size: Int, _ bits: [(String, Int)]) -> String {
        var text = "<flags id=\"\(id)\" size=\"\(size)\">\n"
        for (name, bit) in bits {
            text += "<field name=\"\(name)\" start=\"\(bit)\" end=\"\(bit)\"/>\n"
        }
        return text + "</flags>\n"
    }
}
