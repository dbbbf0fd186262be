import Testing

@testable import Execution

/// Where a landmark in ring 3 is put.
@Suite struct ColdPlaceSearchTests {
    private static let millisecond: UInt64 = 1_000_000

    @Test func `a place that comes again at once is dropped, one that stays away is taken`() {
        var search = ColdPlaceSearch()
        #expect(search.begin([1, 2]) == [1, 2])
        #expect(search.pass(1, nanoseconds: 1000) == .keep)
        #expect(search.pass(1, nanoseconds: 2000) == .drop)
        #expect(search.pass(2, nanoseconds: 3000) == .keep)
        #expect(search.pass(3, nanoseconds: 4000) == .keep)
        #expect(search.pass(2, nanoseconds: Self.millisecond) == .keep)
        #expect(search.pass(3, nanoseconds: Self.millisecond + 1000) == .keep)
        #expect(search.pass(2, nanoseconds: 2 * Self.millisecond) == .take)
    }

    @Test func `time alone is believed the third time only`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        // Perhaps the host was busy.
        #expect(search.pass(1, nanoseconds: Self.millisecond) == .keep)
        var busy = search
        #expect(busy.pass(1, nanoseconds: Self.millisecond + 100) == .drop)
        #expect(search.pass(1, nanoseconds: 2 * Self.millisecond) == .keep)
        busy = search
        #expect(busy.pass(1, nanoseconds: 2 * Self.millisecond + 100) == .drop)
        #expect(search.pass(1, nanoseconds: 3 * Self.millisecond) == .take)
    }

    @Test func `what was learned is used the next time`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1, 2])
        #expect(search.pass(2, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 10) == .keep)
        #expect(search.pass(1, nanoseconds: 20) == .drop)
        #expect(search.pass(2, nanoseconds: Self.millisecond) == .keep)
        #expect(search.pass(2, nanoseconds: 2 * Self.millisecond) == .keep)
        #expect(search.pass(2, nanoseconds: 3 * Self.millisecond) == .take)
        // Only the cold one is waited for, and taken at once.
        #expect(search.begin([1, 2]) == [2])
        var again = search
        #expect(search.pass(2, nanoseconds: 120_000) == .take)
        // But where it comes soon, only if it then stays away.
        #expect(again.pass(2, nanoseconds: 1000) == .keep)
        var other = again
        #expect(again.pass(2, nanoseconds: 21_000) == .take)
        #expect(other.pass(2, nanoseconds: 1010) == .drop)
        #expect(other.begin([1, 2]).contains(2) == false)
    }

    @Test func `where all are hot, the coldest is taken`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 1000) == .drop)
        #expect(search.pass(2, nanoseconds: 2000) == .keep)
        #expect(search.measure(2, from: 2000, every: 98_000) == .drop)
        #expect(search.settle(nanoseconds: 0) == [2])
        #expect(search.pass(2, nanoseconds: 900_000) == .take)
        #expect(search.begin([1, 2], nanoseconds: 1_000_000) == [2])
        #expect(search.takesNext)
        #expect(search.pass(2, nanoseconds: 1_000_000) == .keep)
        #expect(search.pass(2, nanoseconds: 1_098_000) == .take)
    }

    @Test func `what is known is tried again, and of two times the shorter holds`() throws {
        var search = ColdPlaceSearch()
        // The host was busy when the hot one was passed.
        _ = search.begin([1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(2, nanoseconds: 10) == .keep)
        #expect(search.pass(1, nanoseconds: Self.millisecond) == .keep)
        #expect(search.pass(1, nanoseconds: 2 * Self.millisecond) == .keep)
        #expect(search.pass(1, nanoseconds: 3 * Self.millisecond) == .take)
        #expect(search.begin([1, 2]) == [1])
        // Its time has come.
        #expect(search.begin([1, 2]) == [1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 100) == .drop)
        #expect(search.pass(2, nanoseconds: 200) == .keep)
        #expect(search.measure(2, from: 200, every: 50_000) == .drop)
        #expect(search.settle(nanoseconds: 0) == [2])
        // However long it stays away once more.
        for _ in 0..<8 { #expect(search.begin([1, 2]) != [1]) }
    }

    @Test func `what a busy host bent is measured again where nothing is left`() {
        var search = ColdPlaceSearch()
        #expect(search.begin([1, 2]) == [1, 2])
        // A stop was dear when it was measured: nothing seems to be between two of them.
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(2, nanoseconds: 10) == .keep)
        #expect(search.pass(1, nanoseconds: 10) == .drop)
        #expect(search.pass(2, nanoseconds: 10) == .drop)
        #expect(search.settle(nanoseconds: 0) == [])
        #expect(search.beginAnew(nanoseconds: 0) == [1, 2])
        #expect(search.pass(1, nanoseconds: 20) == .keep)
        #expect(search.pass(2, nanoseconds: 10_000) == .keep)
        for round in 1...2 as ClosedRange<UInt64> {
            #expect(search.pass(1, nanoseconds: 20 + round * 300_000) == .keep)
        }
        #expect(search.pass(1, nanoseconds: 900_020) == .take)
    }

    @Test func `in a loop without a cold place the next interrupt waits less long`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1, 2])
        let patience = search.patience
        search.giveUp()
        // The same loop, seen from elsewhere in it.
        _ = search.begin([2, 3])
        #expect(search.patience < patience)
        _ = search.begin([4])
        #expect(search.patience == patience)
    }

    @Test func `what twice did not come again before ring 3 was left is cold`() {
        var search = ColdPlaceSearch()
        func round() {
            _ = search.pass(1, nanoseconds: 0)
            _ = search.pass(2, nanoseconds: 99_000)
            search.leave(nanoseconds: 100_000)
        }
        _ = search.begin([1, 2])
        round()
        // A fault may have cut a loop's first round short.
        #expect(search.begin([1, 2]) == [1, 2])
        round()
        #expect(search.begin([1, 2]) == [1])
        #expect(search.pass(1, nanoseconds: 0) == .take)
    }

    @Test func `a loop whose first round was cut short is not taken for cold`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1])
        _ = search.pass(1, nanoseconds: 0)
        search.leave(nanoseconds: 100_000)
        #expect(search.begin([1]) == [1])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 10) == .drop)
        // Nor is it settled for: the interrupt waits for the loop to end.
        #expect(search.settle(nanoseconds: 0) == [])
    }

    @Test func `one stop that took long does not make a loop a place to settle for`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 40_000) == .keep)
        #expect(search.pass(1, nanoseconds: 40_010) == .drop)
        #expect(search.settle(nanoseconds: 0) == [])
        #expect(search.begin([1]) == [])
    }

    @Test func `a place that never comes is not waited for each time`() {
        var search = ColdPlaceSearch()
        #expect(search.begin([1, 2]) == [1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.measure(1, from: 0, every: 15_000) == .drop)
        search.passBound(waitingFor: [2])
        #expect(search.settle(nanoseconds: 0) == [1])
        // What comes back may be the end of a loop in which the guest is now.
        var back = search
        _ = back.begin([1, 2])
        #expect(back.takesNext)
        #expect(back.pass(2, nanoseconds: 15_000) == .keep)
        #expect(back.pass(2, nanoseconds: 15_010) == .drop)
        #expect(back.pass(1, nanoseconds: 115_020) == .take)
        // Unless it was waited for all the time.
        back = search
        _ = back.begin([1, 2])
        back.passBound(waitingFor: [2])
        #expect(back.pass(2, nanoseconds: Self.millisecond) == .take)
        // What is known at once: the loop is settled for, and its end taken if that should come.
        #expect(search.begin([1, 2]) == [1, 2])
        #expect(search.takesNext)
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 15_000) == .take)
        // It is looked for again from time to time.
        #expect((0..<4).contains { _ in search.begin([1, 2]).contains(2) && !search.takesNext })
        #expect(search.pass(2, nanoseconds: 0) == .keep)
        search.leave(nanoseconds: 1_000_000)
        #expect(search.begin([1, 2]).contains(2))
    }

    @Test func `what a stop takes is measured, and no part of the guest's time`() {
        var search = ColdPlaceSearch()
        #expect(search.guestTime(of: 61_000) == 0)
        search.stopped(in: 60_000)
        #expect(search.guestTime(of: 61_000) == 1000)
        // A busy host makes some stops dearer, or one cheaper.
        search.stopped(in: 90_000)
        search.stopped(in: 60_000)
        #expect(search.guestTime(of: 61_000) == 1000)
        search.stopped(in: 20_000)
        #expect(search.guestTime(of: 61_000) == 1000)
        // Two of three: that is what a stop takes now.
        for _ in 0..<2 { search.stopped(in: 70_000) }
        #expect(search.guestTime(of: 61_000) == 0)
        #expect(search.guestTime(of: 75_000) == 5000)
    }

    /// Each stop takes twice as long from the second on.
    @Test func `a host that becomes busy makes no loop cold`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1])
        var guestNanoseconds: UInt64 = 0
        var verdict = ColdPlaceSearch.Verdict.keep
        var rounds = 0
        while verdict == .keep, rounds < 20 {
            let stop: UInt64 = rounds < 1 ? 50_000 : 100_000
            guestNanoseconds += search.guestTime(of: stop + 2)
            verdict = search.pass(1, nanoseconds: guestNanoseconds)
            search.stopped(in: stop)
            rounds += 1
        }
        #expect(verdict == .drop)
        #expect(search.settle(nanoseconds: guestNanoseconds) == [])
    }

    @Test func `a search ends after so many passes, and what it does not know by then is dropped`()
    {
        var search = ColdPlaceSearch()
        _ = search.begin([0])
        var passes: UInt64 = 1
        while search.pass(passes, nanoseconds: 0) == .keep { passes += 1 }
        #expect(passes == ColdPlaceSearch.passLimit)
        #expect(search.pass(1, nanoseconds: ColdPlaceSearch.hotInRing3) == .drop)
        #expect(search.settle(nanoseconds: 0) == [])
    }
}

extension ColdPlaceSearch {
    /// Passes a place that comes again and again until it is no longer measured.
    fileprivate mutating func measure(
        _ address: UInt64, from start: UInt64, every period: UInt64
    ) -> Verdict {
        for round in 1...UInt64(Self.measurementLimit) {
            #expect(pass(address, nanoseconds: start + round * period) == .keep)
        }
        return pass(address, nanoseconds: start + UInt64(Self.measurementLimit + 1) * period)
    }
}
