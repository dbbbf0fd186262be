public import Machine

/// The forms of page tables, and what their entries say (Intel SDM vol. 3, 4.1.1 and 4.3 to 4.5).
///
/// Levels count from 0, the tables whose entries map 4 KiB pages.
public enum PagingForm: Equatable, Sendable {
    /// 32-bit paging: two levels.
    case classic(hasLargePages: Bool)
    /// Three levels of 64-bit entries.
    case pae
    /// 64-bit mode.
    case fourLevel
    /// 64-bit mode with LA57.
    case fiveLevel

    /// Bit P of an entry.
    public static let present: UInt64 = 1
    /// Bit PS of an entry.
    private static let pageSize: UInt64 = 1 << 7

    /// The form that a CPU uses; nil where paging is off.
    public init?(_ system: borrowing SystemRegisters) {
        guard system[.cr0] & 1 << 31 != 0 else { return nil }
        let cr4 = system[.cr4]
        if system[.efer] & 1 << 10 != 0 {
            self = cr4 & 1 << 12 != 0 ? .fiveLevel : .fourLevel
        } else if cr4 & 1 << 5 != 0 {
            self = .pae
        } else {
            self = .classic(hasLargePages: cr4 & 1 << 4 != 0)
        }
    }

    /// How many levels there are.
    public var levels: Int {
        switch self {
        case .classic: 2
        case .pae: 3
        case .fourLevel: 4
        case .fiveLevel: 5
        }
    }

    private var isClassic: Bool { levels == 2 }

    /// What an entry takes, in bytes.
    public var entrySize: Int { isClassic ? 4 : 8 }

    /// The bits of an entry that are the next table's physical address.
    public var addressMask: UInt64 { isClassic ? 0xFFFF_F000 : 0x000F_FFFF_FFFF_F000 }

    /// Where the top table is.
    public func root(_ system: borrowing SystemRegisters) -> UInt64 {
        system[.cr3] & (self == .pae ? 0xFFFF_FFE0 : addressMask)
    }

    /// The lowest bit of a linear address that picks an entry at a level.
    public func shift(_ level: Int) -> UInt64 { UInt64(12 + level * (isClassic ? 10 : 9)) }

    /// Whether a level is PAE's top: four entries, which grant everything and keep no record of
    /// accesses.
    public func isPointerTable(_ level: Int) -> Bool { self == .pae && level == 2 }

    /// How many entries a table of a level has.
    public func entryCount(_ level: Int) -> Int {
        isPointerTable(level) ? 4 : isClassic ? 1 << 10 : 1 << 9
    }

    /// Which entry of a level's table a linear address is translated by.
    public func index(of linear: UInt64, _ level: Int) -> Int {
        Int(linear >> shift(level) & UInt64(entryCount(level) - 1))
    }

    /// Whether an entry maps a page: 4 MiB pages need CR4.PSE; PAE has none at its top level, and 4-
    /// and 5-level paging have them up to 1 GiB.
    public func isLeaf(_ entry: UInt64, _ level: Int) -> Bool {
        if level == 0 { return true }
        guard entry & Self.pageSize != 0 else { return false }
        return switch self {
        case .classic(let hasLargePages): hasLargePages
        case .pae: level == 1
        case .fourLevel, .fiveLevel: level <= 2
        }
    }

    /// The physical address of the page that an entry maps.
    public func frame(_ entry: UInt64, _ level: Int) -> UInt64 {
        var frame = entry & addressMask & ~((1 << shift(level)) - 1)
        // PSE-36: bits 20-13 of a 4 MiB page's entry are bits 39-32 of its address.
        if isClassic, level == 1 { frame |= (entry >> 13 & 0xFF) << 32 }
        return frame
    }

    /// An entry of a table that was read, little-endian.
    func entry(_ table: [UInt8], _ index: Int) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<entrySize {
            value |= UInt64(table[index * entrySize + byte]) << UInt64(byte * 8)
        }
        return value
    }

    /// The upper bits of a linear address repeat the highest that is translated.
    func canonical(_ linear: UInt64) -> UInt64 {
        switch self {
        case .classic, .pae: linear & 0xFFFF_FFFF
        case .fourLevel: UInt64(bitPattern: Int64(bitPattern: linear << 16) >> 16)
        case .fiveLevel: UInt64(bitPattern: Int64(bitPattern: linear << 7) >> 7)
        }
    }
}
