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
        let steps = standing == .inRing3 ? ring3Steps : 0
        return !journey.course.watched.isEmpty && steps < Self.watchedRing3Steps
    }

    /// Steps of ring 3 in one stretch after which what is watched is looked at only when it ends.
    private static let watchedRing3Steps: UInt64 = 1 << 14

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
        guard journey.course.watched.isEmpty, journey.wanted == nil, !journey.course.isStep,
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
        let start = way
        var entry = try here()
        if let start { entry = start.entry } else { try keep(entry) }
        switch try runRing3(stops, landmark, isInterrupted) {
        case .left(let ran): return try finish(ran, &journey, nil, isInterrupted)
        case .landmark(.injected(let arrival)): return arrival
        case .landmark: return .diverged
        case .interrupted: journey.wanted = .interrupted
        case .stop(let address):
            // Its name is found when somebody asks for it.
            var way = start ?? Ring3Way(entry: entry)
            way.hit(stops.map(\.rawValue))
            standing = .inRing3
            ring3Steps = entry.ring3 ?? 0
            self.way = way
            return .breakpoint(GuestVirtualAddress(address))
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

    /// Steps through ring 3, which is next: to a step of this number, to an address, or to where the
    /// registers are a landmark's. One step is made in any case.
    mutating func walkRing3(
        to last: UInt64, _ addresses: [GuestVirtualAddress], _ landmark: Landmark?,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Ran {
        let search = landmark.map { LandmarkSearch($0) }
        let wanted = addresses.map(\.rawValue)
        try kvm { () throws(KVMError) in
            try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
        }
        isTimerSet = true
        while true {
            let together = try stepsTogether(to: last, wanted, landmark?.registers.rip)
            let ran: Ran
            if let together { ran = together } else { ran = try stepRing3() }
            if case .kicked = ran {
                if isInterrupted() { return ran }
                try kvm { () throws(KVMError) in
                    try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
                }
                continue
            }
            guard case .stopped = ran, standing == .inRing3 else { return ran }
            if ring3Steps >= last || wanted.contains(linearRIP.rawValue)
                || search?.matches(machine.currentRegisters) ?? false
            {
                return ran
            }
        }
    }

    /// Steps that are taken together, up to the first at which ``walkRing3(to:_:_:_:)`` may end or
    /// that needs care; nil where the next one does.
    private mutating func stepsTogether(
        to last: UInt64, _ wanted: [UInt64], _ landmark: UInt64?
    ) throws(ExecutionError) -> Ran? {
        guard standing == .inRing3, way == nil, isInRing3 else { return nil }
        var code = Ring3Code(machine.currentSystemRegisters)
        guard !code.needsCare(at: machine.currentRegisters.rip, machine.memory) else { return nil }
        var steps = ring3Steps
        let stop = try withRing3Stops { machine, stops throws(ExecutionError) in
            try stops.steps(&machine.cpu, machine.memory) { cpu in
                steps &+= 1
                // SAFETY: the page's registers do not change before the next run.
                let rip = unsafe cpu.registersPointer.pointee.rip
                return steps >= last || rip == landmark || wanted.contains(rip)
                    || code.needsCare(at: rip, machine.memory)
            }
        }
        if case .stepped = stop {} else { ring3Steps = steps }
        return try leave(stop, steps: steps)
    }

    /// What a run through ring 3 came to.
    enum Ring3Run {
        /// To its end, or nowhere.
        case left(Ran)
        /// To the place of an interrupt that the tape has.
        case landmark(Injection)
        /// To a breakpoint, nobody knows after how many steps.
        case stop(UInt64)
        /// Somebody asked for it.
        case interrupted
    }

    /// How often the place of an interrupt is passed that no replay comes to, before the machine is put
    /// there: breakpoints between are missed from then on.
    private static let storedPasses = 1024

    /// Runs ring 3, which is next, until something of interest.
    private mutating func runRing3(
        _ addresses: [GuestVirtualAddress], _ landmark: Landmark?, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Ring3Run {
        let wanted = addresses.map(\.rawValue)
        let planted = wanted + (landmark.map { [$0.registers.rip] } ?? [])
        let search = landmark.map { LandmarkSearch($0) }
        var passes = 0
        while true {
            let address: UInt64
            switch try runRing3(planted, isInterrupted) {
            case .left(let stop): return .left(try leave(stop, steps: 0))
            case .interrupted: return .interrupted
            case .stop(let place): address = place
            }
            if wanted.contains(address) { return .stop(address) }
            let registers = machine.currentRegisters
            passes += 1
            if let landmark, landmark.stored != nil, passes > Self.storedPasses {
                return .landmark(try reachRing3(landmark))
            }
            guard let landmark, search?.matches(registers) ?? false,
                try isWhole(landmark, registers)
            else { continue }
            return .landmark(try reachRing3(landmark))
        }
    }

    /// What a run to the next of some addresses came to.
    enum Ring3Hit {
        case stop(UInt64)
        /// Ring 3 is left; nothing was done about it.
        case left(Ring3Stops.Stop)
        case interrupted
    }

    /// Runs ring 3, which is next, to one of some addresses; one at which it stands is passed first.
    ///
    /// - Parameter kick: after so many nanoseconds a kick ends it, as an interruption does.
    mutating func runRing3(
        _ planted: [UInt64], _ isInterrupted: () -> Bool, kickAfter kick: UInt64? = nil
    ) throws(ExecutionError) -> Ring3Hit {
        while true {
            let isPlanted = isInRing3 && planted.contains(machine.currentRegisters.rip)
            let stop = try withRing3Stops { machine, stops throws(ExecutionError) in
                for address in planted {
                    _ = try stops.plant(
                        address, system: machine.currentSystemRegisters, memory: machine.memory)
                }
                try kvm { () throws(KVMError) in
                    try machine.cpu.armKick(nanoseconds: kick ?? Self.lookNanoseconds)
                }
                return isPlanted
                    ? try stops.step(&machine.cpu, machine.memory)
                    : try stops.run(&machine.cpu, machine.memory)
            }
            isTimerSet = true
            let address = machine.currentRegisters.rip
            switch stop {
            case .breakpoint, .stepped: if planted.contains(address) { return .stop(address) }
            case .kicked:
                _ = machine.cpu.acknowledgeKick()
                // It came just before the INT3, which the next run would step over.
                if !isPlanted, isInRing3, planted.contains(address) { return .stop(address) }
                if kick != nil || isInterrupted() { return .interrupted }
            case .exit(let exit) where RunLoop.isUncounted(exit): continue
            case .raised, .exit: return .left(stop)
            }
        }
    }

    /// Whether all of the state is a landmark's, registers apart.
    mutating func isWhole(
        _ landmark: Landmark, _ registers: GeneralRegisters
    ) throws(ExecutionError) -> Bool {
        _ = try settle()
        let memory = try machine.memoryDigest()
        var state = try kvm { () throws(KVMError) in
            try MachineState(&machine.cpu, memory: memory)
        }
        state.registers = registers
        return state.digest == landmark.state
    }
}
