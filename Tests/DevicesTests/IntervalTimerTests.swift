import Testing

@testable import Devices

/// The 8254: every mode against a model that steps CLK by CLK, and its ports.
@Suite struct IntervalTimerTests {
    /// A small generator, so that a failure can be repeated by its seed.
    struct Random: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            var mixed = state
            mixed ^= mixed >> 32
            return mixed &* 0xD6E8_FEB8_6659_FD93
        }
    }

    /// The counter that computes, and the one that steps, side by side.
    struct Pair {
        var computed: TimerChannel
        var stepped: ReferenceCounter
        var tick: UInt64 = 0

        init(gate: Bool) {
            computed = TimerChannel(gate: gate)
            stepped = ReferenceCounter(gate: gate)
        }

        mutating func program(_ mode: Int, bcd: Bool) {
            computed.control(UInt8(0x30 | mode << 1 | (bcd ? 1 : 0)))
            stepped.control(mode: mode, isBCD: bcd)
        }

        mutating func write(_ count: Int, bcd: Bool) {
            let value =
                bcd
                ? count % 10 | (count / 10 % 10) << 4 | (count / 100 % 10) << 8
                    | (count / 1000) << 12
                : count
            computed.write(UInt8(value & 255))
            stepped.writeHalf()
            computed.write(UInt8(value >> 8 & 255))
            stepped.write(count)
        }

        mutating func setGate(_ high: Bool) {
            computed.setGate(high)
            stepped.setGate(high)
        }

        /// Both by some ticks; the computing one in one leap. Whether both saw OUT rise.
        mutating func advance(_ ticks: Int) -> (computed: Bool, stepped: Bool) {
            var rose = false
            for _ in 0..<ticks where stepped.step() { rose = true }
            tick += UInt64(ticks)
            return (computed.advance(to: tick), rose)
        }

        var computedCount: Int {
            mutating get {
                computed.latchCount()
                return Int(computed.read()) | Int(computed.read()) << 8
            }
        }
    }

    @Test(arguments: 0..<6, [false, true])
    func everyModeDoesWhatASteppedOneDoes(mode: Int, bcd: Bool) {
        for seed in 0..<150 as Range<UInt64> {
            var random = Random(state: seed << 8 | UInt64(mode) << 1 | (bcd ? 1 : 0))
            var pair = Pair(gate: Bool.random(using: &random))
            func count() -> Int {
                switch Int.random(in: 0..<4, using: &random) {
                case 0: Int.random(in: 2..<12, using: &random)
                case 1: Int.random(in: 12..<300, using: &random)
                case 2: Int.random(in: 300..<9999, using: &random)
                default: 0
                }
            }
            pair.program(mode, bcd: bcd)
            for step in 0..<40 {
                switch Int.random(in: 0..<10, using: &random) {
                case 0: pair.program(mode, bcd: bcd)
                case 1, 2: pair.write(count(), bcd: bcd)
                case 3, 4: pair.setGate(!pair.stepped.gate)
                default: break
                }
                let leap =
                    Bool.random(using: &random)
                    ? Int.random(in: 0..<8, using: &random)
                    : Int.random(in: 0..<2500, using: &random)
                let predicted = pair.computed.nextRise
                let from = pair.tick
                let rose = pair.advance(leap)
                let place = "seed \(seed), step \(step)"
                #expect(rose.computed == rose.stepped, "\(place)")
                #expect(rose.computed == (predicted.map { $0 > from && $0 <= pair.tick } ?? false))
                #expect(pair.computed.output == pair.stepped.output, "\(place)")
                if pair.stepped.isLoaded {
                    #expect(pair.computedCount == pair.stepped.count, "\(place)")
                }
            }
        }
    }

    @Test func aLeapOverManyPeriodsEndsInPhase() {
        for mode in [2, 3] {
            var pair = Pair(gate: true)
            pair.program(mode, bcd: false)
            pair.write(17, bcd: false)
            _ = pair.advance(1)
            pair.write(23, bcd: false)
            let rose = pair.advance(100_003)
            #expect(rose == (true, true))
            #expect(pair.computed.output == pair.stepped.output)
            #expect(pair.computedCount == pair.stepped.count)
        }
    }

    @Test func modesSixAndSevenAreTwoAndThree() {
        var channel = TimerChannel(gate: true)
        channel.control(0x3C)
        channel.write(4)
        channel.write(0)
        #expect(channel.nextRise == 5)
        channel.latchStatus()
        // OUT high, the count not loaded, and the mode as it was written.
        #expect(channel.read() == 0xFC)
    }

    // MARK: Ports

    static let period: UInt64 = 88_000

    /// A time at which `ticks` CLK have passed.
    static func time(_ ticks: UInt64) -> UInt64 { (ticks * 88_000 + 104) / 105 }

    @Test func singleBytesReachOneHalf() throws {
        var machine = try Machine(pc: .init())
        machine.out(0x43, 0x14)  // counter 0, low byte, mode 2
        machine.out(0x40, 0x20)
        machine.devices.advance(to: Self.time(6))
        #expect(machine.in(0x40) == 0x20 - 5)
        #expect(machine.in(0x40) == 0x20 - 5)
        machine.out(0x43, 0x24)  // high byte
        machine.out(0x40, 0x20)
        machine.devices.advance(to: Self.time(6 + 1 + 0x100))
        #expect(machine.in(0x40) == 0x1F)
    }

    @Test func aLatchedCountWaitsToBeRead() throws {
        var machine = try Machine(pc: .init())
        machine.out(0x43, 0x34)
        machine.out(0x40, 0x00)
        machine.out(0x40, 0x10)
        machine.devices.advance(to: Self.time(1 + 0x10))
        machine.out(0x43, 0x00)
        machine.devices.advance(to: Self.time(1 + 0x234))
        machine.out(0x43, 0x00)  // nothing: one is latched
        #expect(machine.in(0x40) == 0xF0)
        #expect(machine.in(0x40) == 0x0F)
        #expect(machine.in(0x40) == 0xCC)  // live again: 0x1000 - 0x234
        #expect(machine.in(0x40) == 0x0D)
    }

    @Test func readBackGivesStatusThenCount() throws {
        var machine = try Machine(pc: .init())
        machine.out(0x43, 0x36)
        machine.out(0x40, 0x00)
        machine.out(0x40, 0x01)
        machine.out(0x43, 0xE2)  // status of counter 0
        #expect(machine.in(0x40) == 0xF6)  // not loaded yet
        machine.devices.advance(to: Self.time(1 + 0x40))
        machine.out(0x43, 0xC2)  // both
        machine.devices.advance(to: Self.time(1 + 0x90))
        #expect(machine.in(0x40) == 0xB6)
        #expect(machine.in(0x40) == 0x80)
        #expect(machine.in(0x40) == 0x00)
        machine.out(0x43, 0xEE)  // status of all three
        #expect(machine.in(0x40) == 0x36)  // OUT is low now
        #expect(machine.in(0x41) & 0x40 != 0)
        #expect(machine.in(0x42) & 0x40 != 0)
        #expect(machine.in(0x43) == 0xFF)
    }

    @Test func aNewModeDropsWhatWasLatched() throws {
        var machine = try Machine(pc: .init())
        machine.out(0x43, 0x30)
        machine.out(0x40, 0x34)
        machine.out(0x40, 0x12)
        machine.devices.advance(to: Self.time(1))
        machine.out(0x43, 0x00)
        machine.out(0x43, 0x30)
        machine.out(0x40, 0x78)
        machine.out(0x40, 0x56)
        machine.devices.advance(to: Self.time(2))
        #expect(machine.in(0x40) == 0x78)
        #expect(machine.in(0x40) == 0x56)
    }

    @Test func port61GatesAndShowsCounter2() throws {
        var machine = try Machine(pc: .init())
        machine.out(0x61, 0x00)
        machine.out(0x43, 0xB0)  // mode 0
        machine.out(0x42, 100)
        machine.out(0x42, 0)
        machine.devices.advance(to: Self.time(500))
        #expect(machine.in(0x61) & 0x2F == 0x00)
        machine.out(0x61, 0xFD)
        machine.devices.advance(to: Self.time(599))
        #expect(machine.in(0x61) & 0x2F == 0x0D)
        machine.devices.advance(to: Self.time(600))
        #expect(machine.in(0x61) & 0x2F == 0x2D)
    }

    @Test func refreshTogglesEvery18Ticks() throws {
        var machine = try Machine(pc: .init())
        var seen: [UInt32] = []
        for tick in stride(from: 9, to: 81, by: 18) as StrideTo<UInt64> {
            machine.devices.advance(to: Self.time(tick))
            seen.append(machine.in(0x61) >> 4 & 1)
        }
        #expect(seen == [0, 1, 0, 1])
    }

    @Test func clockRatesNeverDrift() {
        for rate in [
            ClockRate.intervalTimer, .powerManagementTimer, .watchCrystal,
        ] {
            for ticks in [1, 2, 105, 1_193_182, 1 << 40, 1 << 48] as [UInt64] {
                let time = rate.time(of: ticks)
                #expect(rate.ticks(at: time) == ticks)
                #expect(rate.ticks(at: time - 1) == ticks - 1)
            }
            #expect(rate.time(of: .max) == .max)
            #expect(rate.ticks(at: .max) > 0)
        }
        #expect(ClockRate.intervalTimer.ticks(at: 1_000_000_000) == 1_193_181)
        #expect(ClockRate.powerManagementTimer.ticks(at: 1_000_000_000) == 3_579_545)
        #expect(ClockRate.watchCrystal.ticks(at: 1_000_000_000) == 32_768)
    }
}
