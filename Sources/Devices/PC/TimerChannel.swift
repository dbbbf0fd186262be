/// One counter of an 8254 (Intel 8254 data sheet, 231164), computed from the tick rather than
/// stepped: what it is at a tick costs the same however long ago it was programmed.
///
/// A tick is a whole period of CLK since the machine started. A count that is written, or a gate
/// that rises, in tick T takes effect with the next CLK, at T + 1.
struct TimerChannel: Sendable {
    /// What the low six bits of the last control word said: RW, mode, BCD, as read-back shows them.
    private(set) var controlBits: UInt8 = 0x36
    /// The level of GATE.
    private(set) var gate = true

    /// What the counting element does.
    private enum Phase: UInt8 {
        /// A control word came and no count yet; or a mode-0 count of two bytes came by half.
        case waiting
        /// Modes 1 and 5: a count is there and no trigger came yet.
        case armed
        /// It counts from ``loaded``, which it took at ``loadTick``, but for time that ``gate``
        /// was low.
        case counting
    }

    private var phase = Phase.waiting
    /// The tick now.
    private var now: UInt64 = 0
    /// The count in the counting element when it was loaded: 1…65,536.
    private var loaded: UInt64 = 0x10000
    /// When it was loaded; moved on by whole periods, and by the time that the gate was low.
    private var loadTick: UInt64 = 0
    /// Mode 3: ``loadTick`` began the low half.
    private var isLowHalf = false
    /// While the gate holds the count: how far it had come.
    private var held: UInt64?
    /// A count that is written and not yet in the counting element.
    private var next: UInt64?
    /// OUT until the counting element is loaded.
    private var idleOutput = true
    /// The counting element until it is loaded.
    private var idleCount: UInt16 = 0

    private var writesHighByte = false
    private var lowByte: UInt8 = 0
    private var readsHighByte = false
    private var latchedCount: UInt16?
    private var latchedStatus: UInt8?
    /// A latched count of two bytes is half read.
    private var isLatchHalfRead = false

    /// Makes a counter whose gate has a level.
    init(gate: Bool) { self.gate = gate }

    private var access: UInt8 { controlBits >> 4 & 3 }
    private var isBCD: Bool { controlBits & 1 != 0 }
    private var modulus: UInt64 { isBCD ? 10_000 : 0x10000 }

    /// The mode, 0–5: 6 and 7 are 2 and 3.
    private var mode: UInt8 {
        let bits = controlBits >> 1 & 7
        return bits > 5 ? bits - 4 : bits
    }

    private var isPeriodic: Bool { mode == 2 || mode == 3 }

    /// What the data sheet forbids is taken as the least that it allows.
    private var period: UInt64 { max(loaded, 2) }

    /// Whether the counting element has been loaded.
    private var isLoaded: Bool { phase == .counting && now >= loadTick }

    /// How far the count has come since it was loaded, in ticks.
    private var elapsed: UInt64 { held ?? (now > loadTick ? now - loadTick : 0) }

    // MARK: Time

    /// Moves on to a tick, which does not lie before the last one. True if OUT rose on the way.
    mutating func advance(to tick: UInt64) -> Bool {
        guard tick > now else { return false }
        let rise = isPeriodic ? nil : nextRise
        now = tick
        guard isPeriodic else { return rise.map { $0 <= tick } ?? false }
        guard phase == .counting, held == nil else { return false }
        return mode == 2 ? advanceRate() : advanceSquare()
    }

    private mutating func advanceRate() -> Bool {
        guard elapsed >= period else { return false }
        loadTick += period
        takeNext()
        loadTick += elapsed / period * period
        return true
    }

    private mutating func advanceSquare() -> Bool {
        var rose = false
        // Up to the end of this half, where a new count is taken, and of the one after it; then by
        // whole periods, and on to the half that this tick is in.
        for turn in 0..<4 {
            if turn == 2 {
                let periods = elapsed / period
                loadTick += periods * period
                if periods > 0 { rose = true }
            }
            let half = isLowHalf ? period / 2 : (period + 1) / 2
            guard elapsed >= half else { return rose }
            loadTick += half
            rose = rose || isLowHalf
            isLowHalf.toggle()
            takeNext()
        }
        return rose
    }

    private mutating func takeNext() {
        guard let count = next else { return }
        loaded = count
        next = nil
    }

    /// The tick at which OUT rises next by itself, nil where it does not.
    var nextRise: UInt64? {
        guard phase == .counting else { return nil }
        let base = loadTick
        // A strobe (modes 4 and 5) that a new count cuts short ends when that is loaded.
        if mode > 3 && !isLoaded && !idleOutput { return base }
        guard held == nil else { return nil }
        switch mode {
        case 0, 1: return elapsed < loaded ? base + loaded : nil
        case 2: return base + period
        case 3:
            if isLowHalf { return base + period / 2 }
            let after = max(next ?? loaded, 2)
            return base + (period + 1) / 2 + after / 2
        default: return elapsed <= loaded ? base + loaded + 1 : nil
        }
    }

