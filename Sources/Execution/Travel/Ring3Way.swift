internal import KVM
internal import Machine

/// A place in ring 3 by how ring 3 is run to it at full speed: from a place with a name, past so many
/// hits of some breakpoints, and so many steps on or back (``Ring3Approach``).
///
/// Its name, ``Position/ring3``, is a count of steps that only stepping tells: millions of them take
/// minutes, and hardly anybody asks. A way leads to the same place each time, since a stretch of
/// ring 3 does the same each time.
struct Ring3Way: Equatable, Sendable {
    struct Leg: Equatable, Sendable {
        var addresses: [UInt64]
        var hits: UInt64
        /// Below zero: back.
        var steps: Int64 = 0
    }

    /// Where ring 3 is entered, or a place in it that has a name.
    var entry: Position
    /// One after the other; a way to a place without a name has one at least.
    var legs: [Leg] = []

    /// On to the next hit of one of these.
    mutating func hit(_ addresses: [UInt64]) {
        if let last = legs.last, last.steps == 0, last.addresses == addresses {
            legs[legs.count - 1].hits += 1
        } else {
            legs.append(Leg(addresses: addresses, hits: 1))
        }
    }

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
        let last = limit == .max ? .max : (way.entry.ring3 ?? 0) &+ limit
        for leg in way.legs {
            let addresses = leg.addresses.map { GuestVirtualAddress($0) }
            var hits: UInt64 = 0
            while hits < leg.hits {
                let ran = try walkRing3(to: last, addresses, nil, isInterrupted)
                if try isUnnamed(ran, way) { return false }
                if addresses.contains(linearRIP) {
                    hits += 1
                } else {
                    try go(along: way)
                    return false
                }
            }
            if leg.steps > 0 {
                let ran = try walkRing3(
                    to: ring3Steps + leg.steps.magnitude, [], nil, isInterrupted)
                if try isUnnamed(ran, way) { return false }
            } else if leg.steps < 0 {
                try comeToRest()
                var place = position
                place.ring3 = ring3Steps - leg.steps.magnitude
                guard try go(to: place, isInterrupted: isInterrupted).isReached else {
                    try go(along: way)
                    return false
                }
            }
        }
        try comeToRest()
        return true
    }

    /// Whether counting was interrupted; the machine stands at the end of the way again then.
    private mutating func isUnnamed(_ ran: Ran, _ way: Ring3Way) throws(ExecutionError) -> Bool {
        if case .kicked = ran {
            try go(along: way)
            return true
        }
        guard case .stopped = ran, standing == .inRing3 else { throw Self.lost(way) }
        return false
    }

    /// Goes along a way, at full speed.
    mutating func go(along way: Ring3Way) throws(ExecutionError) {
        try go(to: way.entry)
        guard try follow(way, past: [], { false }).isThere else { throw Self.lost(way) }
    }

    /// The last hit of some breakpoints on a way, its end apart; the machine stands somewhere on the
    /// way then. Nil: there is none.
    mutating func lastHit(
        of stops: [GuestVirtualAddress], on way: Ring3Way, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> (way: Ring3Way?, isInterrupted: Bool) {
        try go(to: way.entry)
        let found = try follow(way, past: stops.map(\.rawValue), isInterrupted)
        return (found.last, !found.isThere)
    }

    /// Follows a way from its entry, where the machine stands.
    private mutating func follow(
        _ way: Ring3Way, past stops: [UInt64], _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> (isThere: Bool, last: Ring3Way?) {
        stopClock()
        var seen = SeenHits(stops)
        var gone = Ring3Way(entry: way.entry)
        // Nothing has to be run to where an approach leads back from.
        let known = stops.isEmpty ? approach?.target : nil
        let passedLegs = known.map { way.beginsBack(from: $0) ? $0.legs.count : 0 } ?? 0
        // A breakpoint where the way begins.
        if isInRing3, stops.contains(linearRIP.rawValue) {
            seen.add(hits: 0, steps: 0, after: gone)
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
                let planted = leg.addresses + stops.filter { !leg.addresses.contains($0) }
                let address: UInt64
                switch try runRing3(planted, isInterrupted) {
                case .stop(let place): address = place
                case .interrupted: return (false, seen.last(on: way))
                case .left: throw Self.lost(way)
                }
                if leg.addresses.contains(address) { hits += 1 }
                guard stops.contains(address) else { continue }
                passed += 1
                let isEnd = hits == leg.hits && (leg.steps < 0 || isLast && leg.steps == 0)
                if !isEnd { seen.add(hits: passed, steps: 0, after: before) }
            }
            gone.legs.append(Ring3Way.Leg(addresses: leg.addresses, hits: leg.hits))
            if leg.steps < 0 {
                let target = gone
                let steps = leg.steps.magnitude
                if !stops.isEmpty {
                    // Those on the way back are ahead again.
                    seen.removeLast(
                        try self.hits(of: stops, inLast: steps, before: target))
                }
                try goBack(steps, from: target)
                gone.legs[index].steps = leg.steps
                continue
            }
            for step in 0..<max(leg.steps, 0) {
                guard case .stopped = try stepRing3Again(), standing == .inRing3 else {
                    throw Self.lost(way)
                }
                gone.step()
                if stops.contains(linearRIP.rawValue), !isLast || step + 1 < leg.steps {
                    seen.add(hits: leg.hits, steps: step + 1, after: before, of: leg.addresses)
                }
            }
        }
        standing = .inRing3
        ring3Steps = way.entry.ring3 ?? 0
        self.way = way
        try comeToRest()
        return (true, seen.last(on: way))
    }

    /// Hits of breakpoints that a way has passed.
    private struct SeenHits {
        private struct Hit {
            /// How many legs of the way come before.
            var legs: Int
            var last: Ring3Way.Leg?
        }

        private let stops: [UInt64]
        private var hits: [Hit] = []

        init(_ stops: [UInt64]) { self.stops = stops }

        /// Adds one: so many hits, of the breakpoints or of others, and so many steps on.
        mutating func add(
            hits count: UInt64, steps: Int64, after way: Ring3Way, of addresses: [UInt64]? = nil
        ) {
            let leg = Ring3Way.Leg(addresses: addresses ?? stops, hits: count, steps: steps)
            hits.append(Hit(legs: way.legs.count, last: count > 0 ? leg : nil))
        }

        mutating func removeLast(_ count: Int) { hits.removeLast(min(count, hits.count)) }

        func last(on way: Ring3Way) -> Ring3Way? {
            guard let hit = hits.last else { return nil }
            var found = way
            found.legs = Array(way.legs.prefix(hit.legs)) + (hit.last.map { [$0] } ?? [])
            return found
        }
    }

    /// A step that a kick does not count for.
    mutating func stepRing3Again() throws(ExecutionError) -> Ran {
        while true {
            let ran = try stepRing3()
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
