internal import KVM
internal import Machine
internal import Trace

/// Through ring 3 that is looked into, on the way forward (``Ring3Stops``).
extension TimeMachine {
    /// Whether ring 3 is not left to itself: instructions of it are places, or may be stops.
    mutating func entersRing3(_ journey: borrowing Journey) throws(ExecutionError) -> Bool {
        guard usesRing3Stops else { return false }
        if !journey.course.ring3Stops.isEmpty || journey.course.isStep { return true }
        if let limit = journey.course.limit, limit.ring3 != nil {
            return limit.exitCount == loop.exitCount
        }
        return !journey.course.watched.isEmpty
    }

    /// Steps of ring 3 in one stretch after which what is watched is shielded and ring 3 run, so that
    /// places have no name.
    private static let watchedRing3Steps: UInt64 = 1 << 9

    /// Whether ring 3 is run from here, though something is watched.
    private func isShielded(_ journey: borrowing Journey) -> Bool {
        standing == .inRing3 && isInRing3 && (way != nil || ring3Steps >= Self.watchedRing3Steps)
    }

    /// What stops ring 3 on a course.
    func ring3Goal(
        _ stops: [GuestVirtualAddress], _ watched: [Watchpoint]
    ) -> Ring3Goal {
        let inMemory = watched.filter { bytes(of: $0).count == $0.count }
        return Ring3Goal(
            addresses: stops.map(\.rawValue),
            shield: inMemory.isEmpty ? nil : Shield(inMemory, machine.memory))
    }

    /// Goes through ring 3, which is next, to a stop in it, to where it leaves, or a step.
    mutating func passRing3(
        _ journey: inout Journey, isAtStart: Bool, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        guard try arm(.off) else {
            journey.isDelivered = false
            return ending == nil && divergence == nil ? nil : lastArrival
        }
        stopClock()
        let stops = journey.course.ring3Stops
        let landmark = try tape.landmark()
        let isStopped = isAtTouch || stops.contains(linearRIP)
        guard journey.course.watched.isEmpty || isShielded(journey) && !isStopped,
            journey.wanted == nil, !journey.course.isStep, !isAtStart || !isStopped
        else { return try stepRing3(&journey, isInterrupted) }
        if let last = try lastStep(before: journey.course.limit) {
            guard journey.course.watched.isEmpty else {
                return try stepRing3(&journey, isInterrupted)
            }
            let goal = Ring3Goal(addresses: stops.map(\.rawValue))
            let ran = try walkRing3(to: last, goal, landmark, isInterrupted)
            return try finish(ran, &journey, nil, isInterrupted)
        }
        let start = way
        var entry = try here()
        if let start { entry = start.entry } else { try keep(entry) }
        var way = start ?? Ring3Way(entry: entry)
        var goal = ring3Goal(stops, journey.course.watched)
        if journey.unshielded == entry { goal.shield = nil }
        // Of a read it shows before it is made.
        var passing = TouchPassing(
            limit: journey.watchesReads ? 0 : .max, journey.course.watched, journey.contents)
        switch try runRing3(goal, landmark, passing: &passing, isInterrupted) {
        case .left(let ran):
            if goal.shield != nil {
                way.hit(goal, times: passing.count)
                way.end()
                journey.placeBefore = Place(position: entry, way: way)
            }
            return try finish(ran, &journey, nil, isInterrupted)
        case .landmark(.injected(let arrival)): return arrival
        case .landmark: return .diverged
        case .interrupted: journey.wanted = .interrupted
        case .lost: journey.unshielded = entry
        case .hit(let hit):
            // Its name is found when somebody asks for it.
            way.hit(goal, times: passing.count)
            standing = .inRing3
            ring3Steps = entry.ring3 ?? 0
            if case .passed = hit {
                journey.placeBefore = Place(position: entry, way: way)
                way.step()
                self.way = way
                return try finish(.stopped, &journey, nil, isInterrupted)
            }
            way.hit(goal)
            self.way = way
            if case .stop(let address) = hit { return .breakpoint(GuestVirtualAddress(address)) }
            // What it makes of the memory shows behind it.
            journey.placeBefore = Place(position: entry, way: way)
            if isInterrupted() { journey.wanted = .interrupted }
            return try stepRing3(&journey, isInterrupted)
        }
        // Again from where it began: what has neither name nor way is no place.
        if let start {
            try go(along: start)
        } else {
            try restore(keyframes.index(atOrBefore: entry))
            if position != entry {
                let back = try attempt(Course(limit: entry, keepsFrames: false)) { false }
                guard back.isReached else { return .overshot }
            }
        }
        journey.isDelivered = false
        return nil
    }

