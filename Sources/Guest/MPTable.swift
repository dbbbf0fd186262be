internal import Machine

/// The MP floating pointer structure and the configuration table behind it (Intel MultiProcessor
/// Specification 1.4, chapter 4).
enum MPTable {
    private static let pointerLength = 16
    private static let isa: UInt8 = 0

    /// Interrupt types of table 4-10.
    private enum Interrupt: UInt8 {
        case vectored, nonMaskable, systemManagement, external
    }

    /// Both structures, as they lie from `base` on.
    static func bytes(at base: UInt32) -> [UInt8] {
        pointer(to: base + UInt32(pointerLength)) + configuration
    }

    private static func pointer(to table: UInt32) -> [UInt8] {
        var bytes = Array("_MP_".utf8)
        bytes.append(littleEndian: table)
        // Length in units of 16 bytes, revision 1.4, checksum, five feature bytes: a table is
        // there, and interrupts come through the virtual wire (no IMCR).
        bytes += [1, 4, 0, 0, 0, 0, 0, 0]
        bytes[10] = SystemFacts.checksum(bytes)
        return bytes
    }

    private static var configuration: [UInt8] {
        let entries = entries
        var bytes = Array("PCMP".utf8)
        bytes.append(littleEndian: UInt16(44 + entries.joined().count))
        bytes += [4, 0]  // revision 1.4, checksum
        bytes += Array("VMTAPE  ".utf8) + Array("PC-APIC     ".utf8)
        bytes.append(littleEndian: UInt32(0))  // no OEM table
        bytes.append(littleEndian: UInt16(0))
        bytes.append(littleEndian: UInt16(entries.count))
        bytes.append(littleEndian: UInt32(PCLayout.localAPIC))
        bytes.append(littleEndian: UInt32(0))  // no extended table
        bytes += entries.joined()
        bytes[7] = SystemFacts.checksum(bytes)
        return bytes
    }

    /// Processor, bus, I/O APIC, lines, local lines: in the order of their types.
    private static var entries: [[UInt8]] {
        // Usable, the bootstrap processor. Signature and features are a plain family 6 with FPU and
        // APIC: what the host's CPU has is for CPUID to say.
        var processor: [UInt8] = [
            0, PCLayout.localAPICID, PCLayout.localAPICVersion, 0x03, 0x00, 0x06, 0, 0,
        ]
        processor.append(littleEndian: UInt32(1 << 0 | 1 << 9))
        processor += [UInt8](repeating: 0, count: 8)
        let bus = [1, isa] + Array("ISA   ".utf8)
        var io: [UInt8] = [2, PCLayout.ioAPICID, PCLayout.ioAPICVersion, 1]
        io.append(littleEndian: UInt32(PCLayout.ioAPIC))
        var all = [processor, bus, io]
        // The 8259 pair is at pin 0; its cascade line 2 is no device's.
        all.append(line(3, .external, 0, to: PCLayout.ioAPICID, 0))
        for number in 0..<16 as Range<UInt8> where number != 2 {
            all.append(
                line(
                    3, .vectored, number, to: PCLayout.ioAPICID, SystemFacts.pin(number),
                    flags: Int(number) == PCLayout.powerLine ? SystemFacts.levelFlags : 0))
        }
        all.append(line(4, .external, 0, to: PCLayout.localAPICID, 0))
        all.append(line(4, .nonMaskable, 0, to: PCLayout.localAPICID, 1))
        return all
    }

    /// The line of an ISA device and the pin it is at; flags 0: as its bus has it.
    private static func line(
        _ type: UInt8, _ interrupt: Interrupt, _ number: UInt8, to apic: UInt8, _ pin: UInt8,
        flags: UInt16 = 0
    ) -> [UInt8] {
        var bytes: [UInt8] = [type, interrupt.rawValue]
        bytes.append(littleEndian: flags)
        return bytes + [isa, number, apic, pin]
    }
}
