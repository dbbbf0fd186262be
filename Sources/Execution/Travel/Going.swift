internal import KVM
public import Machine

/// From one place to another.
extension TimeMachine {
    /// Goes to a position, or to the first place after it at which the machine can rest.
    ///
    /// - Parameter isInterrupted: asked every ten milliseconds, and at every kick.
    /// - Returns: `arrived`; `historyEnd` where the run ends before; `interrupted` or `diverged`
    ///   where it came to that.
    public mutating func seek(
        to target: Position, isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        try stop(go(to: target, isInterrupted: isInterrupted))
    }

    /// Goes to the end of the run.
    public mutating func seekEnd(
        isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        // The last keyframe is nearer than the beginning.
        try start(towards: Position(exitCount: .max))
        return try stop(forward(Course(), isInterrupted: isInterrupted))
    }

    /// Executes instructions: up to the number given, each up to the next place at which the machine
    /// can rest. An exit ends an instruction.
    public mutating func step(
        _ count: UInt64 = 1, isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        for _ in 0..<count {
            if isInterrupted() { return .interrupted }
            let arrival = try stepOnce(isInterrupted)
            guard case .reached = arrival else { return try stop(arrival) }
        }
        return .arrived
    }

    mutating func stepOnce(_ isInterrupted: () -> Bool) throws(ExecutionError) -> Arrival {
        guard way == nil else {
            return try forward(Course(isStep: true), isInterrupted: isInterrupted)
        }
        return try forward(Course(limit: next), isInterrupted: isInterrupted)
    }

    /// The first place that can follow.
    private var next: Position {
        guard usesRing3Stops else {
            return Position(
                exitCount: position.exitCount, instructions: position.instructions &+ 1)
        }
        if standing == .inRing3 || (standing == .atExit && isInRing3) {
            return Position(
                exitCount: position.exitCount, instructions: position.instructions,
                ring3: (position.ring3 ?? 0) &+ 1)
        }
        return Position(
            exitCount: position.exitCount, instructions: position.instructions &+ 1, ring3: 0)
    }

    /// What a move tells its caller.
    func stop(_ arrival: Arrival) throws(ExecutionError) -> TravelStop {
        switch arrival {
        case .reached, .paused, .overshot, .shielded: .arrived
        case .breakpoint(let address): .breakpoint(address)
        case .touch(let hit): .watchpoint(hit)
        case .historyEnd: .historyEnd
        case .interrupted: .interrupted
        case .diverged:
            if let divergence { .diverged(divergence) } else { .arrived }
        }
    }

    /// Goes to a position or the first place after it.
    mutating func go(
        to target: Position, isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival {
        try start(towards: target)
        if position == target, way == nil, ending == nil { return .reached }
        return try forward(Course(limit: target), isInterrupted: isInterrupted)
    }

    /// Takes the best place known from which forward leads to a position: where the machine stands, or
    /// a keyframe.
    private mutating func start(towards target: Position) throws(ExecutionError) {
        let index = keyframes.index(atOrBefore: target)
        let frame = keyframes.frames[index]
        // Nobody knows how far it is to a place in the same stretch of ring 3.
        let isBehindStretch =
            (target.exitCount, target.instructions) > (position.exitCount, position.instructions)
        let isUseful =
            divergence == nil && position <= target && (ending == nil || position == target)
            && (way == nil || isBehindStretch)
        if isUseful {
            guard frame.position > position,
                frame.nanoseconds > guestNanoseconds &+ options.worthRestoring
            else { return }
        }
        try restore(index)
    }

    /// Puts the machine back to a keyframe.
    ///
    /// - Parameter anchor: an anchor of the stretch of ring 3 that begins there, to which it goes then.
    mutating func restore(
        _ index: Int, andTo anchor: Ring3Anchor? = nil
    ) throws(ExecutionError) {
        if isTimerSet {
            try kvm { () throws(KVMError) in try machine.cpu.armKick(nanoseconds: 0) }
            isTimerSet = false
        }
        try machine.cpu.abandon()
        if armed != .off {
            try kvm { () throws(KVMError) in try machine.cpu.setGuestDebug(.off) }
            armed = .off
        }
        let frame = keyframes.frames[try restoreMemory(index)]
        if let anchor { try restorePages(of: anchor) }
        let cpu = anchor?.cpu ?? frame.cpu
        try kvm { () throws(KVMError) in try machine.cpu.restore(cpu) }
        try rewindTape(to: frame.tape)
        loop.place = frame.loop
        if loop.mendsSyscall {
            try loop.watchSyscalls(&machine.cpu, isListenedTo: true, memory: machine.memory)
        }
        spanStart = frame.spanStart
        standing = frame.standing
        way = nil
        isAtTouch = false
        ring3Passes = 0
        ring3Steps = frame.position.ring3 ?? 0
        steps = 0
        lastSpan = 0
        guestNanoseconds = frame.nanoseconds
        began = nil
        ending = nil
        divergence = nil
        position = frame.position
    }

    // MARK: Keyframes

    /// Makes a keyframe if one is due and this is a place.
    mutating func considerKeyframe() throws(ExecutionError) {
        let isFree = began != nil
        stopClock()
        defer { if isFree { began = HostThread.monotonicNanoseconds() } }
        let here = try here()
        guard keyframes.isWanted(at: here, nanoseconds: guestNanoseconds), try canRest() else {
            return
        }
        try keep(here)
    }

    /// Makes a keyframe of where the machine stands.
    mutating func keep(_ here: Position) throws(ExecutionError) {
        guard ending == nil, divergence == nil, way == nil,
            hasCounter || here.instructions == 0
        else { return }
        let cpu = try kvm { () throws(KVMError) in try machine.cpu.checkpoint() }
        let frame = Keyframe(
            position: here, cpu: cpu, tape: tape.place, loop: loop.place, spanStart: spanStart,
            standing: standing == .atExit || standing == .inRing3 ? standing : .afterStop,
            nanoseconds: guestNanoseconds)
        do throws(ExecutionError) { try keyframes.insert(frame, &machine) } catch {
            // Without it, going back takes longer.
            guard keyframes.hasFile, case .trace = error else { throw error }
            try giveUpFile(error)
        }
    }
}