    /// The level of OUT.
    var output: Bool {
        guard isLoaded else { return idleOutput }
        switch mode {
        case 0, 1: return elapsed >= loaded
        // A low gate sets OUT high at once in modes 2 and 3.
        case 2: return held != nil || elapsed != period - 1
        case 3: return held != nil || !isLowHalf
        default: return elapsed != loaded
        }
    }

    /// The counting element as it is read: in BCD where the counter is.
    private var count: UInt16 {
        guard isLoaded else { return idleCount }
        if mode == 3 {
            // Counts down by two from the even part; a low gate holds the count.
            return encode((period & ~1) &- 2 &* min(elapsed, period / 2))
        }
        if mode == 2 { return encode(period - min(elapsed, period - 1)) }
        return encode(modulus &+ loaded % modulus &- elapsed % modulus)
    }

    private func encode(_ value: UInt64) -> UInt16 {
        let value = value % modulus
        guard isBCD else { return UInt16(truncatingIfNeeded: value) }
        let digits =
            value % 10 | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 | (value / 1000) << 12
        return UInt16(truncatingIfNeeded: digits)
    }

    // MARK: Gate

    /// Sets the level of GATE.
    mutating func setGate(_ isHigh: Bool) {
        guard isHigh != gate else { return }
        gate = isHigh
        switch mode {
        case 1, 5:
            guard isHigh, phase != .waiting else { return }  // a falling gate changes nothing
            load()
        case 2, 3:
            guard phase == .counting else { return }
            if isHigh {
                load()
            } else {
                held = elapsed
            }
        default:
            guard phase == .counting else { return }
            if isHigh {
                loadTick = max(loadTick, now &- (held ?? 0))
                held = nil
            } else {
                held = elapsed
            }
        }
    }

    /// Loads the counting element with the next CLK.
    private mutating func load() {
        idleCount = count
        idleOutput = mode != 0 && output
        takeNext()
        phase = .counting
        loadTick = now + 1
        isLowHalf = false
        held = gate || mode == 1 || mode == 5 ? nil : 0
    }

    // MARK: Programming

    /// A control word for this counter: RW is not 0.
    mutating func control(_ value: UInt8) {
        idleCount = count
        controlBits = value & 0x3F
        phase = .waiting
        held = nil
        next = nil
        idleOutput = mode != 0
        writesHighByte = false
        readsHighByte = false
        latchedCount = nil
        latchedStatus = nil
        isLatchHalfRead = false
    }

    /// Counter latch command: keeps the count until it is read. A second one changes nothing.
    mutating func latchCount() {
        guard latchedCount == nil else { return }
        latchedCount = count
        isLatchHalfRead = false
    }

    /// Read-back command for the status: OUT, NULL COUNT and the programmed mode.
    mutating func latchStatus() {
        guard latchedStatus == nil else { return }
        let isNull = !isLoaded || next != nil
        latchedStatus = (output ? 0x80 : 0) | (isNull ? 0x40 : 0) | controlBits
    }

    /// Reads the counter's port.
    mutating func read() -> UInt8 {
        if let status = latchedStatus {
            latchedStatus = nil
            return status
        }
        if let latch = latchedCount {
            let low = UInt8(truncatingIfNeeded: latch)
            let high = UInt8(truncatingIfNeeded: latch >> 8)
            switch access {
            case 1:
                latchedCount = nil
                return low
            case 2:
                latchedCount = nil
                return high
            default:
                defer { readsHighByte.toggle() }
                // Two bytes, beginning where an unlatched read left off.
                if isLatchHalfRead { latchedCount = nil }
                isLatchHalfRead.toggle()
                return readsHighByte ? high : low
            }
        }
        let value = count
        var isHigh = access == 2
        if access == 3 {
            isHigh = readsHighByte
            readsHighByte.toggle()
        }
        return UInt8(truncatingIfNeeded: isHigh ? value >> 8 : value)
    }

    /// Writes the counter's port.
    mutating func write(_ value: UInt8) {
        switch access {
        case 1: take(UInt16(value))
        case 2: take(UInt16(value) << 8)
        default:
            writesHighByte.toggle()
            if writesHighByte {
                lowByte = value
                // Mode 0 stops at the first byte, and OUT falls.
                if mode == 0 {
                    idleCount = count
                    phase = .waiting
                    idleOutput = false
                }
            } else {
                take(UInt16(value) << 8 | UInt16(lowByte))
            }
        }
    }

    /// A whole count has been written.
    private mutating func take(_ written: UInt16) {
        var value = UInt64(written)
        if isBCD {
            // Digits beyond 9 count as what they weigh.
            value =
                (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100
                + (value >> 12) * 1000
        }
        next = value == 0 ? modulus : value
        if phase == .counting && now < loadTick {
            // In time for the load that comes with the next CLK.
            takeNext()
            return
        }
        switch mode {
        case 1, 5:
            // Taken at the next trigger.
            if phase == .waiting { phase = .armed }
        case 2, 3:
            // The first count at once; another at the end of the period or at a trigger.
            guard phase == .waiting else { return }
            load()
        default: load()
        }
    }
}
