internal import Machine

/// ACPI tables (ACPI Specification 2.0, chapter 5): RSDP, RSDT, XSDT, FADT, FACS, MADT, and a DSDT
/// that says how to switch the machine off.
enum ACPITables {
    /// All of them, as they lie from `base` on, a multiple of 64; the RSDP is the first.
    static func bytes(at base: UInt32) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 64)  // the RSDP and zeros
        func place(_ table: [UInt8], alignment: Int = 16) -> UInt32 {
            while bytes.count % alignment != 0 { bytes.append(0) }
            defer { bytes += table }
            return base + UInt32(bytes.count)
        }
        let facs = place(facs, alignment: 64)
        let dsdt = place(dsdt)
        let fadt = place(fadt(facs: facs, dsdt: dsdt))
        let madt = place(madt)
        let rsdt = place(table("RSDT", revision: 1, words: [fadt, madt]))
        let xsdt = place(table("XSDT", revision: 1, words: [UInt64(fadt), UInt64(madt)]))
        let rsdp = rsdp(rsdt: rsdt, xsdt: xsdt)
        bytes.replaceSubrange(0..<rsdp.count, with: rsdp)
        return bytes
    }

    private static func rsdp(rsdt: UInt32, xsdt: UInt32) -> [UInt8] {
        var bytes = Array("RSD PTR ".utf8) + [0] + Array("VMTAPE".utf8) + [2]
        bytes.append(littleEndian: rsdt)
        bytes.append(littleEndian: UInt32(36))
        bytes.append(littleEndian: UInt64(xsdt))
        bytes += [0, 0, 0, 0]
        // One checksum over what version 1 knew, one over all.
        bytes[8] = SystemFacts.checksum(bytes.prefix(20))
        bytes[32] = SystemFacts.checksum(bytes)
        return bytes
    }

    /// A table with the header that all have but RSDP and FACS (5.2.5).
    private static func table(_ signature: String, revision: UInt8, _ body: [UInt8]) -> [UInt8] {
        var bytes = Array(signature.utf8)
        bytes.append(littleEndian: UInt32(36 + body.count))
        bytes += [revision, 0] + Array("VMTAPE".utf8) + Array("PC-APIC ".utf8)
        bytes.append(littleEndian: UInt32(1))
        bytes += Array("VMTP".utf8)
        bytes.append(littleEndian: UInt32(1))
        bytes += body
        bytes[9] = SystemFacts.checksum(bytes)
        return bytes
    }

    private static func table<Word: FixedWidthInteger & UnsignedInteger>(
        _ signature: String, revision: UInt8, words: [Word]
    ) -> [UInt8] {
        var body: [UInt8] = []
        for word in words { body.append(littleEndian: word) }
        return table(signature, revision: revision, body)
    }

    private static var facs: [UInt8] {
        var bytes = Array("FACS".utf8)
        bytes.append(littleEndian: UInt32(64))
        return bytes + [UInt8](repeating: 0, count: 56)
    }

    /// `Name (_S5, Package () { 0, 0, 0, 0 })`: sleep type 0 switches off.
    private static var dsdt: [UInt8] {
        table("DSDT", revision: 1, [0x08] + Array("_S5_".utf8) + [0x12, 0x06, 0x04, 0, 0, 0, 0])
    }

    /// A PIIX4's power management registers (5.2.8), revision 3 with 64-bit addresses.
    private static func fadt(facs: UInt32, dsdt: UInt32) -> [UInt8] {
        var body: [UInt8] = []
        func bytes(_ values: UInt8...) { body += values }
        func words(_ values: UInt32...) { for value in values { body.append(littleEndian: value) } }
        /// A generic address: where, and how many bits.
        func address(_ port: UInt64, bits: UInt8) {
            body += port == 0 ? [0, 0, 0, 0] : [1, bits, 0, 0]
            body.append(littleEndian: port)
        }
        let power = UInt32(PCLayout.powerPort)
        words(facs, dsdt)
        bytes(0, 0)  // reserved, no preferred profile
        body.append(littleEndian: UInt16(PCLayout.powerLine))
        words(UInt32(PCLayout.powerCommandPort))
        bytes(PCLayout.acpiOn, PCLayout.acpiOff, 0, 0)  // no S4 and no P-states
        words(power, 0, power + 4, 0, 0, power + 8, 0, 0)  // PM1a event, control, timer; no GPEs
        bytes(4, 2, 0, 4, 0, 0, 0, 0)  // their lengths
        body.append(littleEndian: UInt16(0xFFFF))  // no C2
        body.append(littleEndian: UInt16(0xFFFF))  // no C3
        words(0)  // WBINVD works: no flush sizes
        bytes(0, 0, 0, 0, 0x32)  // no duty cycle, no date alarms, the century in CMOS
        body.append(littleEndian: UInt16(0x0003))  // ISA devices and an 8042
        bytes(0)
        // WBINVD, C1, no fixed power and sleep buttons, no fixed RTC wake, a reset register.
        words(1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10)
        address(UInt64(PCLayout.resetPort), bits: 8)
        bytes(0x06, 0, 0, 0)
        body.append(littleEndian: UInt64(facs))
        body.append(littleEndian: UInt64(dsdt))
        address(UInt64(power), bits: 32)
        address(0, bits: 0)
        address(UInt64(power) + 4, bits: 16)
        address(0, bits: 0)
        address(0, bits: 0)
        address(UInt64(power) + 8, bits: 32)
        address(0, bits: 0)
        address(0, bits: 0)
        return table("FACP", revision: 3, body)
    }

    private static var madt: [UInt8] {
        var body: [UInt8] = []
        body.append(littleEndian: UInt32(PCLayout.localAPIC))
        body.append(littleEndian: UInt32(1))  // there is an 8259 pair
        body += [0, 8, 0, PCLayout.localAPICID]
        body.append(littleEndian: UInt32(1))  // usable
        body += [1, 12, PCLayout.ioAPICID, 0]
        body.append(littleEndian: UInt32(PCLayout.ioAPIC))
        body.append(littleEndian: UInt32(0))  // its first global interrupt
        for (line, flags) in [(0, 0), (UInt8(PCLayout.powerLine), SystemFacts.levelFlags)]
            as [(UInt8, UInt16)]
        {
            body += [2, 10, 0, line]
            body.append(littleEndian: UInt32(SystemFacts.pin(line)))
            body.append(littleEndian: flags)
        }
        body += [4, 6, 0xFF, 0, 0, 1]  // NMI at LINT1 of all
        return table("APIC", revision: 1, body)
    }
}
