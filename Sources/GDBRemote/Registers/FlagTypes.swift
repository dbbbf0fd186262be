internal import Machine

/// Types of the target description that show registers bit by bit (MXCSR: Intel SDM vol. 1, 10.2.3).
enum FlagTypes {
    // gdb's own description has bit 1 without a name.
    static let core = flags("i386_eflags", size: 4, bits(RegisterField.rflags) + [("", 1)])

    static let sse =
        vectors
        + flags(
            "i386_mxcsr", size: 4,
            [
                ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6),
                ("IM", 7), ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15),
            ])

    static let system =
        flags("cr0_flags", size: 8, bits(RegisterField.cr0))
        + flags("cr4_flags", size: 8, bits(RegisterField.cr4))
        + flags("efer_flags", size: 8, bits(RegisterField.efer))

    /// A field of flags has single bits alone.
    private static func bits(_ fields: [RegisterField]) -> [(String, Int)] {
        fields.filter { $0.width == 1 }.map { ($0.name, $0.bit) }
    }

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
