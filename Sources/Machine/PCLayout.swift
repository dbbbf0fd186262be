/// Where a PC's devices are: what its device models claim and the tables made for guests say, from
/// one place.
public enum PCLayout {
    /// The local APIC's registers after a reset (Intel SDM vol. 3, 12.4.1).
    public static let localAPIC: UInt64 = 0xFEE0_0000
    /// IA32_APIC_BASE after a reset: enabled, the bootstrap processor.
    public static let localAPICBase: UInt64 = localAPIC | 1 << 11 | 1 << 8
    /// Its version: an integrated APIC.
    public static let localAPICVersion: UInt8 = 0x14
    /// Its id: that of the only CPU.
    public static let localAPICID: UInt8 = 0

    /// The I/O APIC's registers.
    public static let ioAPIC: UInt64 = 0xFEC0_0000
    /// Its version: an 82093AA's.
    public static let ioAPICVersion: UInt8 = 0x11
    /// Its id.
    public static let ioAPICID: UInt8 = 1
    /// The 8259 pair's INTR is at this pin of it.
    public static let externalPin = 0

    /// The pin of an ISA line, 0–15: its own number, but for line 0, whose pin the 8259 pair has.
    public static func pin(_ line: Int) -> Int { line == 0 ? 2 : line }

    /// The line of the power management's interrupt.
    public static let powerLine = 9
    /// The first of its ports, before firmware moves them: where QEMU's end up.
    public static let powerPort: UInt16 = 0x600
    /// The port at which ACPI is turned on and off.
    public static let powerCommandPort: UInt16 = 0xB2
    /// What is written there to turn it on.
    public static let acpiOn: UInt8 = 0xF1
    /// What is written there to turn it off.
    public static let acpiOff: UInt8 = 0xF0
    /// The reset control register.
    public static let resetPort: UInt16 = 0xCF9
}
