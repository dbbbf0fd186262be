internal import KVM
internal import Machine
internal import Trace

/// What is known of the places before one in ring 3 that was come to at full speed.
///
/// Nothing counts in ring 3, and nothing there runs backwards. But a stretch of it does the same each
/// time, and a kick leaves no mark on it: so it is run towards the target again and again, each time
/// from the last place at which a kick stopped it short of the target, until a walk of single steps
/// from there comes to the target. That says how many steps the place is before it. Kicks decide how
/// long the search takes, and nothing else.
struct Ring3Approach {
    /// By hits alone.
    let target: Ring3Way
    /// A place before it that has a way, or a name, from which the search began.
    let base: Ring3Way
    /// What to stop at.
    let goal: Ring3Goal
    /// Places on the way of which nobody knows how far it is from there to the target, in order; the
    /// first is the base.
    var chain: [Link]
    /// Places so many steps before the target, in order.
    var known: [(anchor: Ring3Anchor, steps: UInt64)] = []
    /// How many steps the base is before it; nil: nobody knows.
    var baseSteps: UInt64?
    /// How often kicks came too near to the target to be of use.
    var nearKicks: UInt64 = 0
    /// The guest is to be walked on first.
    var isWalkNext = false

    struct Link {
        var anchor: Ring3Anchor
        /// The target is this hit of the goal from here.
        var hits: UInt64
        /// How many steps it is from the link before; nil: nobody knows.
        var walked: UInt64?
    }

    /// Anchors of each kind that are kept at once.
    private static let anchorLimit = 48

    /// Adds a place of which it is known how many steps it is before the target.
    mutating func add(_ anchor: Ring3Anchor, steps: UInt64) {
        guard !known.contains(where: { $0.steps == steps }) else { return }
        known.insert((anchor, steps), at: known.firstIndex { $0.steps < steps } ?? known.count)
        if known.count > Self.anchorLimit { known.remove(at: 1) }
    }

    /// Adds a place of which it is not.
    mutating func add(_ link: Link) {
        chain.append(link)
        guard chain.count > Self.anchorLimit else { return }
        // Fewer of those that are far.
        for index in stride(from: chain.count / 2, to: 0, by: -2) {
            chain.remove(at: index)
            chain[index].walked = nil
        }
    }

    /// The last place of which it was not known how far it is from there is so many steps before the
    /// target.
    mutating func reach(_ steps: UInt64) {
        var steps = steps
        while let link = chain.popLast() {
            add(link.anchor, steps: steps)
            if chain.isEmpty { baseSteps = steps }
            guard let walked = link.walked else { break }
            steps += walked
        }
    }
}

/// What running on towards a target comes to.
private enum Leap {
    case arrived
    /// The kick came before, and so many hits are left.
    case short(UInt64)
    /// The kick came before anything was executed.
    case stuck
    case interrupted
}

/// Backwards, deep in ring 3.
extension TimeMachine {
    /// Hits before a target from which on it is looked for.
    private static let hitsLookedFrom: UInt64 = 32
    /// Leaps that bring the guest hardly nearer, after which it is stepped.
    private static let futileLeaps = 3
    /// How many steps are walked on from where kicks come no nearer: a tenth of a second's worth.
    private static let walkLimit: UInt64 = 2048
    /// Steps from one anchor to a target, after which another is made on the way.
    private static let anchorSpacing: UInt64 = 128

    /// Goes to the place so many steps before a target, which ``approach(_:steps:_:)`` found to be there.
    mutating func goBack(_ steps: UInt64, from target: Ring3Way) throws(ExecutionError) {
        guard case .ready = try approach(target, steps: steps, { false }),
            let nearest = approach?.known.last(where: { $0.steps >= steps })
        else { throw Self.lost(target) }
        try stand(at: nearest.anchor, after: target.entry)
        var left = nearest.steps - steps
        if left > Self.anchorSpacing {
            // For the next ones, which are likely to be asked for.
            let rest = Self.anchorSpacing / 2
            try walk(left - rest, target)
            let between = try anchor()
            approach?.add(between, steps: steps + rest)
            ring3Steps = 0
            left = rest
        }
        try walk(left, target)
    }

