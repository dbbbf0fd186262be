public import Disassembly
public import Machine
public import Trace

/// Prints instructions for people:
///
///     uart_write_byte+0x10:
///      => 00100030  ec                     in al, dx           io.h:27
///         00100031  a8 20                  test al, 0x20       io.c:4
///
/// Above the first instruction and wherever the function changes stands its name; the source line
/// stands where it changes. An address beyond 4 GiB has sixteen digits.
public struct DisassemblyText {
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

    /// Prints instructions.
    ///
    /// - Parameters:
    ///   - listing: what to print.
    ///   - current: the instruction that runs next, which is marked.
    public mutating func write(
        _ listing: DisassemblyListing, current: GuestVirtualAddress? = nil
    ) {
        var function: String?
        var place: String?
        // Lines are cut on the right: what an instruction does matters more than its line.
        let placeColumn = max(60, style.width - 28)
        for entry in listing.entries {
            let address = entry.instruction.address
            let name = names.name(of: address.rawValue)
            if let name, name.function != function {
                line.put(clipped: name.shortFunction, .symbol)
                line.put(name.offset == 0 ? ":" : "+0x")
                if name.offset != 0 {
                    line.put(hex: name.offset)
                    line.put(":")
                }
                line.end(stream)
                place = nil
            }
            function = name?.function
            line.put(address == current ? " => " : "    ", .bold)
            line.put(hex: address.rawValue, digits: address.rawValue >> 32 == 0 ? 8 : 16, .dim)
            line.put("  ")
            let start = line.column
            let bytes = entry.instruction.bytes.map { TextLine.hexadecimal(UInt64($0), 2) }
            line.put(bytes.joined(separator: " "), .dim)
            line.pad(to: start + 23)
            let role: TextRole = entry.instruction.kind == .bad ? .bad : .plain
            line.put(clipped: entry.instruction.text, address == current ? .bold : role)
            if let target = entry.instruction.target, let name = names.name(of: target.rawValue) {
                line.put(
                    clipped: " <\(name.shortFunction)+0x\(String(name.offset, radix: 16))>",
                    .symbol)
            }
            if entry.isRewritten { line.put(clipped: "  (rewritten)", .warning) }
            if let here = name?.place, here != place {
                if line.column < placeColumn { line.pad(to: placeColumn) } else { line.pad(1) }
                line.put(clipped: here, .dim)
                place = here
            }
            line.end(stream)
        }
        if let missing = listing.missing {
            line.put("    ")
            line.put(hex: missing.rawValue, digits: missing.rawValue >> 32 == 0 ? 8 : 16, .dim)
            line.put("  not mapped", .warning)
            line.end(stream)
        }
    }
}

/// Instructions one after the other, as they stand in the guest's memory.
public struct DisassemblyListing: Sendable {
    /// One instruction.
    public struct Entry: Sendable {
        /// The instruction, its bytes as the guest has them.
        public var instruction: Instruction
        /// Whether other bytes stand in their place while the guest runs.
        public var isRewritten: Bool
    }

    /// The instructions in ascending order of address.
    public var entries: [Entry] = []
    /// Where memory ends before as many instructions as were asked for.
    public var missing: GuestVirtualAddress?

    /// Decodes instructions.
    ///
    /// - Parameters:
    ///   - address: where the first one starts: a linear address.
    ///   - count: how many, at most 65,536.
    ///   - system: mode and code segment, which say how wide code is.
    ///   - originals: rewritten instructions.
    ///   - read: gives up to so many bytes from a linear address on, fewer where the rest is not
    ///     mapped.
    public init(
        _ address: GuestVirtualAddress, count: Int, _ system: SystemRegisters,
        originals: OriginalBytes = OriginalBytes(),
        read: (_ address: GuestVirtualAddress, _ count: Int) -> [UInt8]
    ) {
        let disassembler = Disassembler(for: system)
        var at = address
        for _ in 0..<max(0, min(count, 65_536)) {
            var bytes = read(at, Disassembler.maximumLength)
            originals.restore(&bytes, at: at)
            guard let instruction = disassembler.decode(bytes, at: at) else {
                missing = at
                return
            }
            entries.append(
                Entry(instruction: instruction, isRewritten: originals.isRewritten(at)))
            let (next, overflow) = at.rawValue.addingReportingOverflow(
                UInt64(instruction.length))
            if overflow { return }
            at = GuestVirtualAddress(next)
        }
    }

    /// Writes an array of objects: `address`, `bytes`, `text`, [`rewritten`], [`target`], and what
    /// names say.
    public func write(to json: inout JSONWriter, names: AddressNames = AddressNames()) {
        json.beginArray()
        for entry in entries {
            json.beginObject()
            json.key("address")
            json.value(hex: entry.instruction.address.rawValue)
            json.key("bytes")
            json.value(hexBytes: entry.instruction.bytes)
            json.key("text")
            json.value(entry.instruction.text)
            if entry.isRewritten {
                json.key("rewritten")
                json.value(true)
            }
            if let target = entry.instruction.target {
                json.key("target")
                json.value(hex: target.rawValue)
            }
            names.name(of: entry.instruction.address.rawValue)?.writeMembers(&json)
            json.endObject()
        }
        json.endArray()
    }
}
