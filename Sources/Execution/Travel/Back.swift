internal import Machine
internal import Trace

/// Backwards, by running forward again from a keyframe.
extension TimeMachine {
    /// Undoes instructions: up to the number given, by the places at which ``step(_:isInterrupted:)``
    /// rests.
    ///
    /// - Returns: `arrived`; `historyBegin` where the run begins before.
    public mutating func reverseStep(
        _ count: UInt64 = 1, isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        var left = count
        while left > 0, let way {
            guard let arrival = try stepBack(from: way, isInterrupted) else { break }
            guard arrival.isReached else { return try stop(arrival) }
            left -= 1
        }
        /// Places before this one are still to be found.
        var end = position
        var window = Self.window(left)
        while left > 0 {
            guard end > .begin else {
                _ = try go(to: .begin, isInterrupted: { false })
                return .historyBegin
            }
            guard let beginning = try startOfWindow(window, before: end, isInterrupted) else {
                return try stop(divergence == nil ? .interrupted : .diverged)
            }
            if case .reached = try go(to: beginning, isInterrupted: isInterrupted) {
            } else {
                return try stop(divergence == nil ? .interrupted : .diverged)
            }
            guard let found = try self.places(before: end, isInterrupted) else {
                return try stop(divergence == nil ? .interrupted : .diverged)
            }
            let places = found.list
            let behind = found.stretch.map { UInt64(places.count - $0) } ?? left
            if let stretch = found.stretch, left > behind {
                let entry = places[stretch - 1]
                switch try goBack(left - behind, fromEndAfter: entry, isInterrupted) {
                case .reached: return .arrived
                case .tooFar(let steps):
                    left -= behind + steps
                    end = entry
                    window = Self.window(left)
                    continue
                case .interrupted: return .interrupted
                case .nowhere: break
                }
            }
            if let needed = Int(exactly: left), places.count >= needed {
                return try stop(
                    go(to: places[places.count - needed], isInterrupted: { false }))
            }
            left -= UInt64(places.count)
            if let first = places.first {
                end = first
                window = Self.window(left)
            } else if beginning.instructions == 0 {
                // The exit there is in the middle of an instruction.
                end = beginning
                window = Self.window(left)
            } else {
                window = window &* 8
            }
        }
        return .arrived
    }

    /// How many instructions to look back at once: what costs little, so that steps that follow
    /// find a keyframe near.
    private static func window(_ count: UInt64) -> UInt64 { max(256, min(count, 1 << 16) + 16) }

