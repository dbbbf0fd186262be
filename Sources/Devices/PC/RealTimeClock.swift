/// A PC/AT's MC146818 real-time clock (Motorola data sheet) with 128 bytes of battery-backed RAM.
///
/// The first 14 bytes are the clock's; 0x32 is the century, which counts on with the year. The
/// square-wave output and daylight saving (bit 0 of register B is kept) lead nowhere on a PC.
/// The time base is 32,768 Hz; the divider settings for other crystals stop the clock.
struct RealTimeClock: Sendable {
    /// What the registers are, by index.
    enum Index {
        static let second: UInt8 = 0
        static let secondAlarm: UInt8 = 1
        static let minute: UInt8 = 2
        static let minuteAlarm: UInt8 = 3
        static let hour: UInt8 = 4
        static let hourAlarm: UInt8 = 5
        static let weekday: UInt8 = 6
        static let day: UInt8 = 7
        static let month: UInt8 = 8
        static let year: UInt8 = 9
        static let registerA: UInt8 = 10
        static let registerB: UInt8 = 11
        static let registerC: UInt8 = 12
        static let registerD: UInt8 = 13
        static let century: UInt8 = 0x32
    }

    /// Bits of register B; the interrupt enables are at the places of register C's flags.
    private enum ControlBit {
        static let set: UInt8 = 0x80
        static let binary: UInt8 = 0x04
        static let hours24: UInt8 = 0x02
    }

    /// Bits of register C.
    enum Flag {
        static let request: UInt8 = 0x80
        static let periodic: UInt8 = 0x40
        static let alarm: UInt8 = 0x20
        static let updateEnded: UInt8 = 0x10
    }

    private static let ticksPerSecond: UInt64 = 32_768
    /// UIP goes up 244 µs before an update, which takes 1,984 µs.
    private static let updateTicks: UInt64 = 73
    /// The first update comes half a second after the divider is released.
    private static let releasedTicks: UInt64 = 16_384

    /// 128; an array, so that the clock is small to pass.
    private var bytes: [UInt8]
    private var index: UInt8 = 0
    private var controlA: UInt8 = 0x26
    private var controlB: UInt8 = ControlBit.hours24
    private var flags: UInt8 = 0
    /// Ticks of the crystal since the machine started.
    private var tick: UInt64 = 0
    /// What ``tick`` was when the divider was at zero; wraps.
    private var dividerStart: UInt64 = 0
    /// In which second of the divider the alarm goes off next: 1 is the next update; nil: never.
    private var secondsToAlarm: UInt64?

    /// Makes a clock that shows a time and RAM that holds `contents` from index 14 on.
    init(secondsSince1970: UInt64, contents: borrowing CMOSContents) {
        bytes = contents.bytes
        for index in 0..<14 { bytes[index] = 0 }
        let time = CalendarTime(secondsSince1970: secondsSince1970)
        bytes[Int(Index.weekday)] = UInt8(time.weekday)
        show(time)
        findAlarm()
    }

    // MARK: Time

    private var isCounting: Bool { controlA & 0x70 == 0x20 }
    private var isUpdating: Bool { isCounting && controlB & ControlBit.set == 0 }
    /// How far the divider has come.
    private var divider: UInt64 { tick &- dividerStart }

    /// How many ticks lie between two periodic flags; nil where there are none.
    private var periodTicks: UInt64? {
        let rate = UInt64(controlA & 15)
        guard rate != 0, isCounting else { return nil }
        return 1 << (rate < 3 ? rate + 6 : rate - 1)
    }

    /// Moves on to a time, which does not lie before the last one.
    mutating func advance(to nanoseconds: UInt64) {
        let before = divider
        tick = ClockRate.watchCrystal.ticks(at: nanoseconds)
        guard isCounting else {
            // The divider is held, or has no input: it does not move.
            dividerStart = tick &- before
            return
        }
        guard divider > before else { return }
        if let period = periodTicks, divider / period != before / period {
            flags |= Flag.periodic
        }
        let seconds = divider / Self.ticksPerSecond &- before / Self.ticksPerSecond
        if seconds > 0 && isUpdating { update(seconds) }
    }

    private mutating func update(_ seconds: UInt64) {
        flags |= Flag.updateEnded
        var time = shown
        let days = time.add(seconds: seconds)
        if days > 0 {
            let weekday = (UInt64(min(max(decode(Index.weekday), 1), 7)) - 1 + days % 7) % 7 + 1
            bytes[Int(Index.weekday)] = UInt8(weekday)
        }
        show(time)
        guard let due = secondsToAlarm else { return }
        if seconds >= due {
            flags |= Flag.alarm
            findAlarm()
        } else {
            secondsToAlarm = due - seconds
        }
    }

    /// Whether the clock asks for an interrupt: IRQF.
    var hasInterrupt: Bool {
        flags & controlB & (Flag.periodic | Flag.alarm | Flag.updateEnded) != 0
    }

