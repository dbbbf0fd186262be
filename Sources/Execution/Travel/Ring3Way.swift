internal import KVM
internal import Machine

/// A place: its name, or that of where its stretch of ring 3 begins and the way on from there.
struct Place {
    var position: Position
    var way: Ring3Way?
}

/// A place in ring 3 by how ring 3 is run to it at full speed: from a place with a name, past so many
/// hits of a goal, and so many steps on or back (``Ring3Approach``).
///
/// Its name, ``Position/ring3``, is a count of steps that only stepping tells: millions of them take
/// minutes, and hardly anybody asks. A way leads to the same place each time, since a stretch of
/// ring 3 does the same each time.
struct Ring3Way: Equatable, Sendable {
    struct Leg: Equatable, Sendable {
        var goal: Ring3Goal
        var hits: UInt64
        /// Below zero: back.
        var steps: Int64 = 0
    }

    /// Where ring 3 is entered, or a place in it that has a name.
    var entry: Position
    /// One after the other; a way to a place without a name has one at least.
    var legs: [Leg] = []

    /// On to the next hit of a goal.
    mutating func hit(_ goal: Ring3Goal, times: UInt64 = 1) {
        guard times > 0 else { return }
        // One step from a hit is what a run begins with.
        if let last = legs.last, 0...1 ~= last.steps, last.goal == goal {
            legs[legs.count - 1].hits += times
            legs[legs.count - 1].steps = 0
        } else {
            legs.append(Leg(goal: goal, hits: times))
        }
    }

    /// On to the last place of the stretch.
    mutating func end() { legs.append(Leg(goal: .end, hits: 1, steps: -1)) }

    /// One step on.
    mutating func step() {
        guard !legs.isEmpty else { return }
        legs[legs.count - 1].steps += 1
    }

    /// The way to the place one step before; nil where only steps from the hit before lead there.
    var stepBefore: Ring3Way? {
        guard let last = legs.last, last.steps > 0 else { return nil }
        var way = self
        way.legs[legs.count - 1].steps -= 1
        return way
    }

    /// Whether a goal can be looked out for on it: there is one shield at a time.
    func canLookOut(for goal: Ring3Goal) -> Bool {
        goal.shield == nil
            || legs.allSatisfy { $0.goal.shield == nil || $0.goal.shield == goal.shield }
    }

    /// Whether it leads to a place, and then back from it.
    func beginsBack(from target: Ring3Way) -> Bool {
        let count = target.legs.count
        guard entry == target.entry, count > 0, legs.count >= count, legs[count - 1].steps < 0
        else { return false }
        var part = Ring3Way(entry: entry, legs: Array(legs.prefix(count)))
        part.legs[count - 1].steps = 0
        return part == target
    }

    /// The last hit, from which the rest are steps.
    var lastHit: Ring3Way {
        var way = self
        if !legs.isEmpty { way.legs[legs.count - 1].steps = 0 }
        return way
    }

    /// An earlier place on a way that ends with a hit: at most so many hits before, and in any case no
    /// earlier than the leg; and the hits that lead on from there. Nil where no hit ends the way.
    func base(hitsBefore count: UInt64) -> (way: Ring3Way, goal: Leg)? {
        guard var goal = legs.last, goal.steps == 0 else { return nil }
        var way = self
        if goal.hits > count {
            way.legs[legs.count - 1].hits -= count
            goal.hits = count
        } else {
            way.legs.removeLast()
        }
        return (way, goal)
    }
}

/// Places in ring 3 that have no name yet.
extension TimeMachine {
    /// Whether ``position`` is the name of where the machine stands. It is not deep in ring 3, where
    /// the machine came to a breakpoint at full speed: it is that of the stretch's beginning then.
    public var isNamed: Bool { way == nil }

    /// The position as text: `12+3.?` where it has no name yet.
    public var positionText: String {
        guard way != nil else { return position.description }
        var stretch = position
        stretch.ring3 = nil
        let text = stretch.description
        return (stretch.instructions == 0 ? "\(text)+0" : text) + ".?"
    }

