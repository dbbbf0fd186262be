/// A 16550A serial port (National Semiconductor PC16550D data sheet), complete in its registers.
///
/// Differences from the chip, all of which come of having no line and no clock here: a byte is
/// sent the moment it is written, so that the transmitter is always empty; all eight bits go out
/// whatever word length is set, since early guest code often sets none; the receiver takes bytes
/// from the host only as it has room, so that they never overrun it; a character timeout is due
/// at once. Break, parity and framing errors do not occur. The other end is a modem that is
/// always ready.
struct UART16550 {
    /// Register offsets; where one offset is two registers, both names are there.
    enum Offset {
        static let data: UInt8 = 0  // RBR, THR; DLL
        static let interruptEnable: UInt8 = 1  // IER; DLM
        static let identification: UInt8 = 2  // IIR, FCR
        static let lineControl: UInt8 = 3
        static let modemControl: UInt8 = 4
        static let lineStatus: UInt8 = 5
        static let modemStatus: UInt8 = 6
        static let scratch: UInt8 = 7
    }

    /// Bits of IER.
    private enum Enable {
        static let receivedData: UInt8 = 1
        static let transmitterEmpty: UInt8 = 2
        static let lineStatus: UInt8 = 4
        static let modemStatus: UInt8 = 8
    }

    /// Bits of MCR.
    private enum ModemControl {
        static let dtr: UInt8 = 1
        static let rts: UInt8 = 2
        static let out1: UInt8 = 4
        static let out2: UInt8 = 8
        static let loop: UInt8 = 16
    }

    /// Bits of MSR: what the modem says; the low four tell what changed.
    private enum ModemStatus {
        static let cts: UInt8 = 0x10
        static let dsr: UInt8 = 0x20
        static let ri: UInt8 = 0x40
        static let dcd: UInt8 = 0x80
        static let ready = cts | dsr | dcd
    }

    private static let dataReady: UInt8 = 1
    private static let overrun: UInt8 = 2
    private static let transmitterIsEmpty: UInt8 = 0x60  // THRE, TEMT

    private var interruptEnable: UInt8 = 0
    private var lineControl: UInt8 = 0
    private var modemControl: UInt8 = 0
    private var scratch: UInt8 = 0
    private var divisorLow: UInt8 = 12
    private var divisorHigh: UInt8 = 0
    private var modemLines = ModemStatus.ready
    private var modemChanges: UInt8 = 0
    private var hasOverrun = false
    private var hasFIFO = false
    private var triggerLevel = 1
    private var received = ByteFIFO()
    /// The transmitter became empty and nobody was told yet.
    private var announcesEmpty = false

    private var isLooped: Bool { modemControl & ModemControl.loop != 0 }
    private var showsDivisor: Bool { lineControl & 0x80 != 0 }
    private var capacity: Int { hasFIFO ? 16 : 1 }

    /// Reads a register (offset 0–7), after taking what the host has sent.
    mutating func read(_ offset: UInt8, from input: inout ConsoleInput) -> UInt8 {
        switch offset {
        case Offset.data:
            if showsDivisor { return divisorLow }
            receive(from: &input)
            return received.pop() ?? 0
        case Offset.interruptEnable:
            return showsDivisor ? divisorHigh : interruptEnable
        case Offset.identification:
            receive(from: &input)
            let source = interruptSource
            if source == .transmitterEmpty { announcesEmpty = false }
            return source.rawValue | (hasFIFO ? 0xC0 : 0)
        case Offset.lineControl: return lineControl
        case Offset.modemControl: return modemControl
        case Offset.lineStatus:
            receive(from: &input)
            defer { hasOverrun = false }
            return Self.transmitterIsEmpty | (received.count > 0 ? Self.dataReady : 0)
                | (hasOverrun ? Self.overrun : 0)
        case Offset.modemStatus:
            defer { modemChanges = 0 }
            return modemLines | modemChanges
        default: return scratch
        }
    }

