internal import Glibc
internal import Guest
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

/// Touches of a goal's shield that a run does not stop at.
struct TouchPassing {
    /// How many at most.
    var limit: UInt64
    /// What the memory is to hold, if it matters: the run stops behind a touch that changes it.
    var watched: [Watchpoint] = []
    var contents: [[UInt8]] = []
    /// How many were passed.
    private(set) var count: UInt64 = 0

    static let none = TouchPassing(limit: 0)

    init(limit: UInt64, _ watched: [Watchpoint] = [], _ contents: [[UInt8]] = []) {
        self.limit = limit
        self.watched = watched
        self.contents = contents
    }

    /// Whether one more may be passed, which then counts.
    mutating func takesOne() -> Bool {
        guard count < limit else { return false }
        count += 1
        return true
    }

    /// Whether what is watched has changed.
    func isChanged(_ memory: borrowing GuestMemory) -> Bool {
        for (watchpoint, bytes) in zip(watched, contents) {
            // SAFETY: the bytes are read at once, and lie in RAM.
            guard let host = unsafe memory.host(watchpoint.address, count: bytes.count) else {
                continue
            }
            if unsafe memcmp(host, bytes, bytes.count) != 0 { return true }
        }
        return false
    }
}

/// What a run to the next of some goals came to.
enum Ring3Hit {
    /// An instruction is next.
    case stop(UInt64)
    /// The instruction that is next, at this address, touches memory that is shielded.
    case touch(UInt64)
    /// The goal at which it stood, or the touch that it passed last, is behind, and no other is next:
    /// where that was asked for, or what is watched changed.
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
                kick: kick ?? Self.lookNanoseconds, isStep: isPlanted, stopsBehind: stopsBehind)
            isTimerSet = true
            var stop = try withRing3Stops { machine, stops throws(ExecutionError) in
                try run.begin(&machine, &stops, &passing)
            }
            if case .raised = stop, run.shieldBehind != nil {
                // A page walk may have been refused.
                var none = TouchPassing.none
                let again = Ring3Run(
                    planted: planted, target: nil, shield: nil, shieldBehind: nil, kick: run.kick,
                    isStep: true, stopsBehind: true)
                stop = try withRing3Stops { machine, stops throws(ExecutionError) in
                    try again.begin(&machine, &stops, &none)
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
    let planted: [UInt64]
    let target: UInt64?
    let shield: Shield?
    let shieldBehind: Shield?
    let kick: UInt64
    let isStep: Bool
    let stopsBehind: Bool

    func begin(
        _ machine: inout GuestMachine, _ stops: inout Ring3Stops, _ passing: inout TouchPassing
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        let system = machine.currentSystemRegisters
        for address in planted {
            _ = try stops.plant(address, system: system, memory: machine.memory)
        }
        if let target { _ = try stops.plant(target, system: system, memory: machine.memory) }
        try arm(&machine)
        stops.shield = shield
        var stop =
            isStep
            ? try stops.step(&machine.cpu, machine.memory)
            : try stops.run(&machine.cpu, machine.memory)
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
