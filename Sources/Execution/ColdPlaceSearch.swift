/// Which of several places a landmark is put at: the policy, as a function of what was passed when.
///
/// A place that comes again within ``coldNanoseconds`` is hot and is dropped. One that stays away
/// for longer is taken when it does so twice more, or once more if another place was passed
/// meanwhile: time alone can be the host's, which had something else to do. Where all are hot, the
/// coldest of them is taken, if it stays away for ``hotNanoseconds``. No place is taken that did
/// not stay away for that long in this very search, whatever is known of it, but for one that never
/// came twice before ring 3 was left. What was learned is kept for the next search, and tried again
/// from time to time: of the last two measurements the shorter holds. (A moment in which the host
/// was busy makes a place look colder than it is, and replays would stop in a loop's innermost
/// place a thousand times as often; or hotter, if it fell on the measurement of a stop.)
struct ColdPlaceSearch {
    /// What to do at a place.
    enum Verdict: Equatable {
        /// The landmark stands here.
        case take
        /// Go on; stop here again.
        case keep
        /// Go on, and no longer stop here.
        case drop
    }

    /// How long a place must stay away. A replay passes it in about a third of that (two stops).
    static let coldNanoseconds: UInt64 = 250_000
    /// What comes again sooner is no place to settle for: a replay would stop there for several times
    /// as long as the guest ran, and come to the end of a loop over millions of elements never. It is
    /// about a quarter of what a stop takes; less than that a busy host lets nobody measure.
    let hotNanoseconds: UInt64
    private static let hotInRing0: UInt64 = 2000
    static let hotInRing3: UInt64 = 10_000
    /// How long after the begin of a search a place must come to be taken at once.
    static let surelyAway: UInt64 = 100_000
    /// How often a place must stay away long and come again before it is one; once less, where another
    /// came meanwhile. In ring 3, where a stop takes a hundred times as long as in ring 0, so does what
    /// bends a measurement.
    private let doubtLimit: Int

    /// A search that knows of no place yet.
    init(isRing3: Bool = true) {
        doubtLimit = isRing3 ? 2 : 1
        hotNanoseconds = isRing3 ? Self.hotInRing3 : Self.hotInRing0
    }

    /// How often a place is measured again in one search before it is dropped.
    static let measurementLimit = 6
    /// How long to look for one.
    static let boundNanoseconds: UInt64 = 3_000_000
    /// How many places to pass at most; what is not known to be cold then is dropped.
    static let passLimit = 128
    /// A place that did not come again for so long before ring 3 was left is held to be cold.
    static let leftNanoseconds: UInt64 = 30_000
    /// How many places are remembered.
    private static let memoryLimit = 128
    /// Searches after which what is known is tried again: first, and at most; doubled in between.
    private static let firstTrial = 2
    private static let lastTrial = 64

    private struct Seen {
        var address: UInt64
        var nanoseconds: UInt64
        var pass: Int
        /// How often in a row it stayed away long, for what reason is not known.
        var doubts = 0
        /// The shortest time that it was away and came again too soon.
        var shortest: UInt64 = .max
        /// How often it did, and yet was away for a while.
        var measurements = 0
    }

    private struct Known {
        var address: UInt64
        /// How long it stayed away when it was last measured, and the time before.
        var last: UInt64
        var before: UInt64 = .max
        var away: UInt64 { min(last, before) }
        /// Searches until it is tried again, and after how many that will be.
        var left = firstTrial
        var trial = firstTrial
        /// It was waited for in vain.
        var isAbsent = false
        /// How often it was held to be cold since ring 3 was left; 0 once that was measured. Once is
        /// no proof: a page fault may have cut the first round of a loop short.
        var assumptions = 0
        var isUnproven: Bool { assumptions == 1 }
    }

