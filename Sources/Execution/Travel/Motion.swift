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
}

/// Forward.
extension TimeMachine {
    /// Instructions before a place from which on the guest is stepped: many times what it executes
    /// while a kick is under way.
    private static let steppedInstructions: UInt64 = 240
    /// A shorter slice ends before the guest is entered: it is not worth the kick.
    private static let shortestSlice: UInt64 = 15_000
    private static let fastestNanoseconds: UInt64 = 100
    /// How often a guest that runs is looked at: for an interruption, and for a keyframe.
    static let lookNanoseconds: UInt64 = 10_000_000

    /// Runs forward along a course. A breakpoint at the beginning does not stop it.
    ///
    /// The machine comes to rest, and ``position`` is where.
    mutating func forward(
        _ course: Course, isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival {
        defer { caution = 1 }
        let start = position
        for _ in 0..<4 {
            let arrival = try attempt(course, isInterrupted: isInterrupted)
            guard case .overshot = arrival else { return arrival }
            // Again from the beginning, and stepping earlier.
            caution *= 8
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
            journey.placeBefore = position
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
    private struct Journey {
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
        var placeBefore = Position.begin
        var touchedAfter: Position?
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
            journey.wanted != nil || mustMatch || !journey.course.watched.isEmpty
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
    private mutating func arrival(
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

    // MARK: Ring 3

    /// Whether ring 3 is not left to itself: instructions of it are places, or may be stops.
    private mutating func entersRing3(_ journey: borrowing Journey) throws(ExecutionError) -> Bool {
        guard usesRing3Stops else { return false }
        if !journey.course.ring3Stops.isEmpty { return true }
        if let limit = journey.course.limit, limit.ring3 != nil {
            return limit.exitCount == loop.exitCount
        }
        let steps = standing == .inRing3 ? ring3Steps : 0
        return !journey.course.watched.isEmpty && steps < Self.watchedRing3Steps
    }

    /// Steps of ring 3 in one stretch after which what is watched is looked at only when it ends.
    private static let watchedRing3Steps: UInt64 = 1 << 14

    /// Goes through ring 3, which is next, to a stop in it, to where it leaves, or a step.
    private mutating func passRing3(
        _ journey: inout Journey, isAtStart: Bool, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        guard try arm(.off) else {
            journey.isDelivered = false
            return ending == nil && divergence == nil ? nil : lastArrival
        }
        stopClock()
        let stops = journey.course.ring3Stops
        let landmark = try tape.landmark()
        guard journey.course.watched.isEmpty, journey.wanted == nil,
            !isAtStart || !stops.contains(linearRIP)
        else {
            let glance = journey.watchesReads ? try self.glance() : nil
            let ran = try stepRing3()
            if case .stopped = ran, let glance { note(glance, &journey) }
            return try finish(ran, &journey, glance, isInterrupted)
        }
        if let last = try lastStep(before: journey.course.limit) {
            let ran = try walkRing3(to: last, stops, landmark, isInterrupted)
            return try finish(ran, &journey, nil, isInterrupted)
        }
        let entry = try here()
        try keep(entry)
        switch try runRing3(stops, landmark, isInterrupted) {
        case .left(let ran): return try finish(ran, &journey, nil, isInterrupted)
        case .landmark(.injected(let arrival)): return arrival
        case .landmark: return .diverged
        case .interrupted: journey.wanted = .interrupted
        case .stop: break
        }
        // Again from the entry: what has no name is no place.
        try restore(keyframes.index(atOrBefore: entry))
        if position != entry {
            let back = try attempt(Course(limit: entry, keepsFrames: false)) { false }
            guard back.isReached else { return .overshot }
        }
        journey.isDelivered = false
        guard journey.wanted == nil else { return nil }
        let ran = try walkRing3(to: .max, stops, landmark, isInterrupted)
        return try finish(ran, &journey, nil, isInterrupted)
    }

    /// Which step of the stretch of ring 3 that is next is the limit; nil: it is not in that.
    private mutating func lastStep(before limit: Position?) throws(ExecutionError) -> UInt64? {
        guard let limit, let step = limit.ring3, limit.exitCount == loop.exitCount,
            limit.instructions == (try ticks()) &+ (isInRing3 ? 0 : 1)
        else { return nil }
        return step
    }

    private mutating func finish(
        _ ran: Ran, _ journey: inout Journey, _ glance: Glance?, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        if case .kicked = ran {
            return try lookAround(&journey, slice: nil, bound: nil, isInterrupted)
        }
        return try arrival(after: ran, &journey, isStepped: true, glance)
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

    /// Whether a step executed the instruction that was next, and did not raise a fault instead: that
    /// counts, and so does the first of its handler.
    private mutating func isExecuted(
        _ glance: Glance, since count: UInt64, isAlone: Bool
    ) throws(ExecutionError) -> Bool {
        guard hasCounter, isAlone, let accesses = glance.accesses, !accesses.isRepeated else {
            return true
        }
        return try ticks() &- count == 1
    }

    /// Notes what of the watched bytes an instruction touched.
    private func note(_ glance: Glance, _ journey: inout Journey) {
        // SAFETY: the page's registers do not change before the next run.
        let count = unsafe machine.cpu.registersPointer.pointee[.rcx]
        for piece in glance.pieces(countAfter: count) {
            journey.touches.add(
                piece, journey.course.watched, system: glance.system, memory: machine.memory)
        }
    }

    /// The first of the watchpoints that was touched since the last place.
    private mutating func touch(_ journey: inout Journey) throws(ExecutionError) -> Arrival? {
        guard !journey.course.watched.isEmpty else { return nil }
        for (index, watchpoint) in journey.course.watched.enumerated() {
            let now = bytes(of: watchpoint)
            let old = journey.contents[index]
            journey.contents[index] = now
            var address = watchpoint.kind == .change ? nil : journey.touches.first[index]
            if address == nil, watchpoint.kind != .read, now != old {
                let offset = zip(old, now).enumerated().first { $1.0 != $1.1 }?.offset ?? 0
                address = GuestPhysicalAddress(watchpoint.address.rawValue &+ UInt64(offset))
            }
            guard let address else { continue }
            journey.touchedAfter = journey.placeBefore
            return .touch(WatchHit(watchpoint: watchpoint, address: address, old: old, new: now))
        }
        journey.touches.clear()
        journey.placeBefore = try here()
        return nil
    }

    /// After a kick: whether to stop, and whether to make a keyframe.
    private mutating func lookAround(
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
    private mutating func arm(_ debug: GuestDebug) throws(ExecutionError) -> Bool {
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

    // MARK: Running

    enum Ran {
        /// An exit was taken; what it came to, if it was the last.
        case exit(Arrival?)
        /// A breakpoint or a step.
        case stopped
        /// The guest was interrupted; nothing is pending.
        case kicked
        /// It came to memory that is shielded.
        case shielded
    }

    mutating func run(slice: UInt64?) throws(ExecutionError) -> Ran {
        let before = slice == nil ? 0 : try ticks()
        let start = slice == nil ? 0 : HostThread.monotonicNanoseconds()
        let step: RunStep
        do throws(KVMError) {
            if let shield {
                let free = try shield.run(&machine.cpu, &loop.other, machine.memory)
                guard let free else { return .shielded }
                step = free
            } else {
                step = try machine.cpu.run(other: &loop.other)
            }
        } catch { throw .kvm(error) }
        switch step {
        case .interrupted:
            _ = machine.cpu.acknowledgeKick()
            isTimerSet = false
            standing = hasCounter || armed.singleStep ? .afterKick : .lost
            if slice != nil { noteSpeed(since: start, instructions: try ticks() &- before) }
            return .kicked
        case .other:
            if case .debug(let stop) = loop.other, try tape.nextRewriting() != stop.pc {
                if try loop.isSyscall(at: stop.pc, &machine.cpu, memory: machine.memory) { break }
                standing = .afterStop
                return .stopped
            }
            if RunLoop.isUncounted(loop.other) {
                standing = hasCounter || armed.singleStep ? .afterKick : .lost
                return .kicked
            }
        case .io, .mmio: break
        }
        return .exit(try take(step))
    }

    /// One step, which leaves no trace in the guest.
    private mutating func runStep() throws(ExecutionError) -> Ran {
        let isFromStop = standing == .afterStop && hasCounter
        let count = try ticks()
        let trace = StepTrace(
            registers: machine.currentRegisters, system: machine.currentSystemRegisters)
        let ran = try run(slice: nil)
        guard case .stopped = ran else {
            trace.hide(machine.memory)
            return ran
        }
        let counted = try ticks() &- count
        try kvm { () throws(KVMError) in
            try trace.hideAll(
                &machine.cpu, machine.memory, counted: counted, isFromStop: isFromStop)
        }
        return ran
    }

    private mutating func noteSpeed(since start: UInt64, instructions: UInt64) {
        guard instructions >= 16 else { return }
        let each = (HostThread.monotonicNanoseconds() &- start) / instructions
        nanosecondsPerInstruction = max(
            Self.fastestNanoseconds, min(nanosecondsPerInstruction, each))
    }

    /// Answers an exit, and compares it; what the move comes to, if it was the last.
    @inline(__always)
    mutating func take(_ step: RunStep) throws(ExecutionError) -> Arrival? {
        let outcome = try loop.take(
            step, &machine.cpu, &tape, memory: machine.memory, entered: 0, returned: 0)
        replayedExits &+= 1
        if hasCounter {
            let before = spanStart
            do throws(KVMError) { spanStart = try machine.cpu.progress() ?? 0 } catch {
                throw .kvm(error)
            }
            lastSpan = spanStart &- before
        } else {
            lastSpan = steps
            steps = 0
        }
        standing = .atExit
        if loop.mendsSyscall, outcome == nil {
            try loop.watchSyscalls(&machine.cpu, isListenedTo: true, memory: machine.memory)
        }
        guard let outcome else { return nil }
        return try conclude(outcome)
    }

    /// Finishes what the last exit left pending; further exits are taken. What the move comes to, if
    /// one of them was the last.
    mutating func settle() throws(ExecutionError) -> Arrival? {
        while true {
            let settlement = try kvm { () throws(KVMError) in try machine.cpu.settle() }
            guard case .exit(let exit) = settlement else { return nil }
            // A step that ends with the instruction that was pending.
            if case .debug = exit { continue }
            if RunLoop.isUncounted(exit) { continue }
            if let arrival = try take(RunStep(exit, other: &loop.other)) { return arrival }
        }
    }

    /// Gives the CPU the interrupt that the tape has at this exit.
    private mutating func deliver() throws(ExecutionError) -> Arrival? {
        let exits = loop.exitCount
        if let arrival = try settle() { return arrival }
        guard exits == loop.exitCount, ending == nil else { return nil }
        let place = tape.place
        let outcome = try loop.deliverAtExit(&machine.cpu, &tape, memory: machine.memory)
        if tape.place != place { standing = .afterKick }
        guard let outcome else { return nil }
        return try conclude(outcome)
    }

    private mutating func setTimer(_ slice: UInt64?) throws(ExecutionError) {
        if began == nil { began = HostThread.monotonicNanoseconds() }
        guard slice != nil || !isTimerSet else { return }
        try kvm { () throws(KVMError) in
            try machine.cpu.armKick(nanoseconds: slice ?? Self.lookNanoseconds)
        }
        isTimerSet = true
    }

    /// Counts the time since the guest began to run freely.
    mutating func stopClock() {
        guard let start = began else { return }
        guestNanoseconds &+= HostThread.monotonicNanoseconds() &- start
        began = nil
    }

    /// Ends a move: nothing is armed, and what can be read holds good.
    private mutating func comeToRest() throws(ExecutionError) {
        stopClock()
        if isTimerSet {
            try kvm { () throws(KVMError) in try machine.cpu.armKick(nanoseconds: 0) }
            isTimerSet = false
        }
        _ = machine.cpu.acknowledgeKick()
        if divergence == nil, ending == nil {
            _ = try settle()
        } else {
            try machine.cpu.abandon()
        }
        if armed != .off {
            try kvm { () throws(KVMError) in try machine.cpu.setGuestDebug(.off) }
            armed = .off
        }
        position = try here()
    }
}
