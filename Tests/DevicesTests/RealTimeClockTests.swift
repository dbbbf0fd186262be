import Testing

@testable import Devices

/// The MC146818: a second after another, and what it tells of them.
@Suite struct RealTimeClockTests {
    static let second: UInt64 = 1_000_000_000
    /// 2024-02-28 23:59:58, a Wednesday.
    static let eve: UInt64 = 1_709_164_798

    static func makeClock(_ start: UInt64 = eve) -> RealTimeClock {
        RealTimeClock(
            secondsSince1970: start,
            contents: CMOSContents(
                memoryBelow4GiB: 64 << 20, memoryAbove4GiB: 0, processorCount: 1))
    }

    @Test func showsBCDAndCountsOn() {
        var clock = Self.makeClock()
        #expect(clock.time == [0x58, 0x59, 0x23, 0x04, 0x28, 0x02, 0x24, 0x20])
        clock.advance(to: Self.second - 1)
        #expect(clock[0] == 0x58)
        clock.advance(to: Self.second)
        #expect(clock[0] == 0x59)
        clock.advance(to: 2 * Self.second)
        #expect(clock.time == [0x00, 0x00, 0x00, 0x05, 0x29, 0x02, 0x24, 0x20])
        clock.advance(to: (2 + 86_400) * Self.second)
        #expect(clock.time == [0x00, 0x00, 0x00, 0x06, 0x01, 0x03, 0x24, 0x20])
    }

    @Test func aLeapOfYearsIsTheSameAsManySteps() {
        var leaping = Self.makeClock()
        var stepping = Self.makeClock()
        var day: UInt64 = 0
        for days in [1, 30, 366, 800, 3000] as [UInt64] {
            leaping.advance(to: days * 86_400 * Self.second + 5)
            while day < days {
                day += 1
                stepping.advance(to: day * 86_400 * Self.second + 5)
            }
            #expect(leaping.time == stepping.time)
            let calendar = CalendarTime(secondsSince1970: Self.eve + days * 86_400)
            #expect(leaping[7] == UInt8((calendar.day / 10) << 4 | calendar.day % 10))
            #expect(Int(leaping[6]) == calendar.weekday)
        }
    }

    @Test func centuriesTurn() {
        // 1999-12-31 23:59:59, a Friday.
        var clock = Self.makeClock(946_684_799)
        clock.advance(to: Self.second)
        #expect(clock.time == [0x00, 0x00, 0x00, 0x07, 0x01, 0x01, 0x00, 0x20])
    }

    @Test func binaryAndTwelveHours() {
        var clock = Self.makeClock()
        clock[11] = 0x04  // binary, 12 hours
        for (index, value) in [(0, 59), (2, 59), (4, 11), (7, 31), (8, 12), (9, 99)]
            as [(UInt8, UInt8)]
        { clock[index] = value }
        clock.advance(to: Self.second)
        #expect(clock.time == [0, 0, 12 | 0x80, 4, 31, 12, 99, 0x20])  // noon
        clock[4] = 11 | 0x80
        clock[2] = 59
        clock[0] = 59
        clock.advance(to: 2 * Self.second)
        #expect(clock.time == [0, 0, 12, 5, 1, 1, 0, 0x21])  // midnight
        clock[11] = 0x00
        clock[4] = 0x12
        clock[2] = 0x59
        clock[0] = 0x59
        clock.advance(to: 3 * Self.second)
        #expect(clock[4] == 0x01)
    }

    @Test func setHoldsTheTime() {
        var clock = Self.makeClock()
        clock[11] = 0x92  // SET, update-ended enabled, 24 hours
        #expect(clock[11] == 0x82)  // SET takes the enable away
        clock.advance(to: 10 * Self.second)
        #expect(clock[0] == 0x58)
        #expect(clock[12] & 0x10 == 0)
        // Fields in an order that passes 31 February.
        clock[7] = 0x31
        clock[8] = 0x02
        clock[8] = 0x03
        clock[11] = 0x02
        clock.advance(to: 11 * Self.second)
        #expect(clock[7] == 0x31)
        #expect(clock[0] == 0x59)
    }

    @Test func anUpdateAnnouncesItself() {
        var clock = Self.makeClock()
        clock.advance(to: Self.second - 2_300_000)
        #expect(clock[10] == 0x26)
        clock.advance(to: Self.second - 2_200_000)
        #expect(clock[10] == 0xA6)
        clock.advance(to: Self.second)
        #expect(clock[10] == 0x26)
        // The flag comes without an interrupt, and goes when it is read.
        clock[10] = 0x20
        #expect(clock[12] & 0xBF == 0x10)
        #expect(clock[12] == 0)
        #expect(!clock.hasInterrupt)
    }

    @Test func updateEndedInterrupts() {
        var clock = Self.makeClock()
        #expect(clock.nextInterrupt == nil)
        clock[10] = 0x20
        clock[11] = 0x12
        #expect(clock.nextInterrupt == Self.second)
        clock.advance(to: Self.second)
        #expect(clock.hasInterrupt)
        #expect(clock.nextInterrupt == nil)
        #expect(clock[12] == 0x90)
        #expect(!clock.hasInterrupt)
        #expect(clock.nextInterrupt == 2 * Self.second)
    }