    /// When the clock asks for an interrupt next by itself, in nanoseconds.
    var nextInterrupt: UInt64? {
        guard isCounting, !hasInterrupt else { return nil }
        var ticks: UInt64?
        if let period = periodTicks, controlB & Flag.periodic != 0 {
            ticks = (divider / period + 1) * period
        }
        if isUpdating {
            let seconds = divider / Self.ticksPerSecond
            if controlB & Flag.updateEnded != 0 {
                ticks = min(ticks ?? .max, (seconds + 1) * Self.ticksPerSecond)
            }
            if controlB & Flag.alarm != 0, let due = secondsToAlarm {
                ticks = min(ticks ?? .max, (seconds + due) * Self.ticksPerSecond)
            }
        }
        return ticks.map { ClockRate.watchCrystal.time(of: $0 &+ dividerStart) }
    }

    // MARK: The calendar's registers

    private func decode(_ index: UInt8) -> Int { decode(byte: bytes[Int(index)]) }

    private func decode(byte value: UInt8) -> Int {
        if controlB & ControlBit.binary != 0 { return Int(value) }
        return Int(value >> 4) * 10 + Int(value & 15)
    }

    private func encode(_ value: Int) -> UInt8 {
        if controlB & ControlBit.binary != 0 { return UInt8(truncatingIfNeeded: value) }
        return UInt8(truncatingIfNeeded: (value / 10 % 10) << 4 | value % 10)
    }

    /// The hour of a register, 0–23: bit 7 is PM where hours go to 12.
    private func decodeHour(_ value: UInt8) -> Int {
        if controlB & ControlBit.hours24 != 0 { return decode(byte: value) }
        return decode(byte: value & 0x7F) % 12 + (value & 0x80 != 0 ? 12 : 0)
    }

    private var shown: CalendarTime {
        // The century is BCD in either mode, as PC firmware has it.
        let century = bytes[Int(Index.century)]
        return CalendarTime(
            year: (Int(century >> 4) * 10 + Int(century & 15)) * 100 + decode(Index.year) % 100,
            month: decode(Index.month), day: decode(Index.day),
            hour: decodeHour(bytes[Int(Index.hour)]), minute: decode(Index.minute),
            second: decode(Index.second))
    }

    private mutating func show(_ time: CalendarTime) {
        bytes[Int(Index.second)] = encode(time.second)
        bytes[Int(Index.minute)] = encode(time.minute)
        if controlB & ControlBit.hours24 != 0 {
            bytes[Int(Index.hour)] = encode(time.hour)
        } else {
            let hour = time.hour % 12
            bytes[Int(Index.hour)] = encode(hour == 0 ? 12 : hour) | (time.hour < 12 ? 0 : 0x80)
        }
        bytes[Int(Index.day)] = encode(time.day)
        bytes[Int(Index.month)] = encode(time.month)
        bytes[Int(Index.year)] = encode(time.year % 100)
        let century = time.year / 100 % 100
        bytes[Int(Index.century)] = UInt8((century / 10) << 4 | century % 10)
    }

    /// Finds the next second of the day that the alarm's registers match. 0xC0–0xFF match all.
    private mutating func findAlarm() {
        let alarm = (
            bytes[Int(Index.hourAlarm)], bytes[Int(Index.minuteAlarm)],
            bytes[Int(Index.secondAlarm)]
        )
        let hour = alarm.0 >= 0xC0 ? nil : decodeHour(alarm.0)
        let minute = alarm.1 >= 0xC0 ? nil : decode(byte: alarm.1)
        let second = alarm.2 >= 0xC0 ? nil : decode(byte: alarm.2)
        secondsToAlarm = nil
        let time = shown
        let start = time.hour * 60 + time.minute
        // The minute it is now comes twice: what is left of it, and what had passed of it.
        for offset in 0...1440 {
            let candidate = (start + offset) % 1440
            guard hour ?? candidate / 60 == candidate / 60,
                minute ?? candidate % 60 == candidate % 60
            else { continue }
            let earliest = offset == 0 ? time.second + 1 : 0
            let found = second ?? earliest
            guard found >= earliest, found < 60 else { continue }
            secondsToAlarm = UInt64(offset * 60 + found - time.second)
            return
        }
    }

    // MARK: Ports

    /// Writes port 0x70: the index. Bit 7 masks NMI, which nothing here raises.
    mutating func select(_ value: UInt8) { index = value & 0x7F }

    /// Reads port 0x71.
    mutating func read() -> UInt8 {
        switch index {
        case Index.registerA:
            let left = Self.ticksPerSecond - divider % Self.ticksPerSecond
            return controlA | (isUpdating && left <= Self.updateTicks ? 0x80 : 0)
        case Index.registerB: return controlB
        case Index.registerC:
            defer { flags = 0 }
            return flags | (hasInterrupt ? Flag.request : 0)
        case Index.registerD: return 0x80  // the battery is good
        default: return bytes[Int(index)]
        }
    }

    /// Writes port 0x71.
    mutating func write(_ value: UInt8) {
        switch index {
        case Index.registerA:
            let wasHeld = controlA & 0x60 == 0x60
            controlA = value & 0x7F
            let isHeld = controlA & 0x60 == 0x60
            if isHeld || wasHeld { dividerStart = tick }
            if wasHeld && !isHeld { dividerStart = tick &- Self.releasedTicks }
        case Index.registerB:
            controlB = value
            // SET clears the enable of the update-ended interrupt.
            if value & ControlBit.set != 0 { controlB &= ~Flag.updateEnded }
            findAlarm()
        case Index.registerC, Index.registerD: break
        default:
            bytes[Int(index)] = value
            if index < Index.registerA || index == Index.century { findAlarm() }
        }
    }
}
