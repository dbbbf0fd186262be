/// The header of a multiboot kernel (Multiboot Specification 0.6.96, 3.1).
struct MultibootHeader: Equatable {
    static let magic: UInt32 = 0x1BAD_B002
    /// A header lies wholly in this many bytes from the start of the image.
    static let searchLength = 8192

    /// Where the header is in the image, in bytes; a multiple of 4.
    var offset: Int
    /// Bits 0–15: requirements; 16–31: what a loader may ignore.
    var flags: UInt32
    /// header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; where ``hasAddresses``.
    var headerAddress: UInt32 = 0
    var loadAddress: UInt32 = 0
    var loadEndAddress: UInt32 = 0
    var bssEndAddress: UInt32 = 0
    var entryAddress: UInt32 = 0

    /// Bit 0: modules are to begin at page boundaries.
    var alignsModules: Bool { flags & 1 != 0 }
    /// Bit 2: the kernel asks for a video mode.
    var wantsVideoMode: Bool { flags & 4 != 0 }
    /// Bits 3–15: requirements that no specification defines.
    var unknownRequirements: UInt32 { flags & 0xFFF8 }
    /// Bit 16: the address fields say where to load the image, whatever its format.
    var hasAddresses: Bool { flags & 1 << 16 != 0 }

    /// The first header with a right checksum, or nil. A header whose address fields are cut off
    /// is none.
    static func find(in bytes: [UInt8]) -> MultibootHeader? {
        let head = LittleEndianReader(bytes[..<min(bytes.count, searchLength)])
        var offset = 0
        while let word = head.word(at: offset) {
            defer { offset += 4 }
            guard word == magic, let flags = head.word(at: offset + 4),
                let checksum = head.word(at: offset + 8), word &+ flags &+ checksum == 0
            else { continue }
            var header = MultibootHeader(offset: offset, flags: flags)
            guard header.hasAddresses else { return header }
            guard let headerAddress = head.word(at: offset + 12),
                let loadAddress = head.word(at: offset + 16),
                let loadEndAddress = head.word(at: offset + 20),
                let bssEndAddress = head.word(at: offset + 24),
                let entryAddress = head.word(at: offset + 28)
            else { continue }
            header.headerAddress = headerAddress
            header.loadAddress = loadAddress
            header.loadEndAddress = loadEndAddress
            header.bssEndAddress = bssEndAddress
            header.entryAddress = entryAddress
            return header
        }
        return nil
    }
}