    /// Finds the name of the place by stepping to it from where ring 3 was entered; the machine stands
    /// there again.
    ///
    /// - Parameter limit: at most so many steps.
    /// - Returns: false where it was interrupted, or is further: the place has no name as before.
    @discardableResult
    public mutating func name(
        limit: UInt64 = .max, isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> Bool {
        guard let way else { return true }
        try go(to: way.entry)
        var place = position
        // What leads to ring 3 counts.
        if !isInRing3 { place.instructions += 1 }
        let last = limit == .max ? .max : (way.entry.ring3 ?? 0) &+ limit
        for leg in way.legs {
            var hits: UInt64 = 0
            while hits < leg.hits {
                let ran = try walkRing3(to: last, leg.goal, nil, isInterrupted)
                if case .kicked = ran {
                    try go(along: way)
                    return false
                }
                if !isAtTouch, standing != .inRing3 {
                    guard leg.goal.isEnd else { throw Self.lost(way) }
                    ring3Steps += 1
                } else if !isAt(leg.goal) {
                    // The limit.
                    try go(along: way)
                    return false
                }
                hits += 1
            }
            if leg.steps > 0 {
                let ran = try walkRing3(
                    to: ring3Steps + leg.steps.magnitude, Ring3Goal(), nil, isInterrupted)
                if case .kicked = ran {
                    try go(along: way)
                    return false
                }
                guard standing == .inRing3 else { throw Self.lost(way) }
            } else if leg.steps < 0 {
                place.ring3 = ring3Steps - leg.steps.magnitude
                try comeToRest()
                guard try go(to: place, isInterrupted: isInterrupted).isReached else {
                    try go(along: way)
                    return false
                }
            }
        }
        try comeToRest()
        return true
    }

    /// Goes along a way, at full speed.
    mutating func go(along way: Ring3Way) throws(ExecutionError) {
        guard !way.legs.isEmpty else {
            guard try go(to: way.entry, isInterrupted: { false }).isReached else {
                throw Self.lost(way)
            }
            return
        }
        try go(to: way.entry)
        guard try follow(way, past: Ring3Goal(), [], { false }).isThere else {
            throw Self.lost(way)
        }
    }

    /// The last stop on a way, its end apart; the machine stands somewhere on the way then.
    ///
    /// - Parameters:
    ///   - goal: what may stop.
    ///   - watched: what the goal's shield is for.
    /// - Returns: nil for the stop: there is none.
    mutating func lastStop(
        at goal: Ring3Goal, _ watched: [Watchpoint], on way: Ring3Way, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> (stop: (way: Ring3Way, stop: TravelStop)?, isInterrupted: Bool) {
        try go(to: way.entry)
        let found = try follow(way, past: goal, watched, isInterrupted)
        return (found.last, !found.isThere)
    }

    /// Follows a way from its entry, where the machine stands.
    private mutating func follow(
        _ way: Ring3Way, past: Ring3Goal, _ watched: [Watchpoint], _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> (isThere: Bool, last: (way: Ring3Way, stop: TravelStop)?) {
        stopClock()
        var seen = SeenHits(past)
        var lookout = Lookout(watched, &self)
        var gone = Ring3Way(entry: way.entry)
        // Nothing has to be run to where an approach leads back from.
        let known = past.isEmpty ? approach?.target : nil
        let passedLegs = known.map { way.beginsBack(from: $0) ? $0.legs.count : 0 } ?? 0
        // A breakpoint where the way begins.
        if isInRing3, past.addresses.contains(linearRIP.rawValue) {
            seen.add(hits: 0, steps: 0, after: gone, .breakpoint(linearRIP))
        }
        for (index, leg) in way.legs.enumerated() {
            let isLast = index == way.legs.count - 1
            if index + 1 < passedLegs {
                gone.legs.append(leg)
                continue
            }
            let before = gone
            var hits: UInt64 = index < passedLegs ? leg.hits : 0
            var passed: UInt64 = 0
            while hits < leg.hits {
                let isPassing = isAt(past) || isAt(leg.goal)
                var passing = lookout.passing
                if leg.goal.shield != nil {
                    passing.limit = min(passing.limit, leg.hits - hits - 1)
                }
                try lookout.look(&self)
                let hit = try runRing3(
                    [leg.goal, past], passing: &passing, isInterrupted,
                    stopsBehind: lookout.isNeeded)
                if leg.goal.shield != nil { hits += passing.count }
                if past.shield != nil, passing.count > 0 {
                    passed += passing.count
                    seen.add(hits: passed, steps: 0, after: before, nil, count: passing.count)
                }
                if isPassing || passing.count > 0, let change = try lookout.changes(&self) {
                    seen.note(change)
                }
                switch hit {
                case .interrupted: return (false, seen.last(on: way))
                case .lost: throw Self.lost(way)
                case .left where !leg.goal.isEnd: throw Self.lost(way)
                default: break
                }
                if leg.goal.includes(hit) { hits += 1 }
                guard past.includes(hit) else { continue }
                passed += 1
                let isEnd = hits == leg.hits && (leg.steps < 0 || isLast && leg.steps == 0)
                var stop: TravelStop?
                if case .stop(let address) = hit {
                    stop = .breakpoint(GuestVirtualAddress(address))
                }
                if !isEnd { seen.add(hits: passed, steps: 0, after: before, stop) }
            }
            gone.legs.append(Ring3Way.Leg(goal: leg.goal, hits: leg.hits))
            if leg.steps < 0 {
                let target = gone
                let steps = leg.steps.magnitude
                if !past.isEmpty {
                    // Those on the way back are ahead again.
                    seen.removeLast(try self.hits(of: past, inLast: steps, before: target))
                }
                try goBack(steps, from: target)
                gone.legs[index].steps = leg.steps
                if past.addresses.contains(linearRIP.rawValue), !isLast {
                    seen.add(
                        hits: leg.hits, steps: leg.steps, after: before, .breakpoint(linearRIP),
                        of: leg.goal)
                }
                lookout.begin(&self)
                continue
            }
            for step in 0..<max(leg.steps, 0) {
                try lookout.look(&self)
                guard case .stopped = try stepRing3Again(), standing == .inRing3 else {
                    throw Self.lost(way)
                }
                gone.step()
                if let change = try lookout.changes(&self) {
                    seen.add(hits: leg.hits, steps: step, after: before, change, of: leg.goal)
                }
                if past.addresses.contains(linearRIP.rawValue), !isLast || step + 1 < leg.steps {
                    seen.add(
                        hits: leg.hits, steps: step + 1, after: before, .breakpoint(linearRIP),
                        of: leg.goal)
                }
            }
        }
        standing = .inRing3
        ring3Steps = way.entry.ring3 ?? 0
        self.way = way
        try comeToRest()
        return (true, seen.last(on: way))
    }

    /// What becomes of watched memory, instruction by instruction, where its shield stops ring 3.
    private struct Lookout {
        private var journey: Journey
        private var glance: Glance?

        /// Whether anything is watched.
        var isNeeded: Bool { !journey.course.watched.isEmpty }
        /// Touches that need not be looked at one by one.
        var passing: TouchPassing {
            TouchPassing(
                limit: journey.watchesReads ? 0 : .max, journey.course.watched, journey.contents)
        }

        init(_ watched: [Watchpoint], _ machine: inout TimeMachine) {
            journey = Journey(Course(watched: watched))
            begin(&machine)
        }

        /// What the memory holds now is what it held before.
        mutating func begin(_ machine: inout TimeMachine) {
            journey.contents = journey.course.watched.map { machine.bytes(of: $0) }
            journey.touches.clear()
            journey.placeBefore = Place(position: Position(exitCount: machine.loop.exitCount))
        }

        /// Before an instruction.
        mutating func look(_ machine: inout TimeMachine) throws(ExecutionError) {
            glance = journey.watchesReads ? try machine.glance() : nil
        }

        /// After it: what it did, if anything.
        mutating func changes(
            _ machine: inout TimeMachine
        ) throws(ExecutionError) -> TravelStop? {
            guard isNeeded else { return nil }
            if let glance { machine.note(glance, &journey) }
            guard case .touch(let hit) = try machine.touch(&journey) else { return nil }
            begin(&machine)
            return .watchpoint(hit)
        }
    }

    /// Hits of a goal that a way has passed.
    private struct SeenHits {
        private struct Hit {
            /// How many legs of the way come before.
            var legs: Int
            var last: Ring3Way.Leg?
            /// What it means to who goes back; nil: nothing.
            var stop: TravelStop?
        }

        private let goal: Ring3Goal
        /// How many were passed in all.
        private var count = 0
        /// Those that mean something, with their number.
        private var hits: [(hit: Hit, number: Int)] = []
        private var latest: Hit?

        init(_ goal: Ring3Goal) { self.goal = goal }

        /// Adds one: so many hits, of this goal or another, and so many steps on.
        ///
        /// - Parameter number: how many hits of this goal it is the last of.
        mutating func add(
            hits count: UInt64, steps: Int64, after way: Ring3Way, _ stop: TravelStop?,
            of other: Ring3Goal? = nil, count number: UInt64 = 1
        ) {
            let leg = Ring3Way.Leg(goal: other ?? goal, hits: count, steps: steps)
            latest = Hit(legs: way.legs.count, last: count > 0 ? leg : nil)
            self.count += Int(clamping: number)
            if let stop { note(stop) }
        }

        /// The last one turned out to mean something, or something else.
        mutating func note(_ stop: TravelStop) {
            guard let latest else { return }
            if hits.last?.number == count { hits.removeLast() }
            var hit = latest
            hit.stop = stop
            hits.append((hit, count))
        }

        mutating func removeLast(_ number: Int) {
            count -= min(number, count)
            hits.removeAll { $0.number > count }
            latest = nil
        }

        func last(on way: Ring3Way) -> (way: Ring3Way, stop: TravelStop)? {
            guard let hit = hits.last?.hit, let stop = hit.stop else { return nil }
            var found = way
            found.legs = Array(way.legs.prefix(hit.legs)) + (hit.last.map { [$0] } ?? [])
            return (found, stop)
        }
    }

    /// A step that a kick does not count for.
    mutating func stepRing3Again(_ shield: Shield? = nil) throws(ExecutionError) -> Ran {
        while true {
            let ran = try stepRing3(shield)
            guard case .kicked = ran else { return ran }
        }
    }

    /// Goes to a place from which ring 3 goes on.
    mutating func go(to entry: Position) throws(ExecutionError) {
        try restore(keyframes.index(atOrBefore: entry))
        if position != entry {
            guard
                try attempt(Course(limit: entry, keepsFrames: false), isInterrupted: { false })
                    .isReached, position == entry
            else { throw Self.lost(Ring3Way(entry: entry)) }
        }
        try beginAnchors()
    }

    static func lost(_ way: Ring3Way) -> ExecutionError {
        .kvm(.malformed("ring 3 that does not do after \(way.entry) what it did before"))
    }

    /// One step back from a place without a name; nil where it has a name now, and no step was made.
    mutating func stepBack(
        from way: Ring3Way, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        if let before = way.stepBefore {
            try go(along: before)
            return .reached
        }
        let target = way.lastHit
        let steps = (way.legs.last?.steps.magnitude ?? 0) + 1
        switch try approach(target, steps: steps, isInterrupted) {
        case .interrupted:
            try go(along: way)
            return .interrupted
        case .ready:
            var before = way
            before.legs[way.legs.count - 1].steps -= 1
            try go(along: before)
        case .base:
            // So many steps before it there is another way, or a place with a name.
            guard let base = approach?.base else { throw Self.lost(way) }
            if base.legs.isEmpty {
                try go(to: base.entry)
            } else {
                try go(along: base)
            }
        }
        return .reached
    }
}
