import Testing

@testable import Devices

/// The local APIC's timer by itself; times are nanoseconds, and at divisor 1 so are counts.
@Suite struct APICTimerTests {
    /// A timer in a mode, with the divisor 1 unless told.
    static func timer(_ mode: APICTimer.Mode, divide: UInt32 = 0b1011) -> APICTimer {
        var timer = APICTimer()
        timer.setMode(mode)
        timer.setDivide(divide)
        return timer
    }

    @Test func oneShotExpiresOnce() {
        var timer = Self.timer(.oneShot)
        #expect(timer.nextExpiry == nil)
        #expect(timer.advance(to: 100) == false)
        timer.start(50)
        #expect(timer.nextExpiry == 150)
        #expect(timer.currentCount == 50)
        #expect(timer.advance(to: 149) == false)
        #expect(timer.currentCount == 1)
        #expect(timer.advance(to: 150) == true)
        #expect(timer.currentCount == 0)
        #expect(timer.initialCount == 50)
        #expect(timer.nextExpiry == nil)
        #expect(timer.advance(to: 1000) == false)
    }

    @Test func aNewInitialCountStartsAnewAndZeroStops() {
        var timer = Self.timer(.oneShot)
        timer.start(50)
        #expect(timer.advance(to: 40) == false)
        timer.start(50)
        #expect(timer.nextExpiry == 90)
        timer.start(0)
        #expect(timer.nextExpiry == nil)
        #expect(timer.currentCount == 0)
        #expect(timer.advance(to: 1000) == false)
    }

    @Test(
        arguments: [
            (0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64),
            (0b1010, 128), (0b1011, 1), (0xFFFF_FFF4, 2),
        ] as [(UInt32, UInt64)])
    func theDivisorStretchesTheCount(code: UInt32, divisor: UInt64) {
        var timer = Self.timer(.oneShot, divide: code)
        #expect(timer.divideConfiguration == code & 0b1011)
        timer.start(10)
        #expect(timer.nextExpiry == 10 * divisor)
        // A count lasts a whole tick.
        #expect(timer.advance(to: divisor - 1) == false)
        #expect(timer.currentCount == 10)
        #expect(timer.advance(to: divisor) == false)
        #expect(timer.currentCount == 9)
        #expect(timer.advance(to: 10 * divisor) == true)
    }

    @Test func theLargestCountDoesNotOverflow() {
        var timer = Self.timer(.periodic, divide: 0b1010)
        timer.start(.max)
        #expect(timer.nextExpiry == 0xFFFF_FFFF * 128)
        #expect(timer.currentCount == .max)
        #expect(timer.advance(to: 0xFFFF_FFFF * 128) == true)
        #expect(timer.currentCount == .max)
    }

    @Test func periodicKeepsItsPhaseHoweverLate() {
        var timer = Self.timer(.periodic)
        timer.start(100)
        #expect(timer.advance(to: 100) == true)
        #expect(timer.nextExpiry == 200)
        #expect(timer.currentCount == 100)
        #expect(timer.advance(to: 150) == false)
        #expect(timer.currentCount == 50)
        // Seven periods late: one expiry, and the next where it would have been.
        #expect(timer.advance(to: 933) == true)
        #expect(timer.nextExpiry == 1000)
        #expect(timer.currentCount == 67)
    }

    @Test func theDivisorChangesUnderARunningCount() {
        var timer = Self.timer(.oneShot)
        timer.start(100)
        #expect(timer.advance(to: 40) == false)
        timer.setDivide(0b0000)
        #expect(timer.currentCount == 60)
        #expect(timer.nextExpiry == 160)
    }

    @Test func oneShotBecomesPeriodicAsItRuns() {
        var timer = Self.timer(.oneShot)
        timer.start(100)
        timer.setMode(.periodic)
        #expect(timer.advance(to: 100) == true)
        #expect(timer.nextExpiry == 200)
        timer.setMode(.oneShot)
        #expect(timer.advance(to: 200) == true)
        #expect(timer.nextExpiry == nil)
    }

    @Test func aDeadlineExpiresOnceAndReadsZeroThen() {
        var timer = Self.timer(.deadline)
        timer.setDeadline(5_000, at: 4_000)
        #expect(timer.deadline == 5_000)
        #expect(timer.nextExpiry == 4_000)
        #expect(timer.currentCount == 0)
        #expect(timer.advance(to: 3_999) == false)
        #expect(timer.advance(to: 4_000) == true)
        #expect(timer.deadline == 0)
        #expect(timer.advance(to: 10_000) == false)
        timer.setDeadline(20_000, at: 20_000)
        timer.setDeadline(0, at: 0)
        #expect(timer.nextExpiry == nil)
        // One that has passed.
        timer.setDeadline(1, at: 1)
        #expect(timer.advance(to: 10_000) == true)
    }

    @Test func theDeadlineIsAModeOfItsOwn() {
        var timer = Self.timer(.oneShot)
        timer.setDeadline(100, at: 100)
        #expect(timer.nextExpiry == nil)
        #expect(timer.deadline == 0)
        timer.start(100)
        timer.setMode(.deadline)
        #expect(timer.nextExpiry == nil)
        timer.start(100)
        #expect(timer.nextExpiry == nil)
        timer.setDeadline(100, at: 100)
        timer.setMode(.periodic)
        #expect(timer.nextExpiry == nil)
        #expect(timer.initialCount == 0)
        timer.setMode(.reserved)
        timer.start(7)
        #expect(timer.nextExpiry == nil)
    }
}
