internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// How a move forward came to its end.
enum Arrival {
    /// The limit, or the first place after it at which the machine can rest.
    case reached
    /// The guest ran for as long as the course says.
    case paused
    /// A breakpoint.
    case breakpoint(GuestVirtualAddress)
    /// Watched bytes were touched.
    case touch(WatchHit)
    /// The guest came to memory that is shielded: the machine is of no use until it is restored.
    case shielded
    /// The run ends.
    case historyEnd
    /// Somebody asked for it.
    case interrupted
    /// The replay is not the recording.
    case diverged
    /// The guest was faster than it has ever been, and ran past the limit: go back and do it again.
    case overshot

    var isReached: Bool {
        if case .reached = self { true } else { false }
    }
}

/// What a move forward has to look at on its way.
struct Course {
    /// Where it ends at the latest; nil: with the run.
    var limit: Position?
    /// Breakpoints: four at most, unless every instruction is stepped.
    var stops: [GuestVirtualAddress] = []
    /// Breakpoints in ring 3's code, where the CPU's do not stop it; every instruction of ring 0 is
    /// stepped where there are any.
    var ring3Stops: [GuestVirtualAddress] = []
    /// Watched bytes; every instruction is stepped where there are any.
    var watched: [Watchpoint] = []
    /// Ends after the guest has run for about that long, in nanoseconds.
    var pause: UInt64?
    /// Makes keyframes.
    var keepsFrames = true
    /// Ends at the next place, of ring 3 too.
    var isStep = false
}

/// Forward.
extension TimeMachine {
    /// Instructions before a place from which on the guest is stepped: many times what it executes
    /// while a kick is under way.
    private static let steppedInstructions: UInt64 = 240
    /// A shorter slice ends before the guest is entered: it is not worth the kick.
    private static let shortestSlice: UInt64 = 15_000

