import Machine
import Testing
import Trace

@testable import Execution

/// How a replay comes near a landmark by the counter.
@Suite struct LandmarkSearchTests {
    private static func search(
        at progress: UInt64, pace: CoastingPace = CoastingPace()
    ) -> LandmarkSearch {
        LandmarkSearch(
            Landmark(registers: GeneralRegisters(), state: .zero, progress: progress), pace: pace)
    }

    private static func slice(_ move: LandmarkSearch.Move) -> UInt64? {
        guard case .coast(let nanoseconds, _) = move else { return nil }
        return nanoseconds
    }

    @Test func `what one search saw of the guest's speed serves the next`() throws {
        var first = Self.search(at: 100_000)
        let assumed = try #require(
            Self.slice(first.next(count: 0, isAtBreakpoint: false)))
        first.noteCoast(nanoseconds: 900_000, instructions: 1000)
        let seen = try #require(Self.slice(first.next(count: 1000, isAtBreakpoint: false)))
        #expect(seen > assumed * 3 / 2)
        let pace = first.end()
        #expect(pace.nanosecondsPerInstruction == 900)
        var second = Self.search(at: 100_000, pace: pace)
        #expect(Self.slice(second.next(count: 1000, isAtBreakpoint: false)) == seen)
    }

    @Test func `a slice is two thirds of the way at the fastest of the last ones`() {
        var pace = CoastingPace()
        for each in [900, 700, 1100] as [UInt64] {
            pace.note(nanoseconds: each * 1000, instructions: 1000)
        }
        var search = Self.search(at: 3000, pace: pace)
        #expect(
            search.next(count: 0, isAtBreakpoint: false)
                == .coast(nanoseconds: 3000 * 700 * 2 / 3, isGuarded: true))
        // Some slices later it is forgotten.
        for _ in 0..<16 { pace.note(nanoseconds: 1_100_000, instructions: 1000) }
        #expect(pace.nanosecondsPerInstruction == 1100)
    }

    @Test func `a slow stretch does not make the next slice much longer`() {
        var pace = CoastingPace()
        pace.note(nanoseconds: 700_000, instructions: 1000)
        for _ in 0..<100 { pace.note(nanoseconds: 30_000_000, instructions: 1000) }
        #expect(pace.nanosecondsPerInstruction == 1400)
        // A few instructions are mostly the kick that ended them.
        pace.note(nanoseconds: 40_000, instructions: 32)
        #expect(pace.nanosecondsPerInstruction == 1250)
        pace.note(nanoseconds: 1, instructions: 15)
        #expect(pace.nanosecondsPerInstruction == 1250)
        // Nothing is faster than that, whatever a clock says.
        pace.note(nanoseconds: 0, instructions: 1000)
        #expect(pace.nanosecondsPerInstruction == 100)
    }

    @Test func `after an overshoot the guest is not let come so near, for a while`() {
        var pace = CoastingPace()
        let reserve = pace.reserve
        var late = Self.search(at: 1000, pace: pace)
        late.beginAgain()
        pace = late.end()
        #expect(pace.reserve == 2 * reserve)
        var next = Self.search(at: 1000, pace: pace)
        #expect(next.next(count: 1000 - 2 * reserve, isAtBreakpoint: false) == .runToBreakpoint)
        for _ in 0..<300 { pace.noteSearch() }
        #expect(pace.reserve == reserve)
        for _ in 0..<100 { pace.noteOvershoot() }
        #expect(pace.reserve <= 1024)
    }

    @Test func `near the place a tight loop is stepped, a wider one stopped at its breakpoint`() {
        let moves: [UInt64: LandmarkSearch.Move] = [3: .step, 7: .runToBreakpoint]
        for (loop, move) in moves {
            var search = Self.search(at: 1000)
            #expect(search.next(count: 950, isAtBreakpoint: false) == .runToBreakpoint)
            #expect(search.next(count: 951, isAtBreakpoint: true) == .step)
            #expect(search.next(count: 952, isAtBreakpoint: false) == .runToBreakpoint)
            #expect(search.next(count: 951 + loop, isAtBreakpoint: true) == .step)
            #expect(search.next(count: 952 + loop, isAtBreakpoint: false) == move)
        }
    }

    @Test func `behind a landmark in a hot loop one hit tells that this is one too`() {
        func hitsUntilFree(_ pace: CoastingPace) -> (Int, CoastingPace) {
            var search = Self.search(at: 10_000, pace: pace)
            var hits = 0
            while case .coast(_, isGuarded: true) = search.next(
                count: UInt64(hits * 20), isAtBreakpoint: false)
            {
                hits += 1
                _ = search.next(count: UInt64(hits * 20), isAtBreakpoint: true)
            }
            return (hits, search.end())
        }
        let (first, hot) = hitsUntilFree(CoastingPace())
        #expect(first == 4)
        let (second, _) = hitsUntilFree(hot)
        #expect(second == 1)
    }

    @Test func `a place that ring 3 may reach is approached by the fastest ever seen`() {
        var pace = CoastingPace()
        pace.note(nanoseconds: 900_000, instructions: 1000)
        var search = Self.search(at: 1000, pace: pace)
        search.mayBeInRing3 = true
        #expect(
            search.next(count: 0, isAtBreakpoint: false)
                == .coast(nanoseconds: 880 * 450 * 2 / 3, isGuarded: true))
        #expect(search.next(count: 770, isAtBreakpoint: false) == .step)
    }
}
