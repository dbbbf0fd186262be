internal import KVM
internal import Machine

/// What ring 3 is run to at full speed.
struct Ring3Goal: Equatable, Sendable {
    /// Instructions, each before it is executed.
    var addresses: [UInt64] = []
    /// Memory, before an instruction that touches it; nil: none. The one that ring 3 stands at as one of
    /// the addresses is not told from it.
    var shield: Shield?
    /// Where ring 3 is left.
    var isEnd = false

    static let end = Ring3Goal(isEnd: true)

    /// Whether there is nothing that ring 3 is stopped at.
    var isEmpty: Bool { addresses.isEmpty && shield == nil }

    /// What of memory stops an instruction at an address.
    func shield(at address: UInt64) -> Shield? { addresses.contains(address) ? nil : shield }

    /// Whether a stop is one of these.
    func includes(_ hit: Ring3Hit) -> Bool {
        switch hit {
        case .stop(let address): addresses.contains(address)
        case .touch(let address): shield(at: address) != nil
        case .left: isEnd
        case .passed, .interrupted, .lost: false
        }
    }
}

/// What a run to the next of some goals came to.
enum Ring3Hit {
    /// An instruction is next.
    case stop(UInt64)
    /// The instruction that is next, at this address, touches memory that is shielded.
    case touch(UInt64)
    /// The goal at which it stood is behind, and no other is next; only where that was asked for.
    case passed
    /// Ring 3 is left; nothing was done about it.
    case left(Ring3Stops.Stop)
    case interrupted
    /// Something else came to what is shielded: the machine is of no use until it is restored.
    case lost
}

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
        var planted = goals[0].addresses
        for goal in goals.dropFirst() {
            planted += goal.addresses.filter { !planted.contains($0) }
        }
        while true {
            let start = machine.currentRegisters.rip
            let isPlanted = isInRing3 && (isAtTouch || planted.contains(start))
            var shield: Shield?
            if isInRing3, !isAtTouch {
                for goal in goals where shield == nil { shield = goal.shield(at: start) }
            }
            // What leads to ring 3 is KVM's emulator's, and no touch.
            let target =
                !isInRing3 && goals.contains { $0.shield != nil } ? ring3Target : nil
            var stop = try stopRing3(shield, at: planted, target, kick) {
                machine, stops throws(ExecutionError) in
                isPlanted
                    ? try stops.step(&machine.cpu, machine.memory)
                    : try stops.run(&machine.cpu, machine.memory)
            }
            if case .raised = stop, shield != nil {
                // A page walk may have been refused.
                stop = try stopRing3(nil, at: planted, nil, kick) {
                    machine, stops throws(ExecutionError) in
                    try stops.step(&machine.cpu, machine.memory)
                }
            }
            let address = machine.currentRegisters.rip
            switch stop {
            case .breakpoint, .stepped:
                if planted.contains(address) { return .stop(address) }
                if stopsBehind, isPlanted { return .passed }
            case .touched: return .touch(address)
            case .kicked:
                _ = machine.cpu.acknowledgeKick()
                // It came just before the INT3, which the next run would step over.
                if !isPlanted, isInRing3, planted.contains(address) { return .stop(address) }
                if kick != nil || isInterrupted() { return .interrupted }
            case .exit(let exit) where RunLoop.isUncounted(exit): continue
            case .exit(.mmio(let access)) where shield?.covers(access) ?? false: return .lost
            case .raised, .exit: return .left(stop)
            }
        }
    }

    /// Runs or steps ring 3 with a shield, and stops.
    private mutating func stopRing3(
        _ shield: Shield?, at planted: [UInt64], _ target: UInt64?, _ kick: UInt64?,
        _ body: (inout GuestMachine, inout Ring3Stops) throws(ExecutionError) -> Ring3Stops.Stop
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        defer { isTimerSet = true }
        return try withRing3Stops { machine, stops throws(ExecutionError) in
            let system = machine.currentSystemRegisters
            for address in planted {
                _ = try stops.plant(address, system: system, memory: machine.memory)
            }
            if let target { _ = try stops.plant(target, system: system, memory: machine.memory) }
            try kvm { () throws(KVMError) in
                try machine.cpu.armKick(nanoseconds: kick ?? Self.lookNanoseconds)
            }
            stops.shield = shield
            return try body(&machine, &stops)
        }
    }
}
