/// Four-level page tables (Intel SDM vol. 3, 4.5) for entering a 64-bit guest.
///
/// The low 4 GiB are mapped to themselves in 2 MiB pages, device memory included; link addresses
/// are laid over that. Everything is writable, executable and for ring 0. Accessed and dirty bits
/// are set beforehand: a host's page walker would set them at moments that differ between runs.
struct PageTables {
    /// The most pages that the tables may take.
    static let maximumTableCount = 2048

    private static let present: UInt64 = 1
    private static let writable: UInt64 = 2
    private static let accessed: UInt64 = 0x20
    private static let dirty: UInt64 = 0x40
    private static let large: UInt64 = 0x80
    /// For us, in bits that the CPU ignores: the entry's address is a table's index in `tables`.
    private static let isTable: UInt64 = 0x200
    /// For us: the entry maps a link address.
    private static let isLink: UInt64 = 0x400
    private static let forUs = isTable | isLink
    private static let addressMask: UInt64 = 0x000F_FFFF_FFFF_F000
    static let smallPage: UInt64 = 4096
    static let largePage: UInt64 = 2 << 20
    static let identityEnd: UInt64 = 4 << 30

    private var tables: [[UInt64]] = [PageTables.emptyTable]
    private static let emptyTable = [UInt64](repeating: 0, count: 512)

    /// Why an address could not be mapped.
    enum Failure: Error {
        case tooManyTables
        /// The virtual page is wanted for two physical ones.
        case conflict(virtual: UInt64)
    }

    /// Tables with the identity map.
    init() throws(Failure) {
        for page in 0..<(Self.identityEnd / Self.largePage) {
            try set(page * Self.largePage, page * Self.largePage, isLarge: true, tag: 0)
        }
    }

    /// How many pages the tables take.
    var count: Int { tables.count }

    /// Maps the pages around `length` bytes (at least 1, not past the end of the address space) at
    /// a link address. `virtual` and `physical` are equal modulo the page size that is used.
    mutating func map(
        virtual: UInt64, physical: UInt64, length: UInt64, isLarge: Bool
    ) throws(Failure) {
        let pageLength = isLarge ? Self.largePage : Self.smallPage
        let first = virtual / pageLength
        let last = (virtual + (length - 1)) / pageLength
        let start = physical / pageLength * pageLength
        for page in first...last {
            try set(
                page * pageLength, start + (page - first) * pageLength, isLarge: isLarge,
                tag: Self.isLink)
        }
    }

    private mutating func set(
        _ virtual: UInt64, _ physical: UInt64, isLarge: Bool, tag: UInt64
    ) throws(Failure) {
        let leafLevel = isLarge ? 1 : 0
        var table = 0
        for level in stride(from: 3, to: leafLevel, by: -1) {
            table = try descend(table, Self.index(virtual, level), level)
        }
        let index = Self.index(virtual, leafLevel)
        let flags = Self.present | Self.writable | Self.accessed | Self.dirty
        let entry = physical | flags | (isLarge ? Self.large : 0) | tag
        let old = tables[table][index]
        guard old & Self.forUs == 0 || old == entry else {
            throw .conflict(virtual: virtual)
        }
        tables[table][index] = entry
    }

    /// The table that an entry leads to; made where there is none, split off where the entry is a
    /// 2 MiB page.
    private mutating func descend(
        _ table: Int, _ index: Int, _ level: Int
    ) throws(Failure) -> Int {
        let entry = tables[table][index]
        if entry & Self.isTable != 0 { return Int((entry & Self.addressMask) / 4096) }
        guard tables.count < Self.maximumTableCount else { throw .tooManyTables }
        var new = Self.emptyTable
        if entry & Self.large != 0 {
            let kept = entry & ~(Self.addressMask | Self.large)
            for page in 0..<512 {
                new[page] = (entry & Self.addressMask) + UInt64(page) * 4096 | kept
            }
        }
        tables[table][index] =
            UInt64(tables.count) * 4096 | Self.isTable | Self.present | Self.writable
            | Self.accessed
        tables.append(new)
        return tables.count - 1
    }

    private static func index(_ virtual: UInt64, _ level: Int) -> Int {
        Int(virtual >> (12 + 9 * UInt64(level)) & 0x1FF)
    }

    /// The tables' bytes when they lie at `base`, which is also CR3.
    func bytes(at base: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(tables.count * 4096)
        for table in tables {
            for entry in table {
                let target = entry & Self.isTable != 0 ? entry &+ base : entry
                bytes.append(littleEndian: target & ~Self.forUs)
            }
        }
        return bytes
    }
}
