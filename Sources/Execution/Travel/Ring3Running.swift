internal import KVM
internal import Machine

/// Runs through ring 3.
extension TimeMachine {
    /// Whether the machine stands at a goal that a run was stopped at.
    func isAt(_ goal: Ring3Goal) -> Bool {
        isAtTouch || isInRing3 && goal.addresses.contains(machine.currentRegisters.rip)
    }

    /// Runs ring 3, which is next, to one of some goals; one at which it stands is passed first. All
    /// goals that have a shield have the same.
    ///
    /// - Parameters:
    ///   - kick: after so many nanoseconds a kick ends it, as an interruption does.
    ///   - stopsBehind: stops behind the goal at which it stands, too.
    mutating func runRing3(
        _ goals: [Ring3Goal], _ isInterrupted: () -> Bool, kickAfter kick: UInt64? = nil,
        stopsBehind: Bool = false
    ) throws(ExecutionError) -> Ring3Hit {
        var passing = TouchPassing.none
        return try runRing3(
            goals, passing: &passing, isInterrupted, kickAfter: kick, stopsBehind: stopsBehind)
    }

    /// The same, past some touches.
    mutating func runRing3(
        _ goals: [Ring3Goal], passing: inout TouchPassing, _ isInterrupted: () -> Bool,
        kickAfter kick: UInt64? = nil, stopsBehind: Bool = false
    ) throws(ExecutionError) -> Ring3Hit {
        var planted = goals[0].addresses
        for goal in goals.dropFirst() {
            planted += goal.addresses.filter { !planted.contains($0) }
        }
        while true {
            let start = machine.currentRegisters.rip
            let isPlanted = isInRing3 && (isAtTouch || planted.contains(start))
            let before = passing.count
            let run = Ring3Run(
                planted: planted,
                // What leads to ring 3 is KVM's emulator's, and no touch.
                target: !isInRing3 && goals.contains { $0.shield != nil } ? ring3Target : nil,
                shield: isInRing3 && !isAtTouch ? Self.shield(of: goals, at: start) : nil,
                // Wherever it is not planted.
                shieldBehind: Self.shield(of: goals, at: nil),
                kick: kick ?? Self.lookNanoseconds)
            isTimerSet = true
            var stop = try withRing3Stops { machine, stops throws(ExecutionError) in
                isPlanted
                    ? try run.step(&machine, &stops)
                    : try run.begin(&machine, &stops, &passing)
            }
            if case .raised = stop, run.shieldBehind != nil {
                // A page walk may have been refused.
                let open = Ring3Run(planted: planted, kick: run.kick)
                stop = try withRing3Stops { machine, stops throws(ExecutionError) in
                    try open.step(&machine, &stops)
                }
            }
            let address = machine.currentRegisters.rip
            switch stop {
            case .breakpoint, .stepped:
                if planted.contains(address) { return .stop(address) }
                if stopsBehind, isPlanted { return .passed }
                if passing.count > before, passing.isChanged(machine.memory) { return .passed }
            case .touched: return .touch(address)
            case .kicked:
                _ = machine.cpu.acknowledgeKick()
                // It came just before the INT3, which the next run would step over.
                if !isPlanted || passing.count > before, isInRing3, planted.contains(address) {
                    return .stop(address)
                }
                if kick != nil { return .interrupted }
                guard isInterrupted() else { continue }
                // Where touches come often, the next is a place.
                guard passing.count > 0, passing.limit > passing.count else {
                    return .interrupted
                }
                passing.limit = passing.count
            case .exit(let exit) where RunLoop.isUncounted(exit): continue
            case .exit(.mmio(let access)) where run.shieldBehind?.covers(access) ?? false:
                return .lost
            case .raised, .exit: return .left(stop)
            }
        }
    }

    /// The shield of some goals where ring 3 stands at an address; nil: at none of theirs.
    private static func shield(of goals: [Ring3Goal], at address: UInt64?) -> Shield? {
        for goal in goals {
            let shield = address.map { goal.shield(at: $0) } ?? goal.shield
            if let shield { return shield }
        }
        return nil
    }
}

/// One run or step of ring 3, and what follows while the table is out of force.
private struct Ring3Run {
    /// Where it stops.
    let planted: [UInt64]
    /// Where ring 3 is entered, if it is to stop there.
    var target: UInt64?
    /// What is kept from the first instruction, and from those behind a touch.
    var shield: Shield?
    var shieldBehind: Shield?
    /// After how many nanoseconds it is kicked.
    let kick: UInt64

    /// One instruction.
    func step(
        _ machine: inout GuestMachine, _ stops: inout Ring3Stops
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        try prepare(&machine, &stops)
        return try stops.step(&machine.cpu, machine.memory)
    }

    /// To the next stop, past some touches.
    func begin(
        _ machine: inout GuestMachine, _ stops: inout Ring3Stops, _ passing: inout TouchPassing
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        try prepare(&machine, &stops)
        var stop = try stops.run(&machine.cpu, machine.memory)
        while case .touched = stop, !planted.contains(machine.currentRegisters.rip),
            passing.takesOne()
        {
            stop = try pass(&machine, &stops)
            guard case .stepped = stop, !planted.contains(machine.currentRegisters.rip),
                !passing.isChanged(machine.memory)
            else { return stop }
            stops.shield = shieldBehind
            stop = try stops.run(&machine.cpu, machine.memory)
        }
        return stop
    }

    private func prepare(
        _ machine: inout GuestMachine, _ stops: inout Ring3Stops
    ) throws(ExecutionError) {
        let system = machine.currentSystemRegisters
        for address in planted {
            _ = try stops.plant(address, system: system, memory: machine.memory)
        }
        if let target { _ = try stops.plant(target, system: system, memory: machine.memory) }
        try arm(&machine)
        stops.shield = shield
    }

    /// Steps over an instruction that touches the shield, whatever kicks come.
    private func pass(
        _ machine: inout GuestMachine, _ stops: inout Ring3Stops
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        stops.shield = nil
        while true {
            let stop = try stops.step(&machine.cpu, machine.memory)
            switch stop {
            case .kicked:
                _ = machine.cpu.acknowledgeKick()
                // For who looks at times.
                try arm(&machine)
            case .exit(let exit) where RunLoop.isUncounted(exit): continue
            default: return stop
            }
        }
    }

    private func arm(_ machine: inout GuestMachine) throws(ExecutionError) {
        try kvm { () throws(KVMError) in try machine.cpu.armKick(nanoseconds: kick) }
    }
}
