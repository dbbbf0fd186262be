internal import Machine

/// The I/O APIC: an 82093AA (Intel data sheet 290566). 24 pins, each with an entry that says which
/// message an assertion sends to the local APIC.
struct IOAPIC82093: Sendable {
    static let pinCount = 24
    private static let version = UInt32(pinCount - 1) << 16 | UInt32(PCLayout.ioAPICVersion)

    /// Bits of an entry (3.2.4).
    private enum Bit {
        static let logical: UInt64 = 1 << 11
        static let activeLow: UInt64 = 1 << 13
        static let remoteRequest: UInt64 = 1 << 14
        static let level: UInt64 = 1 << 15
        static let masked: UInt64 = 1 << 16
        static let writable: UInt64 = 0xFF00_0000_0001_AFFF
    }

    private var select: UInt8 = 0
    private var id = UInt32(PCLayout.ioAPICID) << 24
    private var entries: InlineArray<24, UInt64> = InlineArray(repeating: Bit.masked)
    /// The level of each pin.
    private var lines: UInt32 = 0

    // MARK: Pins

    /// Sets the level of a pin, 0–23.
    mutating func setLine(_ pin: Int, _ isHigh: Bool, _ local: inout LocalAPIC) {
        let bit = UInt32(1) << UInt32(pin)
        guard (lines & bit != 0) != isHigh else { return }
        lines ^= bit
        if entries[pin] & Bit.level != 0 {
            serve(pin, &local)
        } else if isAsserted(pin), entries[pin] & Bit.masked == 0 {
            // An edge at a masked pin is not held (3.2.4, interrupt mask).
            _ = deliver(pin, &local)
        }
    }

    private func isAsserted(_ pin: Int) -> Bool {
        (lines >> UInt32(pin) & 1 != 0) == (entries[pin] & Bit.activeLow == 0)
    }

    /// A level that is asserted asks again after each end, and until the local APIC takes it.
    private mutating func serve(_ pin: Int, _ local: inout LocalAPIC) {
        let entry = entries[pin]
        guard entry & Bit.level != 0, entry & (Bit.masked | Bit.remoteRequest) == 0,
            isAsserted(pin)
        else { return }
        if deliver(pin, &local) { entries[pin] |= Bit.remoteRequest }
    }

    /// Serves every level that asks.
    mutating func serveAll(_ local: inout LocalAPIC) {
        for pin in 0..<Self.pinCount { serve(pin, &local) }
    }

    private func deliver(_ pin: Int, _ local: inout LocalAPIC) -> Bool {
        let entry = entries[pin]
        return local.receive(
            APICDelivery(bits: UInt32(truncatingIfNeeded: entry)), vector: UInt8(entry & 0xFF),
            isLevel: entry & Bit.level != 0, for: destination(entry))
    }

    private func destination(_ entry: UInt64) -> APICDestination {
        APICDestination(value: UInt8(entry >> 56), isLogical: entry & Bit.logical != 0)
    }

    /// The end of a level-triggered interrupt, as the local APIC tells it.
    mutating func endInterrupt(_ vector: UInt8, _ local: inout LocalAPIC) {
        for pin in 0..<Self.pinCount
        where entries[pin] & Bit.level != 0 && UInt8(entries[pin] & 0xFF) == vector {
            entries[pin] &= ~Bit.remoteRequest
            serve(pin, &local)
        }
    }

    /// Whether an assertion of a pin would reach the CPU as things are.
    func isEnabled(_ pin: Int, _ local: LocalAPIC) -> Bool {
        let entry = entries[pin]
        guard entry & Bit.masked == 0, local.matches(destination(entry)) else { return false }
        switch APICDelivery(bits: UInt32(truncatingIfNeeded: entry)) {
        case .fixed, .lowestPriority: return local.wouldDeliver(UInt8(entry & 0xFF))
        case .nonMaskable: return true
        default: return false
        }
    }

    /// Whether the task priority holds back what comes from any pin.
    func isHeldBack(by local: LocalAPIC) -> Bool {
        for pin in 0..<Self.pinCount {
            let entry = entries[pin]
            guard entry & Bit.masked == 0, local.isHeldBack(UInt8(entry & 0xFF)) else { continue }
            switch APICDelivery(bits: UInt32(truncatingIfNeeded: entry)) {
            case .fixed, .lowestPriority: if local.matches(destination(entry)) { return true }
            default: break
            }
        }
        return false
    }

    /// Whether pin 0, where the 8259 pair is, lets its interrupts through to the CPU.
    func passesExternal(_ local: LocalAPIC) -> Bool {
        let entry = entries[0]
        return entry & Bit.masked == 0
            && APICDelivery(bits: UInt32(truncatingIfNeeded: entry)) == .external
            && local.isEnabled && local.matches(destination(entry))
    }

    // MARK: Registers

    /// Reads IOREGSEL (offset 0) or IOWIN (0x10); there is nothing else.
    func read(_ offset: UInt64) -> UInt32 {
        switch offset {
        case 0x00: return UInt32(select)
        case 0x10: return readSelected()
        default: return 0
        }
    }

    /// Writes IOREGSEL or IOWIN.
    mutating func write(_ offset: UInt64, _ value: UInt32, _ local: inout LocalAPIC) {
        switch offset {
        case 0x00: select = UInt8(truncatingIfNeeded: value)
        case 0x10: writeSelected(value, &local)
        default: break
        }
    }

    private func readSelected() -> UInt32 {
        switch select {
        case 0x00: return id
        case 0x01: return Self.version
        case 0x02: return id  // the arbitration id is loaded from the id
        case 0x10..<0x40:
            let entry = entries[Int(select - 0x10) / 2]
            return UInt32(truncatingIfNeeded: select & 1 == 0 ? entry : entry >> 32)
        default: return 0
        }
    }

    private mutating func writeSelected(_ value: UInt32, _ local: inout LocalAPIC) {
        switch select {
        case 0x00: id = value & 0x0F00_0000
        case 0x10..<0x40:
            let pin = Int(select - 0x10) / 2
            let old = entries[pin]
            var entry =
                select & 1 == 0
                ? old & 0xFFFF_FFFF_0000_0000 | UInt64(value)
                : old & 0x0000_0000_FFFF_FFFF | UInt64(value) << 32
            entry = entry & Bit.writable | old & Bit.remoteRequest
            // An edge has no request to end: switching to it clears one.
            if entry & Bit.level == 0 { entry &= ~Bit.remoteRequest }
            entries[pin] = entry
            serve(pin, &local)
        default: break
        }
    }
}
