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

    /// Nothing is known of the stretch of ring 3 any more, which is behind.
    mutating func forgetStretch() {
        way = nil
        isAtTouch = false
        ring3Passes = 0
    }

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
    ///
    /// - Parameter shield: an instruction that touches this is not executed, but is where the machine
    ///   then stands as before (``isAtTouch``).
    mutating func stepRing3(_ shield: Shield? = nil) throws(ExecutionError) -> Ran {
        let steps = isInRing3 ? (standing == .inRing3 ? ring3Steps : 0) &+ 1 : 0
        let target = isInRing3 ? nil : ring3Target
        let isInside = isInRing3
        let stop = try withRing3Stops { machine, stops throws(ExecutionError) in
            if isInside {
                stops.shield = shield
                return try stops.step(&machine.cpu, machine.memory)
            }
            if let target {
                _ = try stops.plant(
                    target, system: machine.currentSystemRegisters, memory: machine.memory)
            }
            return try stops.run(&machine.cpu, machine.memory)
        }
        return try leave(stop, steps: steps)
    }

    /// Does something with the interrupt table out of force.
    mutating func withRing3Stops(
        _ body: (inout GuestMachine, inout Ring3Stops) throws(ExecutionError) -> Ring3Stops.Stop
    ) throws(ExecutionError) -> Ring3Stops.Stop {
        var stops = Ring3Stops()
        let wasAtTouch = isAtTouch
        isAtTouch = false
        try kvm { () throws(KVMError) in try stops.park(&machine.cpu) }
        let stop: Ring3Stops.Stop
        do throws(ExecutionError) { stop = try body(&machine, &stops) } catch {
            try stops.unpark(&machine.cpu, machine.memory)
            throw error
        }
        try stops.unpark(&machine.cpu, machine.memory)
        switch stop {
        case .touched: isAtTouch = true
        // Nothing was executed.
        case .kicked: isAtTouch = wasAtTouch
        case .exit(let exit) where RunLoop.isUncounted(exit): isAtTouch = wasAtTouch
        default: break
        }
        return stop
    }

    /// Goes on from a stop, to the next instruction that is a place.
    mutating func leave(
        _ stop: Ring3Stops.Stop, steps: UInt64
    ) throws(ExecutionError) -> Ran {
        switch stop {
        case .breakpoint, .stepped:
            standing = .inRing3
            if way == nil { ring3Steps = steps } else { way?.step() }
            return .stopped
        case .touched: return .stopped
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
    var ring3Target: UInt64? {
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

/// The code of ring 3 as it is stepped through, each page looked up once.
struct Ring3Code {
    private let system: SystemRegisters
    private var page: (linear: UInt64, physical: GuestPhysicalAddress)?

    init(_ system: SystemRegisters) { self.system = system }

    /// Whether the instruction at an address, or what is taken for it, is PUSHF or SYSCALL, of which
    /// a step shows; where that does not show from one page, too.
    mutating func needsCare(at address: UInt64, _ memory: borrowing GuestMemory) -> Bool {
        let linear = address & ~0xFFF
        if page?.linear != linear {
            guard
                let mapping = PageWalk.mapping(
                    of: GuestVirtualAddress(linear), system: system, memory: memory)
            else { return true }
            page = (linear, mapping.address)
        }
        let offset = address & 0xFFF
        guard let page, offset <= 0x1000 - Self.byteCount,
            // SAFETY: the bytes are read at once, and lie in RAM.
            let host = unsafe memory.host(
                GuestPhysicalAddress(page.physical.rawValue + offset), count: Int(Self.byteCount))
        else { return true }
        let bytes = unsafe host.loadUnaligned(as: UInt32.self)
        for index in 0..<UInt32(Self.byteCount) - 1 {
            let byte = UInt8(truncatingIfNeeded: bytes >> (index * 8))
            // Operand size, REX.
            if byte == 0x66 || byte & 0xF0 == 0x40 { continue }
            let next = UInt8(truncatingIfNeeded: bytes >> (index * 8 + 8))
            return byte == 0x9C || byte == 0x0F && next == 0x05
        }
        return true
    }

    private static let byteCount: UInt64 = 4
}
