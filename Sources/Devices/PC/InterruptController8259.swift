/// One 8259A programmable interrupt controller (Intel 8259A data sheet, 231468), complete but for
/// what only an 8080's bus sees: acknowledgement always gives a vector, as for an 8086.
///
/// A chip answers nobody before an initialisation sequence has been completed.
struct InterruptController8259: Sendable {
    /// Bits of the edge/level register (Intel PIIX, ELCR): the lines that are level-triggered.
    var levelTriggered: UInt8 = 0
    /// The level of each input.
    private(set) var lines: UInt8 = 0
    /// IMR.
    private(set) var mask: UInt8 = 0
    /// ISR.
    private(set) var inService: UInt8 = 0
    /// ICW3: of a master, the inputs that slaves are at; of a slave, its number.
    private(set) var cascade: UInt8 = 0
    /// ICW1: there is no other chip.
    private(set) var isSingle = false

    /// Lines that rose, are still high, and were not acknowledged: the edge sense latches.
    private var raised: UInt8 = 0
    private var vectorBase: UInt8 = 0
    private var lowestPriority: UInt8 = 7
    private var isLevelSensitive = false
    private var needsICW4 = false
    private var endsAutomatically = false
    private var rotatesAutomatically = false
    private var isSpecialMask = false
    private var isSpecialFullyNested = false
    private var readsInService = false
    private var isPolled = false
    private var step = Step.uninitialised

    /// What the next write to the odd port is.
    private enum Step: UInt8 { case uninitialised, icw2, icw3, icw4, ready }

    /// Whether an initialisation sequence has been completed.
    var isReady: Bool { step == .ready }

    /// IRR: what asks for service, masked or not.
    var requests: UInt8 {
        let level = isLevelSensitive ? 0xFF : levelTriggered
        return raised & ~level | lines & level
    }

    /// Whether an edge on `line` waits to be acknowledged.
    func hasEdge(_ line: Int) -> Bool {
        raised & ~(isLevelSensitive ? 0xFF : levelTriggered) & 1 << UInt8(line & 7) != 0
    }

    /// Sets the level of input `line`, 0–7.
    mutating func setLine(_ line: Int, _ isHigh: Bool) {
        let bit = UInt8(1) << UInt8(line & 7)
        if isHigh {
            raised |= bit & ~lines
            lines |= bit
        } else {
            // A line that falls before it is acknowledged has asked for nothing.
            lines &= ~bit
            raised &= ~bit
        }
    }

    /// The line to be served now, nil where none is: the level of INT.
    var pendingLine: Int? {
        guard step == .ready else { return nil }
        let wanted = requests & ~mask
        guard wanted != 0 else { return nil }
        // Special mask mode: a masked level in service holds nobody back.
        let blocking = isSpecialMask ? inService & ~mask : inService
        // Special fully nested mode: a slave in service may ask again, and holds back what is lower.
        let again = isSpecialFullyNested ? cascade : 0
        for offset in 1...8 as ClosedRange<UInt8> {
            let line = (lowestPriority &+ offset) & 7
            let bit = UInt8(1) << line
            if wanted & bit & (~blocking | again) != 0 { return Int(line) }
            if blocking & bit != 0 { return nil }
        }
        return nil
    }

    /// Whether anything can ever come of a request on `line`.
    func isEnabled(_ line: Int) -> Bool { step == .ready && mask >> UInt8(line & 7) & 1 == 0 }

    /// The first INTA cycle: takes the line to be served, or 7 where its request is gone.
    mutating func acknowledge() -> Int {
        // Nothing goes in service for a request that went away.
        guard let line = pendingLine else { return 7 }
        let bit = UInt8(1) << UInt8(line)
        raised &= ~bit
        inService |= bit
        if endsAutomatically {
            inService &= ~bit
            if rotatesAutomatically { lowestPriority = UInt8(line) }
        }
        return line
    }

    /// The vector of a line.
    func vector(_ line: Int) -> UInt8 { vectorBase | UInt8(line & 7) }

    /// Reads the even (0) or odd (1) port.
    mutating func read(_ offset: UInt8) -> UInt8 {
        if isPolled {
            isPolled = false
            guard pendingLine != nil else { return 0 }
            return 0x80 | UInt8(acknowledge())
        }
        if offset & 1 != 0 { return mask }
        return readsInService ? inService : requests
    }

    /// Writes the even (0) or odd (1) port.
    mutating func write(_ offset: UInt8, _ value: UInt8) {
        if offset & 1 == 0 {
            if value & 0x10 != 0 {
                initialise(value)
            } else if value & 0x08 == 0 {
                endOrRotate(value)
            } else {
                select(value)
            }
            return
        }
        switch step {
        case .icw2:
            vectorBase = value & 0xF8
            step = isSingle ? afterICW3 : .icw3
        case .icw3:
            cascade = value
            step = afterICW3
        case .icw4:
            isSpecialFullyNested = value & 0x10 != 0
            endsAutomatically = value & 0x02 != 0
            step = .ready
        case .ready, .uninitialised: mask = value  // OCW1
        }
    }

    private var afterICW3: Step { needsICW4 ? .icw4 : .ready }

    /// ICW1.
    private mutating func initialise(_ value: UInt8) {
        raised = 0
        mask = 0
        inService = 0
        lowestPriority = 7
        cascade = 0
        isSpecialMask = false
        readsInService = false
        isPolled = false
        endsAutomatically = false
        rotatesAutomatically = false
        isSpecialFullyNested = false
        isLevelSensitive = value & 0x08 != 0
        isSingle = value & 0x02 != 0
        needsICW4 = value & 0x01 != 0
        step = .icw2
    }

    /// OCW2.
    private mutating func endOrRotate(_ value: UInt8) {
        let line = value & 7
        switch value >> 5 {
        case 0b000: rotatesAutomatically = false
        case 0b100: rotatesAutomatically = true
        case 0b001: _ = endHighest()
        case 0b101: if let ended = endHighest() { lowestPriority = ended }
        case 0b011: inService &= ~(1 << line)
        case 0b111:
            inService &= ~(1 << line)
            lowestPriority = line
        case 0b110: lowestPriority = line
        default: break  // 010: no operation
        }
    }

    /// Ends the line in service that has the highest priority. In special mask mode, masked levels
    /// are not ended this way.
    private mutating func endHighest() -> UInt8? {
        let candidates = isSpecialMask ? inService & ~mask : inService
        for offset in 1...8 as ClosedRange<UInt8> {
            let line = (lowestPriority &+ offset) & 7
            if candidates >> line & 1 != 0 {
                inService &= ~(1 << line)
                return line
            }
        }
        return nil
    }

    /// OCW3.
    private mutating func select(_ value: UInt8) {
        if value & 0x40 != 0 { isSpecialMask = value & 0x20 != 0 }
        if value & 0x04 != 0 {
            isPolled = true
        } else if value & 0x02 != 0 {
            readsInService = value & 0x01 != 0
        }
    }
}
