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
