internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Ring 3 on hosts where KVM neither steps nor counts it: by its own exceptions (``Ring3Stops``).
///
/// A place there has the name of ring 3's entry and a count of single steps since. Ring 3 that is not
/// looked into runs by itself, and the machine rests where it ends.
extension TimeMachine {
    /// Ring 3 is stepped, and named, by its exceptions.
    var usesRing3Stops: Bool { !stepsRing3 && hasCounter && loop.usesRing3Stops }

    /// The guest is in ring 3.
    var isInRing3: Bool {
        // SAFETY: the page's registers do not change before the next run.
        unsafe machine.cpu.systemRegistersPointer.pointee.cpl == 3
    }

    /// Those of some breakpoints that stand in ring 3's code as it is mapped now.
    func inRing3(_ addresses: [GuestVirtualAddress]) -> [GuestVirtualAddress] {
        guard usesRing3Stops else { return [] }
        let system = machine.currentSystemRegisters
        return addresses.filter {
            Ring3Stops.place($0.rawValue, system: system, memory: machine.memory) != nil
        }
    }

    /// Whether the machine stands in ring 3 at a place that has a name, or a return to it is next.
    mutating func isRing3Next() throws(ExecutionError) -> Bool {
        if isInRing3 {
            guard standing == .inRing3 || standing == .atExit else { return false }
        } else {
            guard isReturnToRing3Next else { return false }
        }
        guard standing == .afterKick || standing == .atExit else { return true }
        return try kvm { () throws(KVMError) in try !machine.cpu.hasEventUnderWay() }
    }

    /// Whether the guest ran into the stretch of ring 3 in which a place is, so that nobody knows how
    /// far it is.
    mutating func isLost(before limit: Position) throws(ExecutionError) -> Bool {
        guard limit.ring3 != nil, limit.exitCount == loop.exitCount, isInRing3,
            standing == .afterKick, try ticks() == limit.instructions
        else { return false }
        return try kvm { () throws(KVMError) in try !machine.cpu.hasEventUnderWay() }
    }

    /// Executes one instruction of ring 3, or the return to it.
    mutating func stepRing3() throws(ExecutionError) -> Ran {
        let steps = isInRing3 ? (standing == .inRing3 ? ring3Steps : 0) &+ 1 : 0
        let target = isInRing3 ? nil : ring3Target
        let isInside = isInRing3
        let stop = try withRing3Stops { machine, stops throws(ExecutionError) in
            if isInside { return try stops.step(&machine.cpu, machine.memory) }
            if let target {
                _ = try stops.plant(
                    target, system: machine.currentSystemRegisters, memory: machine.memory)
            }
            return try stops.run(&machine.cpu, machine.memory)
        }
        return try leave(stop, steps: steps)
    }

