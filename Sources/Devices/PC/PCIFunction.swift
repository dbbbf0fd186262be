/// The configuration space of a PCI function without base address registers (PCI Local Bus
/// Specification 2.1, 6.1): identity that cannot be written, and latches.
struct PCIFunction: Sendable {
    /// Who it says it is.
    struct Identity: Sendable {
        var vendor: UInt16
        var device: UInt16
        /// Base class, subclass and interface.
        var classCode: UInt32
        var revision: UInt8
        var subsystemVendor: UInt16 = 0
        var subsystem: UInt16 = 0
        /// Bit 7: the device has several functions.
        var headerType: UInt8 = 0
        /// INTA is 1.
        var interruptPin: UInt8 = 0
    }

    private var bytes = [UInt8](repeating: 0, count: 256)

    /// Makes a function.
    init(_ identity: Identity) {
        set16(0x00, identity.vendor)
        set16(0x02, identity.device)
        bytes[0x08] = identity.revision
        bytes[0x09] = UInt8(truncatingIfNeeded: identity.classCode)
        bytes[0x0A] = UInt8(truncatingIfNeeded: identity.classCode >> 8)
        bytes[0x0B] = UInt8(truncatingIfNeeded: identity.classCode >> 16)
        bytes[0x0E] = identity.headerType
        set16(0x2C, identity.subsystemVendor)
        set16(0x2E, identity.subsystem)
        bytes[0x3D] = identity.interruptPin
    }

    private mutating func set16(_ at: Int, _ value: UInt16) {
        bytes[at] = UInt8(truncatingIfNeeded: value)
        bytes[at + 1] = UInt8(truncatingIfNeeded: value >> 8)
    }

    /// A byte as it is.
    subscript(_ index: UInt8) -> UInt8 {
        get { bytes[Int(index)] }
        set { bytes[Int(index)] = newValue }
    }

    /// A guest's write of a byte.
    mutating func write(_ index: UInt8, _ value: UInt8) {
        switch index {
        case 0x04: bytes[4] = value & 0x07 | bytes[4] & ~0x07  // I/O, memory, bus master
        case 0x05: bytes[5] = value & 0x01  // SERR#
        case 0x0C, 0x0D, 0x3C: bytes[Int(index)] = value
        case 0x00..<0x40: break
        default: bytes[Int(index)] = value
        }
    }
}
