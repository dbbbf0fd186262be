/// How fast the guest runs while it coasts to a landmark, and how near it may be let: what one search
/// has seen serves the next.
///
/// Only a hint: a wrong one costs a second search, and never correctness.
struct CoastingPace: Sendable {
    /// What is assumed at first: faster than a ring 0 that is emulated has been seen.
    private static let startingNanoseconds: UInt64 = 450
    /// No emulated instruction is faster than this.
    private static let leastNanoseconds: UInt64 = 100
    /// A slice of fewer instructions than this is mostly the kick that ended it: it can only tell
    /// that the guest is faster than was thought.
    private static let tellingInstructions: UInt64 = 64
    /// Fewer tell nothing.
    private static let fewestInstructions: UInt64 = 16
    private static let window = 16
    /// A slow stretch may end at any time: so many times the shortest ever seen is the most that is
    /// assumed.
    private static let slowest: UInt64 = 2
    /// The reserve at first: three times what a kick's lateness was seen to come to in instructions.
    private static let startingReserve: UInt64 = 64
    private static let largestReserve: UInt64 = 1024
    /// Searches without an overshoot after which half of a larger reserve is tried again.
    private static let trialSearches = 256

    /// Instructions before a landmark from which on the guest is not let run by a timer.
    private(set) var reserve = Self.startingReserve
    /// The landmark before was in a hot loop: a single hit tells that this one is too.
    var isHot = false
    private var recent: InlineArray<16, UInt64> = InlineArray(repeating: .max)
    private var next = 0
    private var fastest = UInt64.max
    private var searches = 0

    /// What an instruction takes: an underestimate, the least of what the last slices showed.
    var nanosecondsPerInstruction: UInt64 {
        guard fastest < .max else { return Self.startingNanoseconds }
        return max(Self.leastNanoseconds, min(shortestRecent, fastest &* Self.slowest))
    }

    /// What an instruction took at least, ever.
    var shortestNanoseconds: UInt64 {
        max(Self.leastNanoseconds, min(Self.startingNanoseconds, fastest))
    }

    private var shortestRecent: UInt64 {
        var shortest = UInt64.max
        for index in recent.indices { shortest = min(shortest, recent[index]) }
        return shortest
    }

    /// The guest ran for a time. Waiting for the host is part of that, so that it can only seem
    /// slower than it is.
    mutating func note(nanoseconds: UInt64, instructions: UInt64) {
        guard instructions >= Self.fewestInstructions else { return }
        let each = max(1, nanoseconds / instructions)
        fastest = min(fastest, each)
        guard instructions >= Self.tellingInstructions || each < shortestRecent else { return }
        recent[next] = each
        next = (next + 1) % Self.window
    }

    /// A search is over that did not run past its place.
    mutating func noteSearch() {
        searches += 1
        guard searches >= Self.trialSearches, reserve > Self.startingReserve else { return }
        searches = 0
        reserve /= 2
    }

    /// The guest was let run too far.
    mutating func noteOvershoot() {
        searches = 0
        reserve = min(reserve * 2, Self.largestReserve)
    }
}