    /// Steps through ring 3, which is next: to a step of this number, to an address, or to where the
    /// registers are a landmark's. One step is made in any case.
    mutating func walkRing3(
        to last: UInt64, _ addresses: [GuestVirtualAddress], _ landmark: Landmark?,
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Ran {
        let search = landmark.map { LandmarkSearch($0) }
        try kvm { () throws(KVMError) in
            try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
        }
        isTimerSet = true
        while true {
            let ran = try stepRing3()
            if case .kicked = ran {
                if isInterrupted() { return ran }
                try kvm { () throws(KVMError) in
                    try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
                }
                continue
            }
            guard case .stopped = ran, standing == .inRing3 else { return ran }
            if ring3Steps >= last || addresses.contains(linearRIP)
                || search?.matches(machine.currentRegisters) ?? false
            {
                return ran
            }
        }
    }

    /// What a run through ring 3 came to.
    enum Ring3Run {
        /// To its end, or nowhere.
        case left(Ran)
        /// To the place of an interrupt that the tape has.
        case landmark(Injection)
        /// To a breakpoint, nobody knows after how many steps.
        case stop
        /// Somebody asked for it.
        case interrupted
    }

    /// Runs ring 3, which is next, until something of interest.
    mutating func runRing3(
        _ addresses: [GuestVirtualAddress], _ landmark: Landmark?, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Ring3Run {
        let wanted = addresses.map(\.rawValue)
        let planted = wanted + (landmark.map { [$0.registers.rip] } ?? [])
        let search = landmark.map { LandmarkSearch($0) }
        while true {
            let stop = try withRing3Stops { machine, stops throws(ExecutionError) in
                for address in planted {
                    _ = try stops.plant(
                        address, system: machine.currentSystemRegisters, memory: machine.memory)
                }
                try kvm { () throws(KVMError) in
                    try machine.cpu.armKick(nanoseconds: Self.lookNanoseconds)
                }
                let registers = machine.currentRegisters
                let isPlanted = planted.contains(registers.rip)
                let isInside = machine.currentSystemRegisters.cpl == 3
                return isPlanted && isInside
                    ? try stops.step(&machine.cpu, machine.memory)
                    : try stops.run(&machine.cpu, machine.memory)
            }
            isTimerSet = true
            let registers = machine.currentRegisters
            switch stop {
            case .breakpoint, .stepped:
                if wanted.contains(registers.rip) { return .stop }
                guard let landmark, search?.matches(registers) ?? false,
                    try isWhole(landmark, registers)
                else { continue }
                return .landmark(try reachRing3(landmark))
            case .kicked:
                _ = machine.cpu.acknowledgeKick()
                if isInterrupted() { return .interrupted }
            case .exit(let exit) where RunLoop.isUncounted(exit): continue
            case .raised, .exit: return .left(try leave(stop, steps: 0))
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

    /// Does something with the interrupt table out of force.
    private mutating func withRing3Stops(
        _ body: (inout GuestMachine, inout Ring3Stops) throws(ExecutionError) -> Ring3Stops.Stop
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        var stops = Ring3Stops()
        try kvm { () throws(KVMError) in try stops.park(&machine.cpu) }
        let stop: Ring3Stops.Stop
        do throws(ExecutionError) { stop = try body(&machine, &stops) } catch {
            try stops.unpark(&machine.cpu, machine.memory)
            throw error
        }
        try stops.unpark(&machine.cpu, machine.memory)
        return stop
    }

    /// Goes on from a stop, to the next instruction that is a place.
    private mutating func leave(
        _ stop: Ring3Stops.Stop, steps: UInt64
    ) throws(ExecutionError) -> Ran {
        switch stop {
        case .breakpoint, .stepped:
            standing = .inRing3
            ring3Steps = steps
            return .stopped
        case .kicked:
            _ = machine.cpu.acknowledgeKick()
            return .kicked
        case .exit(let exit):
            if RunLoop.isUncounted(exit) { return .kicked }
            return .exit(try take(RunStep(exit, other: &loop.other)))
        case .raised(let vector):
            // It is raised once more, and the handler's first instruction is a place.
            let system = machine.currentSystemRegisters
            var debug = GuestDebug.off
            if let handler = PageWalk.handler(of: vector, system: system, memory: machine.memory) {
                debug.breakpoints = [GuestDebug.Breakpoint(GuestVirtualAddress(handler))]
            }
            if let arrival = try settle() { return .exit(arrival) }
            try kvm { () throws(KVMError) in try machine.cpu.setGuestDebug(debug) }
            armed = debug
            standing = .afterKick
            let ran = try run(slice: nil)
            if case .stopped = ran, try ticks() == 0 { standing = .atEntry }
            return ran
        }
    }

    /// Whether the next instruction of ring 0 leads to ring 3.
    private var isReturnToRing3Next: Bool {
        ReturnToRing3.isNext(
            machine.currentRegisters, system: machine.currentSystemRegisters,
            memory: machine.memory)
    }

    /// Where an IRET or SYSRET to ring 3 leads that is next (Intel SDM vol. 2).
    private var ring3Target: UInt64? {
        let registers = machine.currentRegisters
        let system = machine.currentSystemRegisters
        let prefix = byteOfCode(at: 0) ?? 0
        let opcode = prefix & 0xF0 == 0x40 ? byteOfCode(at: 1) ?? 0 : prefix
        guard opcode == 0xCF else { return registers[.rcx] }
        let bytes = PageWalk.read(
            GuestVirtualAddress(registers[.rsp]), count: prefix & 0xF8 == 0x48 ? 8 : 4,
            system: system, memory: machine.memory)
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}
