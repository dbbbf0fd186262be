import Testing

@testable import Execution

/// The clocks of a live guest.
@Suite struct GuestClockTests {
    @Test func `a virtual clock moves by its step at each exit, and only then`() {
        var clock = GuestClock(.virtual(nanosecondsPerExit: 250))
        #expect(clock.nanoseconds == 0)
        for _ in 0..<4 { clock.tick() }
        #expect(clock.nanoseconds == 1000)
        #expect(!clock.isHost)
    }

    @Test func `a virtual clock jumps over idle time and has nobody sleep`() {
        var clock = GuestClock(.virtual(nanosecondsPerExit: 250))
        #expect(clock.idle(until: 1_000_000_000_000) == 0)
        #expect(clock.nanoseconds == 1_000_000_000_000)
    }

    @Test func `a virtual clock never goes back`() {
        var clock = GuestClock(.virtual(nanosecondsPerExit: 250))
        clock.tick()
        #expect(clock.idle(until: 1) == 0)
        #expect(clock.nanoseconds >= 250)
    }

    @Test func `the counter's values have their times`() {
        var clock = GuestClock(.virtual(nanosecondsPerExit: 250))
        for _ in 0..<4 { clock.tick() }
        #expect(clock.time(of: 1000) == 1000)
        #expect(clock.time(of: 999) == 1000)  // beyond it already: now
        #expect(clock.time(of: 1001) == 1001)
        #expect(clock.time(of: .max) == .max)
        clock.setTimeStamp(10_000_000)
        #expect(clock.time(of: 10_000_000) == 1000)
        #expect(clock.time(of: 10_000_500) == 1500)
        #expect(clock.time(of: 1) == 1000)
        clock.setTimeStamp(0)
        #expect(clock.time(of: .max) == .max)
        #expect(clock.time(of: 500) == 1500)
    }

    @Test func `the host's clock says how long to sleep`() {
        var clock = GuestClock(.host)
        clock.tick()
        let start = clock.nanoseconds
        let hour: UInt64 = 3_600_000_000_000
        let nap = clock.idle(until: start + hour)
        // It has not jumped: what is left and what has passed make up the hour.
        #expect(clock.nanoseconds >= start)
        #expect(nap == start + hour - clock.nanoseconds)
        #expect(clock.idle(until: start) == 0)
        #expect(clock.isHost)
    }

    @Test func `clocks are spelled as the option takes them`() {
        #expect(ClockKind.host.name == "host")
        #expect(ClockKind.virtual(nanosecondsPerExit: 77).name == "virtual=77")
    }
}
