public import Machine

/// Prints the registers of one CPU for people: all of them, the bits of flags by name.
public struct RegisterText {
    private let stream: OutputStream
    private let style: TextStyle
    private let names: AddressNames
    private var line: TextLine

    /// Prints to a stream.
    public init(
        _ stream: OutputStream, style: TextStyle = TextStyle(), names: AddressNames = .init()
    ) {
        self.stream = stream
        self.style = style
        self.names = names
        line = TextLine(style)
    }

    /// Prints general, segment and control registers.
    ///
    /// - Parameters:
    ///   - registers: general registers; RIP is that of the instruction that runs next, or
    ///     caused the exit.
    ///   - system: system registers.
    public mutating func write(_ registers: GeneralRegisters, _ system: SystemRegisters) {
        writeGeneral(registers)
        writePosition(registers, system)
        row("rflags", registers.rflags, 16, FlagNames.rflags.text(registers.rflags & ~2))
        writeSegments(system)
        writeControl(system)
    }

    private mutating func writeGeneral(_ registers: GeneralRegisters) {
        // A cell takes 22 columns; four, two or one fit evenly.
        let columns = style.width >= 86 ? 4 : style.width >= 42 ? 2 : 1
        for (index, register) in Register.allCases.prefix(16).enumerated() {
            line.put(register.name, .dim)
            line.pad(4 - register.name.utf8.count)
            line.put(hex: registers[register], digits: 16)
            if (index + 1) % columns == 0 { line.end(stream) } else { line.pad(2) }
        }
    }

    private mutating func writePosition(_ registers: GeneralRegisters, _ system: SystemRegisters) {
        let address = system.linearAddress(ofCode: registers.rip).rawValue
        line.put("rip", .dim)
        line.pad(to: 7)
        line.put(hex: registers.rip, digits: 16, .bold)
        if address != registers.rip {
            line.put("  linear ", .dim)
            line.put(hex: address, digits: 8)
        }
        line.put("  \(system.mode.title), CPL \(system.cpl)", .dim)
        if let name = names.name(of: address) {
            line.put("  ")
            line.put(clipped: name.text, .symbol)
        }
        line.end(stream)
    }

    /// Whether there is no room for saying which number is which.
    private var isNarrow: Bool { style.width < 80 }

    private mutating func writeSegments(_ system: SystemRegisters) {
        for name in SystemRegisters.SegmentName.allCases {
            let segment = system[name]
            line.put(name.name, .dim)
            line.pad(to: 7)
            line.put(hex: UInt64(segment.selector), digits: 4)
            line.put(isNarrow ? "  " : "  base ", .dim)
            line.put(hex: segment.base, digits: 16)
            line.put(isNarrow ? "  " : "  limit ", .dim)
            line.put(hex: UInt64(segment.limit), digits: 8)
            line.put(clipped: "  \(segment.kind(in: system.mode))")
            let attributes = segment.attributes
            if !attributes.isEmpty { line.put(clipped: ", \(attributes)", .dim) }
            line.end(stream)
        }
        for (name, table) in [("gdt", system.gdt), ("idt", system.idt)] {
            line.put(name, .dim)
            line.pad(to: 11)
            line.put(isNarrow ? "  " : "  base ", .dim)
            line.put(hex: table.base, digits: 16)
            line.put(isNarrow ? "  " : "  limit ", .dim)
            line.put(hex: UInt64(table.limit), digits: 8)
            line.end(stream)
        }
    }

    private mutating func writeControl(_ system: SystemRegisters) {
        row("cr0", system[.cr0], 16, FlagNames.cr0.text(system[.cr0]))
        row("cr2", system[.cr2], 16, "")
        row("cr3", system[.cr3], 16, "")
        row("cr4", system[.cr4], 16, FlagNames.cr4.text(system[.cr4]))
        row("cr8", system[.cr8], 16, "")
        row("efer", system[.efer], 16, FlagNames.efer.text(system[.efer]))
        let apic = system[.apicBase]
        row("apic", apic, 16, FlagNames.apicBase.text(apic & 0xFFF))
        if let vector = system.injectedInterrupt {
            line.put("pending", .dim)
            line.put(" interrupt 0x")
            line.put(hex: UInt64(vector))
            line.end(stream)
        }
    }