    /// Runs forward along a course. A breakpoint at the beginning does not stop it.
    ///
    /// The machine comes to rest, and ``position`` is where.
    mutating func forward(
        _ course: Course, isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival {
        defer { caution = 1 }
        let start = position
        let startWay = way
        for _ in 0..<4 {
            let arrival = try attempt(course, isInterrupted: isInterrupted)
            guard case .overshot = arrival else { return arrival }
            // Again from the beginning, and stepping earlier.
            caution *= 8
            if let startWay {
                try go(along: startWay)
                continue
            }
            try restore(keyframes.index(atOrBefore: start))
            guard position < start else { continue }
            let back = try attempt(Course(limit: start), isInterrupted: { false })
            guard case .reached = back else { break }
        }
        throw .kvm(.malformed("a guest that runs faster than it can be stopped"))
    }

    mutating func attempt(
        _ course: Course, isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival {
        if divergence != nil { return .diverged }
        guard ending == nil else { return .historyEnd }
        var journey = Journey(course)
        if !course.watched.isEmpty {
            journey.contents = course.watched.map { bytes(of: $0) }
            journey.placeBefore = Place(position: position, way: way)
        }
        var arrival = Arrival.reached
        while true {
            if let end = try advance(&journey, isInterrupted: isInterrupted) {
                arrival = end
                break
            }
        }
        if case .shielded = arrival { return arrival }
        try comeToRest()
        if let before = journey.touchedAfter { touchedAfter = before }
        if case .overshot = arrival { return arrival }
        if divergence == nil, ending == nil, try !canRest() {
            // Ring 3, and no end of it: the last keyframe is a place.
            try restore(keyframes.index(atOrBefore: Position(exitCount: loop.exitCount)))
        }
        return arrival
    }

    /// What a move remembers from one leg to the next.
    struct Journey {
        let course: Course
        let breakpoints: GuestDebug
        var isAtStart = true
        /// The interrupt that the tape has at this exit was offered to the CPU.
        var isDelivered = false
        /// What the move comes to at the next place at which the machine can rest.
        var wanted: Arrival?
        /// Kicks that were waited for until then.
        var patience = 20
        /// What is watched held.
        var contents: [[UInt8]] = []
        /// What of it was touched since.
        var touches: Touches
        /// Reads are watched for.
        let watchesReads: Bool
        /// The last place before it was touched.
        var placeBefore = Place(position: .begin)
        var touchedAfter: Place?
        /// Ring 3 came to what is watched by something that a shield does not stop before it: from here
        /// it runs to its end by itself.
        var unshielded: Position?
        var began = HostThread.monotonicNanoseconds()

        init(_ course: Course) {
            self.course = course
            touches = Touches(course.watched.count)
            watchesReads = course.watched.contains { $0.kind != .change }
            breakpoints = GuestDebug(
                breakpoints: course.stops.prefix(4).map { GuestDebug.Breakpoint($0) })
        }
    }

    /// One leg: from here to the next exit, stop or kick. Nil: the move goes on.
    private mutating func advance(
        _ journey: inout Journey, isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        let limit = journey.course.limit
        if journey.course.isStep, !journey.isAtStart, journey.wanted == nil {
            journey.wanted = .reached
        }
        var bound: UInt64?
        if journey.wanted != nil || limit.map({ loop.exitCount >= $0.exitCount }) ?? false {
            if let arrival = try settle() { return arrival }
            if let limit {
                let place = try here()
                if place >= limit, try canRest() { return .reached }
                if try isLost(before: limit) { return .overshot }
                if limit.exitCount == loop.exitCount { bound = limit.instructions }
            }
            if let wanted = journey.wanted, try canRest() { return wanted }
        }
        var mustMatch = false
        if try tape.hasInterrupt() {
            if let landmark = try tape.landmark() {
                if let arrival = try settle() { return arrival }
                switch try inject(landmark, stepsRing3: try entersRing3(journey)) {
                case .injected(let arrival): return arrival
                case .ahead(let count): bound = min(bound ?? .max, count)
                case .somewhereAhead: mustMatch = true
                case .inRing3: bound = try ticks()
                case .shielded: return .shielded
                case .missed: return .diverged
                }
            } else if !journey.isDelivered {
                journey.isDelivered = true
                return try deliver()
            }
        }
        // How to move. An instruction that is rewritten before the next exit stops the guest.
        let rewriting = try tape.nextRewriting()
        let freeStops = 4 - (rewriting == nil ? 0 : 1) - (loop.syscallHandler == nil ? 0 : 1)
        var isStepped =
            journey.wanted != nil || mustMatch || journey.course.isStep
            || !journey.course.watched.isEmpty
            || !journey.course.ring3Stops.isEmpty || journey.course.stops.count > freeStops
        var slice: UInt64?
        if !hasCounter {
            if bound != nil || !journey.course.stops.isEmpty { isStepped = true }
        } else if let bound, !isStepped {
            let now = try ticks()
            let left = bound > now ? bound - now : 0
            let margin = Self.steppedInstructions &* caution
            isStepped = left <= margin
            if !isStepped {
                let free = min(left - margin / 2, 1 << 32)
                slice = max(free * nanosecondsPerInstruction * 2 / 3, Self.shortestSlice)
            }
        }
        // Not again at the breakpoint that tells SYSCALLs.
        if standing == .afterStop, linearRIP.rawValue == loop.syscallHandler { isStepped = true }
        if journey.isAtStart, !journey.course.stops.isEmpty {
            if let arrival = try settle() { return arrival }
            if journey.course.stops.contains(linearRIP) { isStepped = true }
        }
        if isStepped {
            let exits = loop.exitCount
            if let arrival = try settle() { return arrival }
            guard exits == loop.exitCount else {
                journey.isDelivered = false
                return nil
            }
        }
        if isStepped, !journey.isAtStart, standing == .atExit,
            journey.course.stops.contains(linearRIP), journey.wanted == nil
        {
            return .breakpoint(linearRIP)
        }
        let isAtStart = journey.isAtStart
        journey.isAtStart = false
        if isStepped, try entersRing3(journey), try isRing3Next() {
            return try passRing3(&journey, isAtStart: isAtStart, isInterrupted)
        }
        // HLT exits by itself. Stepped, it would stop after it, and KVM's emulator would remember the
        // halt until after the instruction that follows.
        let isHalt = isStepped && standing != .afterKick && isAtHalt
        let instead = isStepped ? try stopInstead() : nil
        var debug =
            isHalt ? .off : instead ?? (isStepped ? Self.singleStep : journey.breakpoints)
        if let rewriting { debug.breakpoints.insert(GuestDebug.Breakpoint(rewriting), at: 0) }
        guard try arm(debug) else {
            // An exit came instead.
            journey.isDelivered = false
            return ending == nil && divergence == nil ? nil : lastArrival
        }
        if isStepped { stopClock() }
        if !isStepped || instead != nil { try setTimer(slice) }
        let glance = isStepped && journey.watchesReads ? try self.glance() : nil
        let count = glance == nil ? 0 : try ticks()
        let ran = isStepped && instead == nil ? try runStep() : try run(slice: slice)
        if instead != nil, case .stopped = ran, try ticks() == 0 { standing = .atEntry }
        if case .kicked = ran {
            // Some rounds of a REP may have been made.
            if let glance, glance.accesses?.isRepeated ?? false { note(glance, &journey) }
            return try lookAround(&journey, slice: slice, bound: bound, isInterrupted)
        }
        if isStepped, case .stopped = ran {
            if let arrival = try settle() { return arrival }
            if let glance {
                let isExecuted = try isExecuted(glance, since: count, isAlone: instead == nil)
                if let seen = isExecuted ? glance : self.glance(atExceptionAfter: glance) {
                    note(seen, &journey)
                }
            }
        }
        return try arrival(after: ran, &journey, isStepped: isStepped, glance)
    }

    /// What a leg comes to that no kick ended. Nil: the move goes on.
    mutating func arrival(
        after ran: Ran, _ journey: inout Journey, isStepped: Bool, _ glance: Glance?
    ) throws(ExecutionError) -> Arrival? {
        switch ran {
        case .exit(let arrival):
            journey.isDelivered = false
            if let arrival { return arrival }
            // What a step leaves pending would end as a step of its own.
            guard isStepped else { return nil }
            if let arrival = try settle() { return arrival }
            if let glance { note(glance, &journey) }
            return try touch(&journey)
        case .stopped:
            if let arrival = try settle() { return arrival }
            let rests = try canRest()
            if isStepped, rests { steps &+= 1 }
            if rests, let arrival = try touch(&journey) { return arrival }
            return try arrivalAtStop(journey, rests: rests)
        case .kicked: return nil
        case .shielded: return .shielded
        }
    }

    private static let singleStep = GuestDebug(singleStep: true)

    /// What a step or a hit of a breakpoint comes to.
    private mutating func arrivalAtStop(
        _ journey: borrowing Journey, rests: Bool
    ) throws(ExecutionError) -> Arrival? {
        let course = journey.course
        guard rests, journey.wanted == nil, !course.stops.isEmpty || !course.ring3Stops.isEmpty
        else { return nil }
        let rip = linearRIP
        guard course.stops.contains(rip) || course.ring3Stops.contains(rip) else { return nil }
        if let limit = journey.course.limit {
            // The next leg sees it.
            if try here() >= limit { return nil }
        }
        return .breakpoint(rip)
    }

    /// After a kick: whether to stop, and whether to make a keyframe.
    mutating func lookAround(
        _ journey: inout Journey, slice: UInt64?, bound: UInt64?, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        if case .paused = journey.wanted {
            // Nothing is gained by going back: the next place is waited for.
            if isInterrupted() { journey.wanted = .interrupted }
            return nil
        }
        if journey.wanted != nil {
            // In ring 3 no place may come: the last exit is one.
            journey.patience -= 1
            if journey.patience == 0 || standing == .lost { return journey.wanted }
            return nil
        }
        if isInterrupted() {
            journey.wanted = .interrupted
            return nil
        }
        if let bound, slice != nil, try ticks() > bound { return .overshot }
        if let pause = journey.course.pause,
            HostThread.monotonicNanoseconds() &- journey.began >= pause
        {
            journey.wanted = .paused
            return nil
        }
        if journey.course.keepsFrames, slice == nil { try considerKeyframe() }
        return nil
    }

    /// Arms what is to stop the guest; false where exits came first.
    mutating func arm(_ debug: GuestDebug) throws(ExecutionError) -> Bool {
        guard debug != armed else { return true }
        let exits = loop.exitCount
        if let arrival = try settle() {
            lastArrival = arrival
            return false
        }
        guard exits == loop.exitCount else { return false }
        try kvm { () throws(KVMError) in try machine.cpu.setGuestDebug(debug) }
        armed = debug
        return true
    }
}