    private var known: [Known] = []
    /// Where it is looked.
    private(set) var places: [UInt64] = []
    private var seen: [Seen] = []
    private var passes = 0
    /// Since when it is looked there.
    private var began: UInt64 = 0
    /// What did not come in this search's first bound.
    private var waited: [UInt64] = []
    /// What the last stops took at which nothing was executed. It differs by a factor from host to
    /// host and with what else the host does, so nothing is assumed; before any place can come again,
    /// one was made there. Few are kept, and the middle one counts: a host that becomes busy makes all
    /// of them dearer at once, and a loop's innermost place would look cold until the last cheap one
    /// is forgotten.
    private var stops: [UInt64] = []
    private static let stopMemory = 3
    /// The places of the search that was last given up.
    private var hot: [UInt64] = []
    private static let longPatience = 16
    private static let shortPatience = 2
    /// Nothing colder is looked for: the next place is taken.
    private(set) var takesNext = false

    /// Begins a search among these places.
    ///
    /// - Parameter nanoseconds: the guest's time, as in ``pass(_:nanoseconds:)``.
    /// - Returns: Where to stop.
    mutating func begin(_ places: [UInt64], nanoseconds: UInt64 = 0) -> [UInt64] {
        self.places = places
        began = nanoseconds
        seen = []
        passes = 0
        waited = []
        takesNext = false
        for index in known.indices where places.contains(known[index].address) {
            known[index].left -= 1
        }
        let cold = places.filter { isCold($0) && !isAbsent($0) }
        if !cold.isEmpty { return cold }
        let tried = places.filter { settled($0) == nil && !isAbsent($0) }
        // What seldom comes is welcome, when it does.
        return tried.isEmpty
            ? settle(nanoseconds: nanoseconds) + places.filter { isAbsent($0) } : tried
    }

    /// Looks for nothing colder than what is known.
    ///
    /// - Returns: Where to stop beside the places that are waited for; none where nothing is known,
    ///   or nothing that a replay could stop at each time.
    mutating func settle(nanoseconds: UInt64) -> [UInt64] {
        takesNext = true
        began = nanoseconds
        let coldest = places.compactMap { place in known.first { $0.address == place } }
            .filter { $0.away >= hotNanoseconds && !$0.isUnproven && !$0.isAbsent }
            .max { $0.away < $1.away }
        return coldest.map { [$0.address] } ?? []
    }

    /// What of a run from stop to stop the guest had: what it took beyond a stop.
    func guestTime(of nanoseconds: UInt64) -> UInt64 {
        guard !stops.isEmpty else { return 0 }
        let stop = stops.sorted()[stops.count / 2]
        return nanoseconds > stop ? nanoseconds - stop : 0
    }

    /// A stop was made again at the place where the guest stood, with nothing executed in between.
    mutating func stopped(in nanoseconds: UInt64) {
        if stops.count == Self.stopMemory { stops.removeFirst() }
        stops.append(nanoseconds)
    }

    /// How long a place stays away, if that is known and need not be tried again.
    private func settled(_ address: UInt64) -> UInt64? {
        known.first { $0.address == address && $0.left > 0 && !$0.isUnproven }?.away
    }

    private func isCold(_ address: UInt64) -> Bool {
        (settled(address) ?? 0) >= Self.coldNanoseconds
    }

    /// Whether it was waited for in vain, and need not be again yet.
    private func isAbsent(_ address: UInt64) -> Bool {
        known.contains { $0.address == address && $0.isAbsent && $0.left > 0 }
    }

    /// Whether it was waited for in vain by an earlier search, and has come in this one: it may be
    /// the end of a loop in which the guest is by now.
    private func isBack(_ address: UInt64) -> Bool {
        known.contains { $0.address == address && $0.isAbsent } && !waited.contains(address)
    }

    private mutating func learn(_ address: UInt64, away: UInt64) {
        guard let index = known.firstIndex(where: { $0.address == address }) else {
            known.append(Known(address: address, last: away))
            if known.count > Self.memoryLimit { known.removeFirst() }
            return
        }
        known[index].before = known[index].last
        known[index].last = away
        known[index].assumptions = 0
        known[index].isAbsent = false
        doubt(index)
    }

    /// The longer something has held, the later it is tried again.
    private mutating func doubt(_ index: Int) {
        known[index].trial = min(known[index].trial * 2, Self.lastTrial)
        known[index].left = known[index].trial
    }