    private mutating func row(_ name: String, _ value: UInt64, _ digits: Int, _ flags: String) {
        line.put(name, .dim)
        line.pad(to: 7)
        line.put(hex: value, digits: digits)
        if !flags.isEmpty { line.put(clipped: "  \(flags)") }
        line.end(stream)
    }
}

/// Writes the registers of one CPU as JSON.
public struct RegisterJSON {
    /// Writes one object: `mode`, `cpl`, `linear`, what the address's name says, `general`, `flags`,
    /// `segments`, `tables`, `control` and `pending_interrupt`.
    public static func write(
        _ registers: GeneralRegisters, _ system: SystemRegisters,
        names: AddressNames = AddressNames(), to json: inout JSONWriter
    ) {
        json.beginObject()
        json.key("mode")
        json.value(system.mode.rawValue)
        json.key("cpl")
        json.value(UInt64(system.cpl))
        let address = system.linearAddress(ofCode: registers.rip).rawValue
        json.key("linear")
        json.value(hex: address)
        names.name(of: address)?.writeMembers(&json)
        json.key("general")
        json.beginObject()
        for register in Register.allCases {
            json.key(register.name)
            json.value(hex: registers[register])
        }
        json.endObject()
        json.key("flags")
        write(FlagNames.rflags.names(registers.rflags & ~2), &json)
        writeSegments(system, &json)
        json.key("control")
        json.beginObject()
        for name in SystemRegisters.ControlName.allCases {
            json.key(name.name)
            json.value(hex: system[name])
        }
        json.endObject()
        json.key("pending_interrupt")
        if let vector = system.injectedInterrupt { json.value(vector) } else { json.null() }
        json.endObject()
    }

    private static func writeSegments(_ system: SystemRegisters, _ json: inout JSONWriter) {
        json.key("segments")
        json.beginObject()
        for name in SystemRegisters.SegmentName.allCases {
            let segment = system[name]
            json.key(name.name)
            json.beginObject()
            json.key("selector")
            json.value(hex: UInt64(segment.selector))
            json.key("base")
            json.value(hex: segment.base)
            json.key("limit")
            json.value(hex: UInt64(segment.limit))
            json.key("type")
            json.value(UInt64(segment.type))
            json.key("dpl")
            json.value(UInt64(segment.dpl))
            for (key, flag) in [
                ("s", segment.s), ("present", segment.present), ("l", segment.l),
                ("db", segment.db), ("g", segment.g), ("avl", segment.avl),
                ("unusable", segment.unusable),
            ] {
                json.key(key)
                json.value(flag)
            }
            json.endObject()
        }
        json.endObject()
        json.key("tables")
        json.beginObject()
        for (name, table) in [("gdt", system.gdt), ("idt", system.idt)] {
            json.key(name)
            json.beginObject()
            json.key("base")
            json.value(hex: table.base)
            json.key("limit")
            json.value(hex: UInt64(table.limit))
            json.endObject()
        }
        json.endObject()
    }

    private static func write(_ names: [String], _ json: inout JSONWriter) {
        json.beginArray()
        for name in names { json.value(name) }
        json.endArray()
    }
}

extension SystemRegisters {
    /// The vector of an external interrupt that is injected and not yet delivered.
    var injectedInterrupt: Int? {
        let words = interruptBitmap
        for index in 0..<4 where words[index] != 0 {
            return index * 64 + words[index].trailingZeroBitCount
        }
        return nil
    }
}

extension AddressName {
    /// Writes `symbol`, `offset`, `file`, `line` and `inlined` as members of the open object.
    func writeMembers(_ json: inout JSONWriter) {
        json.key("symbol")
        json.value(function)
        json.key("offset")
        json.value(offset)
        if let file {
            json.key("file")
            json.value(file)
        }
        if let line {
            json.key("line")
            json.value(line)
        }
        guard !inlined.isEmpty else { return }
        json.key("inlined")
        json.beginArray()
        for function in inlined { json.value(function) }
        json.endArray()
    }
}