    /// One step in ring 3, or into it.
    private mutating func stepRing3(
        _ journey: inout Journey, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        let glance = journey.watchesReads ? try self.glance() : nil
        let ran = try stepRing3()
        if case .stopped = ran, let glance { note(glance, &journey) }
        return try finish(ran, &journey, glance, isInterrupted)
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

    /// Steps through ring 3, which is next: to a step of this number, to a goal, or to where the
    /// registers are a landmark's. From a goal at which it stands one step is made in any case.
    mutating func walkRing3(
        to last: UInt64, _ goal: Ring3Goal, _ landmark: Landmark?,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Ran {
        let search = landmark.map { LandmarkSearch($0) }
        try kvm { () throws(KVMError) in
            try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
        }
        isTimerSet = true
        while true {
            let together = try stepsTogether(to: last, goal, landmark?.registers.rip)
            let ran: Ran
            if let together {
                ran = together
            } else {
                ran = try stepRing3(isAt(goal) ? nil : goal.shield)
            }
            if case .kicked = ran {
                if isInterrupted() { return ran }
                try kvm { () throws(KVMError) in
                    try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
                }
                continue
            }
            if isAtTouch { return ran }
            guard case .stopped = ran, standing == .inRing3 else { return ran }
            if ring3Steps >= last || goal.addresses.contains(linearRIP.rawValue)
                || search?.matches(machine.currentRegisters) ?? false
            {
                return ran
            }
        }
    }

    /// Steps that are taken together, up to the first at which ``walkRing3(to:_:_:_:)`` may end or
    /// that needs care; nil where the next one does.
    private mutating func stepsTogether(
        to last: UInt64, _ goal: Ring3Goal, _ landmark: UInt64?
    ) throws(ExecutionError) -> Ran? {
        guard standing == .inRing3, way == nil, isInRing3, !isAt(goal) else { return nil }
        var code = Ring3Code(machine.currentSystemRegisters)
        guard !code.needsCare(at: machine.currentRegisters.rip, machine.memory) else { return nil }
        var steps = ring3Steps
        let stop = try withRing3Stops { machine, stops throws(ExecutionError) in
            stops.shield = goal.shield
            return try stops.steps(&machine.cpu, machine.memory) { cpu in
                steps &+= 1
                // SAFETY: the page's registers do not change before the next run.
                let rip = unsafe cpu.registersPointer.pointee.rip
                return steps >= last || rip == landmark || goal.addresses.contains(rip)
                    || code.needsCare(at: rip, machine.memory)
            }
        }
        if case .stepped = stop {} else { ring3Steps = steps }
        return try leave(stop, steps: steps)
    }

    /// What a run through ring 3 came to.
    private enum Ring3Passage {
        /// To its end, or nowhere.
        case left(Ran)
        /// To the place of an interrupt that the tape has.
        case landmark(Injection)
        /// To a goal, nobody knows after how many steps.
        case hit(Ring3Hit)
        /// Somebody asked for it.
        case interrupted
        /// Nowhere from where it could go on.
        case lost
    }

    /// How often the place of an interrupt is passed that no replay comes to, before the machine is put
    /// there: stops between are missed from then on.
    private static let storedPasses = 1024

    /// Runs ring 3, which is next, until something of interest.
    private mutating func runRing3(
        _ goal: Ring3Goal, _ landmark: Landmark?, passing: inout TouchPassing,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Ring3Passage {
        let place = landmark?.registers.rip
        let goals = [goal] + (place.map { [Ring3Goal(addresses: [$0])] } ?? [])
        let search = landmark.map { LandmarkSearch($0) }
        // A step may have led there.
        if isInRing3, machine.currentRegisters.rip == place { ring3Passes += 1 }
        while true {
            let passed = passing.count
            let hit = try runRing3(goals, passing: &passing, isInterrupted)
            switch hit {
            case .left(let stop): return .left(try leave(stop, steps: 0))
            case .interrupted: return .interrupted
            case .lost: return .lost
            case .passed: return .hit(hit)
            // The touch before led to it.
            case .stop where passing.count > passed && passing.isChanged(machine.memory):
                return .hit(.passed)
            case .touch, .stop: if goal.includes(hit) { return .hit(hit) }
            }
            let registers = machine.currentRegisters
            ring3Passes += 1
            if let landmark, landmark.stored != nil, ring3Passes > Self.storedPasses {
                return .landmark(try reachRing3(landmark))
            }
            guard let landmark, search?.matches(registers) ?? false,
                try isWhole(landmark, registers)
            else { continue }
            return .landmark(try reachRing3(landmark))
        }
    }

    /// Whether all of the state is a landmark's, registers apart.
    mutating func isWhole(
        _ landmark: Landmark, _ registers: GeneralRegisters
    ) throws(ExecutionError) -> Bool {
        _ = try settle()
        let memory = try machine.memoryDigest()
        // What the CPU holds takes several requests to ask for.
        if let parts = landmark.parts, parts.memory != memory.low { return false }
        var state = try kvm { () throws(KVMError) in
            try MachineState(&machine.cpu, memory: memory)
        }
        state.registers = registers
        return state.digest == landmark.state
    }
}
