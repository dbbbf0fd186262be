/// The boot information that a multiboot kernel is given (Multiboot Specification 0.6.96, 3.3),
/// with everything it points to behind it.
struct MultibootInformation {
    /// What EAX holds at the entry.
    static let magic: UInt32 = 0x2BAD_B002
    /// The boot loader's name; part of what a guest can see, so it does not change with versions.
    static let loaderName = "vmtape"

    struct Module {
        var range: Range<UInt64>
        var text: String
    }

    let ram: RAMLayout
    let commandLine: String
    var modules: [Module] = []

    init(ram: RAMLayout, commandLine: String) {
        self.ram = ram
        self.commandLine = commandLine
    }

    private static let structureLength = 116
    private static let moduleLength = 16
    private static let mapEntryLength = 24

    /// How many bytes it takes, strings included.
    var length: UInt64 { UInt64(bytes(at: 0).count) }

    /// Its bytes when they lie at `base`, which is below 4 GiB with all it describes.
    func bytes(at base: UInt64) -> [UInt8] {
        let map = ram.map
        let modulesAt = Self.structureLength
        let mapAt = modulesAt + modules.count * Self.moduleLength
        let stringsAt = mapAt + map.count * Self.mapEntryLength
        var strings: [UInt8] = []
        func place(_ text: String) -> UInt32 {
            defer { strings += Array(text.utf8) + [0] }
            return UInt32(truncatingIfNeeded: base) &+ UInt32(stringsAt + strings.count)
        }
        func pointer(_ offset: Int) -> UInt32 {
            UInt32(truncatingIfNeeded: base) &+ UInt32(offset)
        }
        // Memory, command line, memory map and loader name are always there.
        var flags: UInt32 = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 9
        if !modules.isEmpty { flags |= 1 << 3 }
        let upper = ram.lowLength > 1 << 20 ? (ram.lowLength - (1 << 20)) >> 10 : 0
        var words = [UInt32](repeating: 0, count: Self.structureLength / 4)
        words[0] = flags
        words[1] = UInt32(min(ram.lowLength, 0xA_0000) >> 10)
        words[2] = UInt32(upper)
        words[4] = place(commandLine)
        words[5] = UInt32(modules.count)
        words[6] = modules.isEmpty ? 0 : pointer(modulesAt)
        words[11] = UInt32(map.count * Self.mapEntryLength)
        words[12] = pointer(mapAt)
        words[16] = place(Self.loaderName)
        for module in modules {
            words.append(UInt32(truncatingIfNeeded: module.range.lowerBound))
            words.append(UInt32(truncatingIfNeeded: module.range.upperBound))
            words.append(place(module.text))
            words.append(0)
        }
        var bytes: [UInt8] = []
        for word in words { bytes.append(littleEndian: word) }
        for entry in map {
            // The size field does not count itself.
            bytes.append(littleEndian: UInt32(Self.mapEntryLength - 4))
            bytes.append(littleEndian: entry)
        }
        return bytes + strings
    }
}
