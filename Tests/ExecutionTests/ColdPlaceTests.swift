import Testing

@testable import Execution

/// Where a landmark in ring 3 is put.
@Suite struct ColdPlaceTests {
    private static let millisecond: UInt64 = 1_000_000

    @Test func `a place that comes again at once is dropped, one that stays away is taken`() {
        var search = ColdPlaceSearch()
        #expect(search.begin([1, 2]) == [1, 2])
        #expect(search.pass(1, nanoseconds: 1000) == .keep)
        #expect(search.pass(1, nanoseconds: 2000) == .drop)
        #expect(search.pass(2, nanoseconds: 3000) == .keep)
        #expect(search.pass(3, nanoseconds: 4000) == .keep)
        #expect(search.pass(2, nanoseconds: Self.millisecond) == .take)
    }

    @Test func `time alone is believed the second time only`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        // Perhaps the host was busy.
        #expect(search.pass(1, nanoseconds: Self.millisecond) == .keep)
        var busy = search
        #expect(busy.pass(1, nanoseconds: Self.millisecond + 100) == .drop)
        #expect(search.pass(1, nanoseconds: 2 * Self.millisecond) == .take)
    }

    @Test func `what was learned is used the next time`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1, 2])
        #expect(search.pass(2, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 10) == .keep)
        #expect(search.pass(1, nanoseconds: 20) == .drop)
        #expect(search.pass(2, nanoseconds: Self.millisecond) == .take)
        // Only the cold one is waited for, and taken at once.
        #expect(search.begin([1, 2]) == [2])
        #expect(search.pass(2, nanoseconds: 0) == .take)
    }

    @Test func `where all are hot, the coldest is taken`() {
        var search = ColdPlaceSearch()
        _ = search.begin([1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 1000) == .drop)
        #expect(search.pass(2, nanoseconds: 2000) == .keep)
        #expect(search.pass(2, nanoseconds: 100_000) == .drop)
        #expect(search.settle() == [2])
        #expect(search.pass(2, nanoseconds: 200_000) == .take)
        #expect(search.begin([1, 2]) == [2])
        #expect(search.takesNext)
    }

    @Test func `what is known is tried again, and the shortest time holds`() throws {
        var search = ColdPlaceSearch()
        // The host was busy when the hot one was passed.
        _ = search.begin([1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(2, nanoseconds: 10) == .keep)
        #expect(search.pass(1, nanoseconds: Self.millisecond) == .take)
        #expect(search.begin([1, 2]) == [1])
        // Its time has come.
        #expect(search.begin([1, 2]) == [1, 2])
        #expect(search.pass(1, nanoseconds: 0) == .keep)
        #expect(search.pass(1, nanoseconds: 100) == .drop)
        #expect(search.pass(2, nanoseconds: 200) == .keep)
        #expect(search.pass(2, nanoseconds: 50_000) == .drop)
        #expect(search.settle() == [2])
        // However long it stays away once more.
        for _ in 0..<8 { #expect(search.begin([1, 2]) != [1]) }
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
        #expect(search.settle() == [])
    }

    @Test func `a search ends after so many passes`() {
        var search = ColdPlaceSearch()
        _ = search.begin([0])
        var passes = 0
        while search.pass(UInt64(passes), nanoseconds: 0) != .take { passes += 1 }
        #expect(passes == ColdPlaceSearch.passLimit - 1)
    }
}
