internal import KVM
internal import Machine

/// Along a way in ring 3, with an eye on what stops on it.
extension TimeMachine {
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
    mutating func follow(
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
        }

        private let goal: Ring3Goal
        /// How many were passed in all.
        private var count = 0
        /// Those that mean something to who goes back, with their number.
        private var hits: [(hit: Hit, stop: TravelStop, number: Int)] = []
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
            hits.append((latest, stop, count))
        }

        mutating func removeLast(_ number: Int) {
            count -= min(number, count)
            hits.removeAll { $0.number > count }
            latest = nil
        }

        func last(on way: Ring3Way) -> (way: Ring3Way, stop: TravelStop)? {
            guard let (hit, stop, _) = hits.last else { return nil }
            var found = way
            found.legs = Array(way.legs.prefix(hit.legs)) + (hit.last.map { [$0] } ?? [])
            return (found, stop)
        }
    }
}
