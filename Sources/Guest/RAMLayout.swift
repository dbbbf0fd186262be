import Machine

/// Where RAM of a given size lies in the guest's physical address space.
///
/// As on a PC: RAM fills 0–3 GiB, leaves the last GiB below 4 GiB to devices and firmware, and goes
/// on at 4 GiB. What a PC keeps for the screen and option ROMs (640 KiB–1 MiB) is plain RAM here;
/// memory maps for guests call it reserved.
public struct RAMLayout: Equatable, Sendable {
    /// The size of a guest page, in bytes.
    public static let pageLength: UInt64 = 4096
    /// The least RAM a guest can have, in bytes.
    public static let minimumLength: UInt64 = 64 << 10
    /// The most RAM a guest can have, in bytes.
    public static let maximumLength: UInt64 = 1 << 40
    /// Where the MMIO hole begins.
    static let holeStart: UInt64 = 3 << 30
    /// Where the MMIO hole ends.
    static let holeEnd: UInt64 = 4 << 30

    /// All RAM, in bytes.
    public let lengthInBytes: UInt64
    /// RAM from address 0 up, in bytes.
    public var lowLength: UInt64 { min(lengthInBytes, Self.holeStart) }
    /// RAM from 4 GiB up, in bytes; 0 where all of it fits below 3 GiB.
    public var highLength: UInt64 { lengthInBytes - lowLength }

    /// Lays out RAM.
    ///
    /// Throws ``GuestError/Kind/badOption`` unless `lengthInBytes` is a multiple of 4 KiB from
    /// 64 KiB to 1 TiB.
    public init(lengthInBytes: UInt64) throws(GuestError) {
        guard lengthInBytes % Self.pageLength == 0 else {
            throw GuestError(
                .badOption, "RAM size",
                "\(lengthInBytes) bytes is not a multiple of 4 KiB; round it")
        }
        guard (Self.minimumLength...Self.maximumLength).contains(lengthInBytes) else {
            throw GuestError(
                .badOption, "RAM size",
                "\(size(lengthInBytes)) is outside of \(size(Self.minimumLength)) to "
                    + "\(size(Self.maximumLength))")
        }
        self.lengthInBytes = lengthInBytes
    }

    /// Whether `length` bytes from `address` on are RAM, in one piece. No bytes are nowhere.
    public func contains(_ address: UInt64, _ length: UInt64) -> Bool {
        guard length > 0 else { return false }
        let (last, overflow) = address.addingReportingOverflow(length - 1)
        guard !overflow else { return false }
        if address < lowLength { return last < lowLength }
        return address >= Self.holeEnd && last - Self.holeEnd < highLength
    }

    /// One range of the map that a kernel is given.
    struct MapEntry {
        var base: UInt64
        var length: UInt64
        /// 1: RAM to use, 2: reserved (ACPI Specification 6.4, table 15.4).
        var type: UInt32
    }

    /// The map that boot protocols pass on, in ascending order.
    var map: [MapEntry] {
        let screen: UInt64 = 0xA_0000
        let mebibyte: UInt64 = 0x10_0000
        var map = [MapEntry(base: 0, length: min(lowLength, screen), type: 1)]
        if lowLength > screen {
            map.append(
                MapEntry(base: screen, length: min(lowLength, mebibyte) - screen, type: 2))
        }
        if lowLength > mebibyte {
            map.append(MapEntry(base: mebibyte, length: lowLength - mebibyte, type: 1))
        }
        if highLength > 0 {
            map.append(MapEntry(base: Self.holeEnd, length: highLength, type: 1))
        }
        return map
    }

    /// Where RAM ends, for messages: `RAM (64 MiB)`.
    var name: String { "RAM (\(size(lengthInBytes)))" }
}

extension [UInt8] {
    /// Appends an entry of the map as BIOS calls and boot protocols have it: 20 bytes.
    mutating func append(littleEndian entry: RAMLayout.MapEntry) {
        append(littleEndian: entry.base)
        append(littleEndian: entry.length)
        append(littleEndian: entry.type)
    }
}
