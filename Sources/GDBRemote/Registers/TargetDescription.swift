/// What `qXfer` answers in XML.
enum TargetDescription {
    /// `qXfer:features:read:target.xml` (GDB manual, "Target Descriptions").
    static func xml(_ layout: RegisterLayout) -> String {
        var text = """
            <?xml version="1.0"?>
            <!DOCTYPE target SYSTEM "gdb-target.dtd">
            <target version="1.0">
            <architecture>\(layout.architecture)</architecture>
            \(layout.hasNoSystem ? "<osabi>none</osabi>\n" : "")
            """
        var number = 0
        for feature in layout.features {
            text += "<feature name=\"\(feature.name)\">\n\(feature.types)"
            for register in feature.registers {
                text += "<reg name=\"\(register.name)\" bitsize=\"\(register.bits)\""
                text += " type=\"\(register.type)\" regnum=\"\(number)\""
                if let group = register.group { text += " group=\"\(group)\"" }
                text += "/>\n"
                number += 1
            }
            text += "</feature>\n"
        }
        return text + "</target>\n"
    }

    /// What `qXfer:memory-map:read` answers (GDB manual, "Memory Map Format").
    static func memoryMap(_ regions: [MemoryRegion]) -> String {
        var text = """
            <?xml version="1.0"?>
            <!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN" \
            "http://sourceware.org/gdb/gdb-memory-map.dtd">
            <memory-map>

            """
        for region in regions {
            text += "<memory type=\"\(region.kind.rawValue)\""
            text += " start=\"0x\(String(region.start, radix: 16))\""
            text += " length=\"0x\(String(region.length, radix: 16))\"/>\n"
        }
        return text + "</memory-map>\n"
    }
}
