/// A PC/AT's two 8259A: the slave's INT is the master's input 2; 15 lines for devices.
struct InterruptControllerPair: Sendable {
    /// Lines 0–7, at 0x20.
    private(set) var master = InterruptController8259()
    /// Lines 8–15, at 0xA0.
    private(set) var slave = InterruptController8259()

    private static let cascadeLine = 2
    /// Bits of the edge/level registers that can be set: lines 0, 1, 2, 8 and 13 stay edges.
    private static let masterLevelMask: UInt8 = 0xF8
    private static let slaveLevelMask: UInt8 = 0xDE

    /// Sets the level of a device's line, 0–15. Line 2 is the slave's and ignored.
    mutating func setLine(_ line: Int, _ isHigh: Bool) {
        // Devices are asked after each access; mostly nothing has changed.
        guard self.isHigh(line) != isHigh else { return }
        if line < 8 {
            if line != Self.cascadeLine { master.setLine(line, isHigh) }
        } else {
            slave.setLine(line - 8, isHigh)
            connect()
        }
    }

    /// The level of a line.
    func isHigh(_ line: Int) -> Bool {
        line < 8 ? master.lines >> UInt8(line) & 1 != 0 : slave.lines >> UInt8(line & 7) & 1 != 0
    }

    /// Whether anything can come of a request on a line.
    func isEnabled(_ line: Int) -> Bool {
        if line < 8 { return master.isEnabled(line) }
        return slave.isEnabled(line - 8) && master.isEnabled(Self.cascadeLine)
    }

    /// The level of INTR.
    var hasInterrupt: Bool { master.pendingLine != nil }

    /// The INTA cycles: the vector of the line that is served now. A request that went away gives
    /// the vector of line 7 (of line 15, where it was the slave's) with nothing in service.
    mutating func acknowledge() -> UInt8 {
        let line = master.acknowledge()
        guard !master.isSingle, master.cascade >> UInt8(line) & 1 != 0 else {
            return master.vector(line)
        }
        // The slave answers to its own number only; else nobody drives the bus.
        guard line == Self.cascadeLine, slave.cascade & 7 == UInt8(Self.cascadeLine) else {
            return 0xFF
        }
        let slaveLine = slave.acknowledge()
        // INT falls during the cycle; what is still pending raises it again.
        master.setLine(Self.cascadeLine, false)
        connect()
        return slave.vector(slaveLine)
    }

    /// Reads a port: 0x20, 0x21, 0xA0, 0xA1.
    mutating func read(_ port: UInt16) -> UInt8 {
        guard port & 0x80 != 0 else { return master.read(UInt8(port & 1)) }
        defer { connect() }
        return slave.read(UInt8(port & 1))
    }

    /// Writes a port: 0x20, 0x21, 0xA0, 0xA1.
    mutating func write(_ port: UInt16, _ value: UInt8) {
        if port & 0x80 == 0 {
            master.write(UInt8(port & 1), value)
        } else {
            slave.write(UInt8(port & 1), value)
            connect()
        }
    }

    /// Reads the edge/level register of the master (0) or the slave (1): 0x4D0, 0x4D1.
    func readLevels(_ chip: UInt16) -> UInt8 {
        chip & 1 == 0 ? master.levelTriggered : slave.levelTriggered
    }

    /// Writes an edge/level register.
    mutating func writeLevels(_ chip: UInt16, _ value: UInt8) {
        if chip & 1 == 0 {
            master.levelTriggered = value & Self.masterLevelMask
        } else {
            slave.levelTriggered = value & Self.slaveLevelMask
            connect()
        }
    }

    private mutating func connect() {
        master.setLine(Self.cascadeLine, slave.pendingLine != nil)
    }
}
