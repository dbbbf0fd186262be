internal import Machine

/// PCI configuration mechanism 1 (PCI Local Bus Specification 2.1, 3.7.4.1) and the functions of a
/// chipset that firmware looks for: an i440FX host bridge (00:00.0), a PIIX3's ISA bridge
/// (00:01.0) and a PIIX4's power management (00:01.3).
///
/// What the chipset's registers switch (shadow RAM, SMRAM, interrupt routing) is kept and reads
/// back; RAM is always RAM here, and no PCI device interrupts.
struct PCIHost: Sendable {
    /// 0xCF8: bit 31 enables, then bus, device, function, register.
    private var address: UInt32 = 0
    private var hostBridge: PCIFunction
    private var isaBridge: PCIFunction
    private var powerManagement: PCIFunction

    /// PMBASE and PMREGMISC of a PIIX4 (Intel 82371AB data sheet, 7.1).
    private static let baseRegister: UInt8 = 0x40
    private static let enableRegister: UInt8 = 0x80
    /// SMBBA: where the SMBus controller's ports would be.
    private static let busRegister: UInt8 = 0x90

    init() {
        hostBridge = PCIFunction(
            .init(
                vendor: 0x8086, device: 0x1237, classCode: 0x060000, revision: 2,
                subsystemVendor: 0x1AF4, subsystem: 0x1100))
        hostBridge[0x72] = 0x02  // SMRAM: closed
        isaBridge = PCIFunction(
            .init(
                vendor: 0x8086, device: 0x7000, classCode: 0x060100, revision: 0,
                subsystemVendor: 0x1AF4, subsystem: 0x1100, headerType: 0x80))
        isaBridge[0x04] = 0x07
        isaBridge[0x07] = 0x02  // DEVSEL# timing: medium
        isaBridge[0x4C] = 0x4D
        isaBridge[0x4E] = 0x03
        for route in 0x60...0x63 as ClosedRange<UInt8> { isaBridge[route] = 0x80 }
        powerManagement = PCIFunction(
            .init(
                vendor: 0x8086, device: 0x7113, classCode: 0x068000, revision: 3,
                subsystemVendor: 0x1AF4, subsystem: 0x1100, interruptPin: 1))
        powerManagement[0x07] = 0x02
        powerManagement[0x3C] = 9
        powerManagement[Self.baseRegister] = 0x01
        powerManagement[Self.baseRegister + 1] = UInt8(PCLayout.powerPort >> 8)
        powerManagement[Self.enableRegister] = 0x01
        // DEVACTB: APM writes raise SMI already, so that firmware does not set SMM up: KVM on many
        // hosts has none.
        powerManagement[0x5B] = 0x02
        powerManagement[Self.busRegister] = 0x01
    }

    /// The first port of the power management registers, nil where they are switched off.
    var powerManagementBase: UInt16? {
        guard powerManagement[Self.enableRegister] & 1 != 0 else { return nil }
        let base =
            UInt16(powerManagement[Self.baseRegister + 1]) << 8
            | UInt16(powerManagement[Self.baseRegister]) & 0xC0
        return base == 0 ? nil : base
    }

    /// Reads 32 bits at 0xCF8.
    var addressRegister: UInt32 { address }

    /// Writes 32 bits at 0xCF8.
    mutating func writeAddress(_ value: UInt32) { address = value & 0x80FF_FFFC }

    /// What the address selects.
    private enum Target { case nobody, hostBridge, isaBridge, powerManagement }

    private var target: Target {
        guard address >> 31 != 0 else { return .nobody }
        switch address >> 8 & 0xFFFF {
        case 0x0000: return .hostBridge
        case 0x0008: return .isaBridge
        case 0x000B: return .powerManagement
        default: return .nobody
        }
    }

    /// Reads a byte of 0xCFC–0xCFF; a function that is not there reads as ones.
    func read(_ lane: UInt8) -> UInt8 {
        let index = UInt8(truncatingIfNeeded: address) | lane & 3
        return switch target {
        case .nobody: 0xFF
        case .hostBridge: hostBridge[index]
        case .isaBridge: isaBridge[index]
        case .powerManagement: powerManagement[index]
        }
    }

    /// Writes a byte of 0xCFC–0xCFF.
    mutating func write(_ lane: UInt8, _ value: UInt8) {
        let index = UInt8(truncatingIfNeeded: address) | lane & 3
        switch target {
        case .nobody: break
        case .hostBridge: hostBridge.write(index, value)
        case .isaBridge: isaBridge.write(index, value)
        case .powerManagement:
            switch index {
            // Port bases: bit 0 says that they are, and ports have 16 bits.
            case Self.baseRegister: powerManagement.write(index, value & 0xC0 | 1)
            case Self.busRegister: powerManagement.write(index, value & 0xF0 | 1)
            case Self.baseRegister + 2, Self.baseRegister + 3, Self.busRegister + 2,
                Self.busRegister + 3:
                break
            default: powerManagement.write(index, value)
            }
        }
    }
}
