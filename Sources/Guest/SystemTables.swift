import Machine

/// The tables that firmware leaves in memory for a kernel to find its machine by, made by the
/// loader for guests that are started without firmware. The raw value is the name in traces; it
/// stands for the tables' bytes, so that other bytes need another name.
public enum SystemTables: String, CaseIterable, Sendable {
    /// MP table and ACPI tables of a PC with one CPU, a local APIC and an I/O APIC.
    case apic = "apic-1"
}

/// What the tables have in common.
enum SystemFacts {
    /// Active high, level-triggered, as both tables code it: the ACPI interrupt.
    static let levelFlags: UInt16 = 0x000D

    /// The pin of an ISA line.
    static func pin(_ line: UInt8) -> UInt8 {
        UInt8(truncatingIfNeeded: PCLayout.pin(Int(line)))
    }

    /// The byte that makes a sum of bytes zero.
    static func checksum(_ bytes: some Sequence<UInt8>) -> UInt8 { 0 &- bytes.reduce(0, &+) }
}

extension BootArea {
    /// Takes room where firmware keeps its tables and kernels look for them: 0xF0000 up to 1 MiB,
    /// at a page's start; nil where the image leaves none.
    mutating func takeFirmwareArea(_ length: UInt64) -> UInt64? {
        var start: UInt64 = 0xF_0000
        while start + length <= 0x10_0000 {
            if let address = take(start..<start + length) { return address }
            start += 0x1000
        }
        return nil
    }
}

extension LoadPlan {
    /// Puts the tables that the options ask for into memory.
    mutating func placeSystemTables(in area: inout BootArea) {
        guard options.tables != nil else { return }
        let length = UInt64(MPTable.bytes(at: 0).count)
        let aligned = (length + 63) & ~63
        let total = aligned + UInt64(ACPITables.bytes(at: 0).count)
        guard let address = area.takeFirmwareArea(total) else {
            notes.append(
                "\(name): leaves no room at 0xf0000 to 0xfffff for the MP and ACPI tables")
            return
        }
        let base = UInt32(truncatingIfNeeded: address)
        add(MPTable.bytes(at: base)[...], at: address, "MP table")
        add(
            ACPITables.bytes(at: base + UInt32(aligned))[...], at: address + aligned,
            "ACPI tables")
    }
}