    /// The bound has passed: which of the places where it stops did not come is learned, so that an
    /// interrupt does not wait for them each time.
    mutating func passBound(waitingFor places: [UInt64]) {
        waited = places
        for place in places where !seen.contains(where: { $0.address == place }) {
            if let index = known.firstIndex(where: { $0.address == place }) {
                known[index].isAbsent = true
                doubt(index)
            } else {
                learn(place, away: .max)
                known[known.count - 1].isAbsent = true
            }
        }
    }

    /// Nothing that was learned of these places brought the guest to one: begins as if nothing were
    /// known of them.
    ///
    /// - Returns: Where to stop.
    mutating func beginAnew(nanoseconds: UInt64) -> [UInt64] {
        known.removeAll { places.contains($0.address) }
        return begin(places, nanoseconds: nanoseconds)
    }

    /// How many bounds an interrupt waits for a cold place before the machine is stored where it
    /// stands. In a loop in which that was so once, and which goes on, the next need not wait long.
    var patience: Int {
        places.contains(where: hot.contains) ? Self.shortPatience : Self.longPatience
    }

    /// None of the places was cold for as long as an interrupt can wait.
    mutating func giveUp() { hot = places }

    /// The guest stands at one of the places.
    ///
    /// - Parameter nanoseconds: the guest's time, without what stops take.
    mutating func pass(_ address: UInt64, nanoseconds: UInt64) -> Verdict {
        passes += 1
        if !isBack(address), takesNext || isCold(address) {
            return confirm(address, nanoseconds: nanoseconds)
        }
        guard passes < Self.passLimit else { return .drop }
        guard let index = seen.firstIndex(where: { $0.address == address }) else {
            seen.append(Seen(address: address, nanoseconds: nanoseconds, pass: passes))
            return .keep
        }
        let away = nanoseconds &- seen[index].nanoseconds
        guard away >= Self.coldNanoseconds else {
            let shortest = min(away, seen[index].shortest)
            // A stop takes now more, now less: what seems to stay away a little is measured again.
            if shortest >= hotNanoseconds, seen[index].measurements < Self.measurementLimit {
                seen[index] = Seen(
                    address: address, nanoseconds: nanoseconds, pass: passes, shortest: shortest,
                    measurements: seen[index].measurements + 1)
                return .keep
            }
            learn(address, away: shortest)
            seen.remove(at: index)
            return .drop
        }
        let doubts = seen[index].doubts
        if doubts >= doubtLimit || doubts >= doubtLimit - 1 && seen[index].pass < passes - 1 {
            learn(address, away: away)
            // What was seen before may have been shorter.
            return isCold(address) ? .take : .drop
        }
        seen[index] = Seen(
            address: address, nanoseconds: nanoseconds, pass: passes, doubts: doubts + 1)
        return .keep
    }

    /// Whether what is to be taken has been away for a while now too: what is known of it may be of
    /// when others called it, or of another program at the same address.
    private mutating func confirm(_ address: UInt64, nanoseconds: UInt64) -> Verdict {
        // Where ring 3 is left soon, nothing comes twice before that.
        if known.contains(where: { $0.address == address && $0.assumptions > 1 }) { return .take }
        let index = seen.firstIndex { $0.address == address }
        guard let index else {
            // The first run takes longer than those behind a stop.
            if nanoseconds &- began >= Self.surelyAway { return .take }
            seen.append(Seen(address: address, nanoseconds: nanoseconds, pass: passes))
            return .keep
        }
        let away = nanoseconds &- seen[index].nanoseconds
        if away >= hotNanoseconds { return .take }
        learn(address, away: away)
        seen.remove(at: index)
        return .drop
    }

    /// Ring 3 was left: what was passed once only, and not just now, is cold.
    mutating func leave(nanoseconds: UInt64) {
        for place in seen where nanoseconds &- place.nanoseconds >= Self.leftNanoseconds {
            guard let index = known.firstIndex(where: { $0.address == place.address }) else {
                learn(place.address, away: Self.coldNanoseconds)
                known[known.count - 1].assumptions = 1
                continue
            }
            let assumptions = known[index].assumptions
            learn(place.address, away: Self.coldNanoseconds)
            if assumptions > 0 { known[index].assumptions = 2 }
        }
    }
}