    /// How often a goal is met at the last places before a target.
    mutating func hits(
        of goal: Ring3Goal, inLast steps: UInt64, before target: Ring3Way
    ) throws(ExecutionError) -> Int {
        try goBack(steps, from: target)
        var hits = goal.addresses.contains(linearRIP.rawValue) ? 1 : 0
        if steps > 1 {
            let walked = try walk(atMost: steps - 1, to: goal, hits: .max, target, { false })
            guard case .short(let left) = walked else { throw Self.lost(target) }
            hits += Int(clamping: UInt64.max - left)
        }
        // The last of them may touch what is shielded, too.
        if let shield = goal.shield(at: linearRIP.rawValue) {
            _ = try stepRing3Again(shield)
            if isAtTouch { hits += 1 }
        }
        return hits
    }

    enum Approached {
        /// So many steps before the target there is a place, and it can be gone to.
        case ready
        /// It is the approach's base.
        case base
        case interrupted
    }

    /// Finds out what is so many steps before a place that was come to at full speed.
    ///
    /// The machine stands somewhere in the stretch then.
    ///
    /// - Parameter steps: no more than lead to a hit before it.
    mutating func approach(
        _ target: Ring3Way, steps: UInt64, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Approached {
        if approach?.target != target {
            approach = nil
            guard let (base, goal) = target.base(hitsBefore: Self.hitsLookedFrom) else {
                throw Self.lost(target)
            }
            try go(to: base.entry)
            try keep(base.entry)
            if !base.legs.isEmpty { try go(along: base) }
            way = nil
            approach = Ring3Approach(
                target: target, base: base, goal: goal.goal,
                chain: [.init(anchor: try anchor(), hits: goal.hits)])
        }
        while let approach {
            if let base = approach.baseSteps, steps >= base { return .base }
            if let first = approach.known.first, first.steps >= steps { return .ready }
            guard try comeNear(target, steps: steps, isInterrupted) else { return .interrupted }
        }
        return .interrupted
    }

    /// Finds a place from which steps lead to the target, as many as are asked for or less. False:
    /// interrupted.
    private mutating func comeNear(
        _ target: Ring3Way, steps: UInt64, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Bool {
        // Few steps would be used up soon, and the search be made again.
        let limit = max(steps, Self.walkLimit / 8) + Self.walkLimit
        // Kicks come where the guest takes long, at the first touch of a page say, and so to the same
        // few places again and again: between two leaps that come to those it is walked on.
        if approach?.isWalkNext ?? false {
            approach?.isWalkNext = false
        } else {
            guard try leap(target, isInterrupted) else { return false }
        }
        guard let approach, let link = approach.chain.last else { return false }
        try stand(at: link.anchor, after: target.entry)
        switch try walk(
            atMost: limit, to: approach.goal, hits: link.hits, target, isInterrupted)
        {
        case .interrupted: return false
        case .reached(let count):
            self.approach?.reach(count)
            self.approach?.nearKicks += 1
            self.approach?.isWalkNext = true
        case .short(let hitsLeft):
            let further = try anchor()
            self.approach?.add(.init(anchor: further, hits: hitsLeft, walked: limit))
        }
        return true
    }

    /// Comes nearer to the target by kicks, an anchor at each, until kicks hardly help. False:
    /// interrupted.
    private mutating func leap(
        _ target: Ring3Way, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Bool {
        /// What the rest of the way takes, with what it takes to enter the guest and to be stopped.
        var rest: UInt64 = .max
        var futile = 0
        let first = 1 + (approach?.nearKicks ?? 0) % 8
        while futile < Self.futileLeaps {
            let before = rest
            switch try leap(from: target, after: nil, took: &rest, isInterrupted) {
            case .arrived: break
            case .interrupted: return false
            case .short, .stuck: throw Self.lost(target)
            }
            if rest > before - before / 16 { futile += 1 }
            var isShort = false
            // Nearly all of it, and less each time it is too much.
            for sixteenths in first...12 where !isShort {
                let wait = max(rest - rest / 16 * sixteenths, 1)
                var took: UInt64 = 0
                switch try leap(from: target, after: wait, took: &took, isInterrupted) {
                case .interrupted: return false
                case .arrived, .stuck: break
                case .short(let hitsLeft):
                    let further = try anchor()
                    approach?.add(.init(anchor: further, hits: hitsLeft))
                    isShort = true
                }
            }
            if !isShort { return true }
        }
        return true
    }

    /// Runs on from the last place on the way to the target.
    private mutating func leap(
        from target: Ring3Way, after wait: UInt64?, took: inout UInt64,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Leap {
        guard let approach, let link = approach.chain.last else { throw Self.lost(target) }
        try stand(at: link.anchor, after: target.entry)
        let began = HostThread.monotonicNanoseconds()
        defer { took = HostThread.monotonicNanoseconds() &- began }
        return try leap(approach.goal, hits: link.hits, after: wait, target, isInterrupted)
    }

    /// Runs on to a hit of a goal, or, with a kick after so many nanoseconds, to a place before it that
    /// a step can lead to.
    private mutating func leap(
        _ goal: Ring3Goal, hits: UInt64, after wait: UInt64?, _ way: Ring3Way,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Leap {
        var left = hits
        let began = HostThread.monotonicNanoseconds()
        while true {
            let waited = HostThread.monotonicNanoseconds() &- began
            let rest = wait.map { $0 > waited ? $0 - waited : 1 } ?? .max
            let hit = try runRing3(
                [goal], isInterrupted, kickAfter: min(rest, Self.lookNanoseconds))
            if goal.includes(hit) {
                left -= 1
                if left == 0 { return .arrived }
                continue
            }
            guard case .interrupted = hit else { throw Self.lost(way) }
            if isInterrupted() { return .interrupted }
            guard let wait, HostThread.monotonicNanoseconds() &- began >= wait else { continue }
            guard isInRing3 else { return .stuck }
            // A kick can come in the middle of a REP; a step ends where a walk could.
            var ran = try stepRing3Again(isAt(goal) ? nil : goal.shield)
            if isAtTouch {
                left -= 1
                if left == 0 { return .arrived }
                ran = try stepRing3Again()
            }
            guard case .stopped = ran, standing == .inRing3 else {
                guard goal.isEnd else { throw Self.lost(way) }
                return .arrived
            }
            if goal.addresses.contains(linearRIP.rawValue) { left -= 1 }
            return left == 0 ? .arrived : .short(left)
        }
    }

    // MARK: On foot

    private enum Walked {
        case reached(UInt64)
        /// So many hits are left.
        case short(UInt64)
        case interrupted
    }

    /// So many steps that lead to no end of ring 3.
    private mutating func walk(_ steps: UInt64, _ way: Ring3Way) throws(ExecutionError) {
        guard steps > 0 else { return }
        guard case .short = try walk(atMost: steps, to: Ring3Goal(), hits: 1, way, { false }) else {
            throw Self.lost(way)
        }
    }

    /// Steps on in ring 3, or into it: up to so many steps, or to a hit of a goal.
    private mutating func walk(
        atMost steps: UInt64, to goal: Ring3Goal, hits: UInt64, _ way: Ring3Way,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Walked {
        // The return to ring 3 is a step, and the place it leads to has number 0.
        let isInside = isInRing3
        let first = isInside ? ring3Steps : 0
        let last = first + steps - (isInside ? 0 : 1)
        var left = hits
        repeat {
            let ran = try walkRing3(to: last, goal, nil, isInterrupted)
            if case .kicked = ran { return .interrupted }
            var made = ring3Steps - first + (isInside ? 0 : 1)
            if isAtTouch || standing == .inRing3 {
                if isAt(goal) { left -= 1 }
            } else {
                guard goal.isEnd else { throw Self.lost(way) }
                made += 1
                left -= 1
            }
            if left == 0 { return .reached(made) }
        } while ring3Steps < last
        return .short(left)
    }
}
