internal import KVM
internal import Machine

/// A place in ring 3 by how ring 3 is run to it at full speed: from a place with a name, past so many
/// hits of some breakpoints, and so many steps on.
///
/// Its name, ``Position/ring3``, is a count of steps that only stepping tells: millions of them take
/// minutes, and hardly anybody asks. A way leads to the same place each time, since a stretch of
/// ring 3 does the same each time.
struct Ring3Way: Equatable, Sendable {
    struct Leg: Equatable, Sendable {
        var addresses: [UInt64]
        var hits: UInt64
        var steps: UInt64 = 0
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

    /// The way to the hit before the last, and the addresses of which the last is one; nil where that
    /// is the entry.
    var hitBefore: (way: Ring3Way, addresses: [UInt64])? {
        guard let last = legs.last, last.steps == 0 else { return nil }
        var way = self
        if last.hits > 1 {
            way.legs[legs.count - 1].hits -= 1
        } else {
            way.legs.removeLast()
        }
        return way.legs.isEmpty ? nil : (way, last.addresses)
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
    /// - Returns: false where it was interrupted: the place has no name as before.
    @discardableResult
    public mutating func name(
        isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> Bool {
        guard let way else { return true }
        try go(to: way.entry)
        for leg in way.legs {
            let addresses = leg.addresses.map { GuestVirtualAddress($0) }
            for hit in 0..<leg.hits + leg.steps {
                let isHit = hit < leg.hits
                let ran = try walkRing3(
                    to: isHit ? .max : ring3Steps + 1, isHit ? addresses : [], nil, isInterrupted)
                if case .kicked = ran {
                    try go(along: way)
                    return false
                }
                guard case .stopped = ran, standing == .inRing3 else { throw Self.lost(way) }
            }
        }
        try comeToRest()
        return true
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
        var last: Ring3Way?
        var gone = Ring3Way(entry: way.entry)
        // A breakpoint where the way begins.
        if isInRing3, stops.contains(linearRIP.rawValue) { last = gone }
        for (index, leg) in way.legs.enumerated() {
            let isLast = index == way.legs.count - 1
            var passed = gone
            var hits: UInt64 = 0
            while hits < leg.hits {
                let planted = leg.addresses + stops.filter { !leg.addresses.contains($0) }
                let address: UInt64
                switch try runRing3(planted, isInterrupted) {
                case .stop(let place): address = place
                case .interrupted: return (false, last)
                case .left: throw Self.lost(way)
                }
                if leg.addresses.contains(address) { hits += 1 }
                guard stops.contains(address) else { continue }
                passed.hit(stops)
                if !isLast || leg.steps > 0 || hits < leg.hits { last = passed }
            }
            gone.legs.append(Ring3Way.Leg(addresses: leg.addresses, hits: leg.hits))
            for step in 0..<leg.steps {
                guard case .stopped = try stepRing3Again(), standing == .inRing3 else {
                    throw Self.lost(way)
                }
                gone.step()
                if stops.contains(linearRIP.rawValue), !isLast || step + 1 < leg.steps {
                    last = gone
                }
            }
        }
        standing = .inRing3
        ring3Steps = way.entry.ring3 ?? 0
        self.way = way
        try comeToRest()
        return (true, last)
    }

    /// A step that a kick does not count for.
    private mutating func stepRing3Again() throws(ExecutionError) -> Ran {
        while true {
            let ran = try stepRing3()
            guard case .kicked = ran else { return ran }
        }
    }

    /// Goes to a place from which ring 3 goes on.
    private mutating func go(to entry: Position) throws(ExecutionError) {
        try restore(keyframes.index(atOrBefore: entry))
        guard position != entry else { return }
        guard
            try attempt(Course(limit: entry, keepsFrames: false), isInterrupted: { false })
                .isReached, position == entry
        else { throw Self.lost(Ring3Way(entry: entry)) }
    }

    private static func lost(_ way: Ring3Way) -> ExecutionError {
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
        guard let (anchor, addresses) = way.hitBefore else {
            return try name(isInterrupted: isInterrupted) ? nil : .interrupted
        }
        // From the hit before, step by step; and once more, one step less.
        try go(along: anchor)
        var before = anchor
        while true {
            if isInterrupted() {
                try go(along: way)
                return .interrupted
            }
            guard case .stopped = try stepRing3Again(), standing == .inRing3 else {
                throw Self.lost(way)
            }
            if addresses.contains(linearRIP.rawValue) { break }
            before.step()
        }
        try go(along: before)
        return .reached
    }
}