    /// Writes a register (offset 0–7).
    mutating func write(_ offset: UInt8, _ value: UInt8, to output: inout ConsoleOutput) {
        switch offset {
        case Offset.data:
            if showsDivisor {
                divisorLow = value
                return
            }
            if isLooped { loopBack(value) } else { output.append(value) }
            announcesEmpty = true
        case Offset.interruptEnable:
            if showsDivisor {
                divisorHigh = value
                return
            }
            // Enabling the interrupt while the transmitter is empty raises it.
            if value & ~interruptEnable & Enable.transmitterEmpty != 0 { announcesEmpty = true }
            interruptEnable = value & 0x0F
        case Offset.identification: controlFIFO(value)
        case Offset.lineControl: lineControl = value
        case Offset.modemControl:
            modemControl = value & 0x1F
            updateModemLines()
        case Offset.scratch: scratch = value
        default: break  // LSR and MSR are for factory tests only.
        }
    }

    private mutating func controlFIFO(_ value: UInt8) {
        let enables = value & 1 != 0
        // Going from one mode to the other empties the FIFOs; the transmitter's always is.
        if enables != hasFIFO { received.clear() }
        hasFIFO = enables
        guard enables else { return }
        if value & 2 != 0 { received.clear() }
        triggerLevel =
            switch value >> 6 {
            case 0: 1
            case 1: 4
            case 2: 8
            default: 14
            }
    }

    private mutating func receive(from input: inout ConsoleInput) {
        while !isLooped, received.count < capacity, let byte = input.next() {
            received.push(byte)
        }
    }

    private mutating func loopBack(_ byte: UInt8) {
        if received.count < capacity {
            received.push(byte)
            return
        }
        // The FIFO keeps what it has; the single register of a 16450 is written over.
        hasOverrun = true
        if !hasFIFO { received.replaceLast(byte) }
    }

    private mutating func updateModemLines() {
        var lines = ModemStatus.ready
        if isLooped {
            lines = 0
            if modemControl & ModemControl.rts != 0 { lines |= ModemStatus.cts }
            if modemControl & ModemControl.dtr != 0 { lines |= ModemStatus.dsr }
            if modemControl & ModemControl.out1 != 0 { lines |= ModemStatus.ri }
            if modemControl & ModemControl.out2 != 0 { lines |= ModemStatus.dcd }
        }
        let changed = (lines ^ modemLines) >> 4
        // RI tells of its end only (TERI); the others of either edge.
        let ringEnded = modemLines & ~lines & ModemStatus.ri != 0
        modemChanges |= changed & 0b1011 | (ringEnded ? 0b0100 : 0)
        modemLines = lines
    }

    /// What asks for an interrupt, by priority; the raw value is what IIR shows.
    private enum InterruptSource: UInt8 {
        case lineStatus = 0b0110
        case receivedData = 0b0100
        case characterTimeout = 0b1100
        case transmitterEmpty = 0b0010
        case modemStatus = 0b0000
        case none = 0b0001
    }

    private var interruptSource: InterruptSource {
        if interruptEnable & Enable.lineStatus != 0 && hasOverrun { return .lineStatus }
        if interruptEnable & Enable.receivedData != 0 && received.count > 0 {
            return received.count >= (hasFIFO ? triggerLevel : 1)
                ? .receivedData : .characterTimeout
        }
        if interruptEnable & Enable.transmitterEmpty != 0 && announcesEmpty {
            return .transmitterEmpty
        }
        if interruptEnable & Enable.modemStatus != 0 && modemChanges != 0 { return .modemStatus }
        return .none
    }

    /// Whether a received byte pulls the interrupt line.
    var announcesReceived: Bool {
        interruptEnable & Enable.receivedData != 0
            && modemControl & (ModemControl.out2 | ModemControl.loop) == ModemControl.out2
    }

    /// Whether a byte that comes now is taken, without the guest's doing.
    var takesInput: Bool { announcesReceived && !isLooped && received.count < capacity }

    /// The interrupt line as a PC has it: through OUT2, which loopback holds inactive. Bytes that
    /// wait on the host are taken first, where the guest wants to be told of them: else a guest
    /// that sets the port up and clears its FIFOs would lose what was typed ahead.
    mutating func interruptLine(_ input: inout ConsoleInput) -> Bool {
        if announcesReceived { receive(from: &input) }
        return modemControl & (ModemControl.out2 | ModemControl.loop) == ModemControl.out2
            && interruptSource != .none
    }
}
