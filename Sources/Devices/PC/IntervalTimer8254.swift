/// A PC's 8254 programmable interval timer (Intel 8254 data sheet, 231164) and what port 0x61 does
/// with it: counter 0 is the interrupt line 0, counter 1 the refresh, counter 2 the speaker.
struct IntervalTimer8254: Sendable {
    private var channel0 = TimerChannel(gate: true)
    private var channel1 = TimerChannel(gate: true)
    private var channel2 = TimerChannel(gate: false)
    private var tick: UInt64 = 0

    /// The level of counter 0's OUT.
    var interruptOutput: Bool { channel0.output }
    /// The level of counter 2's OUT.
    var speakerOutput: Bool { channel2.output }

    /// The bit that turns over with each memory refresh, which counter 1 paces at 18 ticks. Fixed:
    /// some guests measure it and none programs it.
    var refreshToggle: Bool { tick / 18 & 1 != 0 }

    /// The level of counter 2's GATE.
    var speakerGate: Bool {
        get { channel2.gate }
        set { channel2.setGate(newValue) }
    }

    /// When counter 0's OUT rises next by itself, in nanoseconds.
    var nextInterrupt: UInt64? {
        channel0.nextRise.map { ClockRate.intervalTimer.time(of: $0) }
    }

    /// Moves on to a time. True if counter 0's OUT rose on the way.
    mutating func advance(to nanoseconds: UInt64) -> Bool {
        tick = ClockRate.intervalTimer.ticks(at: nanoseconds)
        _ = channel1.advance(to: tick)
        _ = channel2.advance(to: tick)
        return channel0.advance(to: tick)
    }

    /// Reads a counter's port (0–2); the control port (3) reads as nothing.
    mutating func read(_ offset: UInt8) -> UInt8 {
        switch offset {
        case 0: channel0.read()
        case 1: channel1.read()
        case 2: channel2.read()
        default: 0xFF
        }
    }

    /// Writes a counter's port (0–2) or the control port (3).
    mutating func write(_ offset: UInt8, _ value: UInt8) {
        switch offset {
        case 0: channel0.write(value)
        case 1: channel1.write(value)
        case 2: channel2.write(value)
        default: control(value)
        }
    }

    private mutating func control(_ value: UInt8) {
        let selected = value >> 6
        guard selected != 3 else {
            // Read-back: both bits are active low.
            for channel in 0..<3 as Range<UInt8> where value >> (channel + 1) & 1 != 0 {
                if value & 0x20 == 0 { withChannel(channel) { $0.latchCount() } }
                if value & 0x10 == 0 { withChannel(channel) { $0.latchStatus() } }
            }
            return
        }
        if value & 0x30 == 0 {
            withChannel(selected) { $0.latchCount() }
        } else {
            withChannel(selected) { $0.control(value) }
        }
    }

    private mutating func withChannel(_ number: UInt8, _ body: (inout TimerChannel) -> Void) {
        switch number {
        case 0: body(&channel0)
        case 1: body(&channel1)
        default: body(&channel2)
        }
    }
}