    /// A position so many instructions before another, or the exit before it; nil where the way there
    /// was cut short.
    private mutating func startOfWindow(
        _ window: UInt64, before end: Position, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Position? {
        if let steps = end.ring3, steps > window {
            return Position(
                exitCount: end.exitCount, instructions: end.instructions, ring3: steps - window)
        }
        if end.instructions > 0 {
            return Position(
                exitCount: end.exitCount,
                instructions: end.instructions > window ? end.instructions - window : 0)
        }
        // How many instructions there are between the two exits shows on the way.
        let isThere = position == end && lastSpan > 0
        if !isThere {
            try restore(keyframes.index(before: end))
            let arrival = try forward(Course(limit: end), isInterrupted: isInterrupted)
            switch arrival {
            case .reached, .historyEnd: break
            default: return nil
            }
        }
        return Position(
            exitCount: end.exitCount - 1, instructions: lastSpan > window ? lastSpan - window : 0)
    }

    /// The last places from here to before a position, at which stepping rests. A keyframe is made of
    /// the first that there is. Nil where the way was cut short.
    ///
    /// Of a long stretch of ring 3 only the first places are among them.
    ///
    /// - Returns: the places, and how many of them come before the rest of the last such stretch.
    private mutating func places(
        before end: Position, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> (list: [Position], stretch: Int?)? {
        var places: [Position] = []
        var stretch: Int?
        try keep(position)
        while position < end {
            // A kick may have come while nothing ran.
            if places.count % 256 == 0, isInterrupted() { return nil }
            // A stretch in which the machine could not rest may be followed by one in which it can
            // everywhere: the earlier ones are found again from the first that is kept.
            if places.count == placeLimit {
                places.removeFirst(placeLimit / 2)
                stretch = stretch.flatMap { $0 > placeLimit / 2 ? $0 - placeLimit / 2 : nil }
            }
            places.append(position)
            if let arrival = try leaveLongRing3(before: end, isInterrupted) {
                guard arrival.isReached else { return nil }
                stretch = places.count
                continue
            }
            switch try stepOnce(isInterrupted) {
            case .reached: break
            case .historyEnd: return (places, stretch)
            default: return nil
            }
        }
        return (places, stretch)
    }

    private enum WayBack {
        case reached
        /// It is so many steps to where the way begins.
        case tooFar(UInt64)
        case interrupted
        /// No replay comes to the end.
        case nowhere
    }

    /// Goes to a place so many steps before a stretch of ring 3 ends, of which one place is known.
    private mutating func goBack(
        _ steps: UInt64, fromEndAfter entry: Position, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> WayBack {
        var target = Ring3Way(entry: entry)
        try go(along: target)
        var back = steps
        if let landmark = try landmarkHere() {
            // Its place is the last one.
            let goal = Ring3Goal(addresses: [landmark.registers.rip])
            guard landmark.stored == nil else { return .nowhere }
            guard let passes = try passes(of: goal, until: landmark, isInterrupted) else {
                return isInterrupted() ? .interrupted : .nowhere
            }
            target.legs.append(Ring3Way.Leg(goal: goal, hits: passes))
            back -= 1
        } else {
            target.legs.append(Ring3Way.Leg(goal: .end, hits: 1))
        }
        guard back > 0 else {
            try go(along: target)
            return .reached
        }
        switch try approach(target, steps: back, isInterrupted) {
        case .interrupted: return .interrupted
        case .base:
            guard let base = approach?.baseSteps else { throw Self.lost(target) }
            if base < back { return .tooFar(base + (steps - back)) }
            try go(along: Ring3Way(entry: entry))
        case .ready:
            target.legs[0].steps = -Int64(back)
            try go(along: target)
        }
        return .reached
    }

    /// The place of the interrupt that ends the stretch of ring 3 in which the machine stands; nil: none
    /// does.
    private mutating func landmarkHere() throws(ExecutionError) -> Landmark? {
        guard try tape.hasInterrupt(), let landmark = try tape.landmark(),
            landmark.progress == spanStart &+ (try ticks())
        else { return nil }
        return landmark
    }

    /// How often ring 3 comes to a goal until the state is a landmark's; nil: never, or interrupted.
    private mutating func passes(
        of goal: Ring3Goal, until landmark: Landmark, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> UInt64? {
        let search = LandmarkSearch(landmark)
        var passes: UInt64 = 0
        while true {
            guard case .stop = try runRing3([goal], isInterrupted) else { return nil }
            passes += 1
            let registers = machine.currentRegisters
            if search.matches(registers), try isWhole(landmark, registers) { return passes }
        }
    }

    /// Steps of one stretch of ring 3 that are places on the way back to one behind it.
    private static let ring3Places: UInt64 = 1 << 11

    /// Runs to the end of a stretch of ring 3 that takes too long to be stepped; nil where it does not.
    private mutating func leaveLongRing3(
        before end: Position, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        guard let steps = position.ring3, steps >= Self.ring3Places else { return nil }
        if end.ring3 != nil, end.exitCount == position.exitCount,
            end.instructions == position.instructions
        {
            return nil
        }
        let behind = Position(
            exitCount: position.exitCount,
            instructions: max(position.instructions, 1))
        return try forward(Course(limit: behind), isInterrupted: isInterrupted)
    }
}

extension Keyframes {
    /// The last keyframe before a position; the first where there is none.
    func index(before position: Position) -> Int {
        let index = index(atOrBefore: position)
        return index > 0 && frames[index].position == position ? index - 1 : index
    }
}