    @Test(
        arguments: [
            (3, 8192), (4, 4096), (5, 2048), (6, 1024), (10, 64), (15, 2), (1, 256), (2, 128),
        ] as [(UInt8, UInt64)])
    func periodicInterrupts(rate: UInt8, hertz: UInt64) {
        var clock = Self.makeClock()
        clock[10] = 0x20 | rate
        clock[11] = 0x42
        var count: UInt64 = 0
        while let next = clock.nextInterrupt, next <= Self.second {
            clock.advance(to: next)
            #expect(clock[12] & 0xC0 == 0xC0)
            count += 1
        }
        #expect(count == hertz)
        clock[10] = 0x20
        #expect(clock.nextInterrupt == nil)
    }

    @Test(
        arguments: [
            // hour, minute, second as registers; seconds from 23:59:58
            (0x00, 0x00, 0x01, 3), (0x23, 0x59, 0x59, 1), (0x23, 0x59, 0x58, 86_400),
            (0x23, 0x59, 0x57, 86_399), (0xFF, 0xFF, 0xFF, 1), (0xFF, 0xFF, 0x58, 60),
            (0xC0, 0x30, 0x00, 1802), (0x12, 0xFF, 0x05, 43_207), (0x00, 0x00, 0x99, nil),
            (0x30, 0x00, 0x00, nil),
        ] as [(UInt8, UInt8, UInt8, UInt64?)])
    func alarms(hour: UInt8, minute: UInt8, second: UInt8, expected: UInt64?) {
        var clock = Self.makeClock()
        clock[5] = hour
        clock[3] = minute
        clock[1] = second
        clock[11] = 0x22
        #expect(clock.nextInterrupt == expected.map { $0 * Self.second })
        guard let expected else { return }
        clock.advance(to: expected * Self.second - 1)
        #expect(!clock.hasInterrupt)
        clock.advance(to: expected * Self.second)
        #expect(clock[12] & 0xA0 == 0xA0)
        #expect(clock.nextInterrupt ?? 0 > expected * Self.second)
    }

    @Test func theDividerCanBeHeld() {
        var clock = Self.makeClock()
        clock.advance(to: Self.second / 4)
        clock[10] = 0x76
        clock.advance(to: 5 * Self.second)
        #expect(clock[0] == 0x58)
        clock[10] = 0x26
        // The first update half a second after the release.
        clock.advance(to: 5 * Self.second + Self.second / 2 - 1)
        #expect(clock[0] == 0x58)
        clock.advance(to: 5 * Self.second + Self.second / 2)
        #expect(clock[0] == 0x59)
        clock[10] = 0x06  // another crystal's setting: stands still
        clock.advance(to: 60 * Self.second)
        #expect(clock[0] == 0x59)
    }

    @Test func nonsenseInTheRegistersIsNoTrap() {
        var clock = Self.makeClock()
        for control in [0x00, 0x02, 0x04, 0x06] as [UInt8] {
            clock[11] = control | 0x70
            for index in 0..<128 as Range<UInt8> where index != 11 { clock[index] = 0xFF }
            clock[10] = 0x2F
            clock.advance(to: .max / 2)
            #expect(clock[13] == 0x80)
        }
        clock.advance(to: .max)
        #expect(clock.nextInterrupt == nil || clock.nextInterrupt == .max)
    }

    @Test func memoryIsToldTwice() throws {
        func word(_ machine: inout Machine, _ index: UInt32) -> UInt32 {
            machine.out(0x70, index)
            let low = machine.in(0x71)
            machine.out(0x70, index + 1)
            return low | machine.in(0x71) << 8
        }
        var small = try Machine(pc: .init(memoryBelow4GiB: 8 << 20))
        #expect(word(&small, 0x15) == 640)
        #expect(word(&small, 0x17) == 7168)
        #expect(word(&small, 0x30) == 7168)
        #expect(word(&small, 0x34) == 0)
        var large = try Machine(
            pc: .init(memoryBelow4GiB: 3 << 30, memoryAbove4GiB: 5 << 30))
        #expect(word(&large, 0x30) == 0xFFFF)
        #expect(word(&large, 0x34) == 0xBF00)
        #expect(word(&large, 0x5B) == 0x4000)
        #expect(word(&large, 0x5C) == 0x0140)
        // RAM of its own, and an index that NMI's bit does not change.
        large.out(0x70, 0xFF)
        large.out(0x71, 0x5A)
        large.out(0x70, 0x7F)
        #expect(large.in(0x71) == 0x5A)
        #expect(large.in(0x70) == 0xFF)
    }
}

extension RealTimeClock {
    /// A register, by ports 0x70 and 0x71.
    fileprivate subscript(index: UInt8) -> UInt8 {
        mutating get {
            select(index)
            return read()
        }
        set {
            select(index)
            write(newValue)
        }
    }

    /// Second, minute, hour, day of the week, day, month, year, century.
    fileprivate var time: [UInt8] {
        mutating get { [0, 2, 4, 6, 7, 8, 9, 0x32].map { self[$0] } }
    }
}
