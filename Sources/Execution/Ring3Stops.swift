internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Stops in ring 3 on hosts where KVM's breakpoints and steps do not reach it, since ring 3 runs on
/// the bare CPU there (KVM-FACTS).
///
/// While the guest's interrupt table is out of force (limit 0), whatever ring 3 raises would be a
/// triple fault. KVM reports that as a shutdown and leaves CPU and memory as they were: no handler
/// has run and no frame was pushed. An INT3 that was planted in RAM is a breakpoint then, and KVM's
/// single step, whose #DB goes to the guest otherwise, is a step (some 40 µs each, measured). An
/// exception of the guest's own is raised again once the table is back in force.
///
/// Planted bytes are in RAM only between ``park(_:)`` and ``unpark(_:_:)``, and never when state is
/// digested.
struct Ring3Stops: PlaceStops {
    typealias Stop = PlaceStop

    private struct Planted {
        var address: UInt64
        var place: GuestPhysicalAddress
        var original: UInt8
    }

    /// INT3, one byte (Intel SDM vol. 2, INT n).
    private static let int3: UInt8 = 0xCC
    private static let breakpointVector: UInt8 = 3
    private static let debugVector: UInt8 = 1
    /// INT1, which traps like a step.
    private static let int1: UInt8 = 0xF1

    private var planted: [Planted] = []
    private var limit: UInt16?
    /// The guest's DR6, which a step's #DB changes.
    private var debugStatus: UInt64 = 0
    /// What of the CPU's state does not change while the table is out of force; nil: not asked for yet.
    private var privileged: PrivilegedState?
    /// How long the thread was on a CPU for the last run or step.
    private(set) var lastNanoseconds: UInt64 = 0

    /// Memory that the guest stops before it touches; nil: none.
    var shield: Shield?

    /// Where it stops.
    var addresses: [UInt64] { planted.map(\.address) }

    /// Takes the interrupt table out of force.
    mutating func park<CPU: Processor & ~Copyable>(_ cpu: inout CPU) throws(KVMError) {
        guard limit == nil else { return }
        debugStatus = try cpu.debugStatus()
        limit = try cpu.setInterruptTableLimit(0)
    }

    /// Puts table and RAM back.
    mutating func unpark<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        while let last = planted.last { try remove(last.address, memory) }
        guard let before = limit else { return }
        limit = nil
        privileged = nil
        do throws(KVMError) {
            _ = try cpu.setInterruptTableLimit(before)
            if try cpu.debugStatus() != debugStatus { try cpu.setDebugStatus(debugStatus) }
        } catch { throw .kvm(error) }
    }

    /// Stops at an address from now on; false where ring 3 has no code there.
    mutating func plant(
        _ address: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool {
        guard !planted.contains(where: { $0.address == address }) else { return true }
        guard let place = Self.place(address, system: system, memory: memory) else { return false }
        try plant(address, at: place, memory)
        return true
    }

    private mutating func plant(
        _ address: UInt64, at place: GuestPhysicalAddress, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        let original = try guest { () throws(GuestError) in try memory.read(place, count: 1)[0] }
        planted.append(Planted(address: address, place: place, original: original))
        try Self.write(Self.int3, place, memory)
    }

    /// Where ring 3's code at an address is; nil where it has none.
    static func place(
        _ address: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> GuestPhysicalAddress? {
        guard
            let mapping = PageWalk.mapping(
                of: GuestVirtualAddress(address), system: system, memory: memory),
            mapping.isUser
        else { return nil }
        // SAFETY: only whether there is a host address is asked.
        return unsafe memory.host(mapping.address, count: 1) == nil ? nil : mapping.address
    }

    /// No longer stops at an address.
    mutating func remove(
        _ address: UInt64, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        guard let index = planted.firstIndex(where: { $0.address == address }) else { return }
        let place = planted.remove(at: index)
        // What the guest has written there meanwhile stays.
        let now = try guest { () throws(GuestError) in try memory.read(place.place, count: 1)[0] }
        if now == Self.int3 { try Self.write(place.original, place.place, memory) }
    }

    /// The digest of the CPU's state as ``GuestCPU/stateDigest()`` has it when the table is back.
    mutating func stateDigest<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(KVMError) -> Digest128 {
        let known: PrivilegedState
        if let privileged {
            known = privileged
        } else {
            known = try cpu.privilegedState(debugStatus: debugStatus)
            privileged = known
        }
        return try cpu.stateDigest(known, interruptTableLimit: limit)
    }

    /// The digest of RAM as the guest has it, without what is planted.
    mutating func memoryDigest<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Digest128 {
        let places = planted
        for place in places { try remove(place.address, memory) }
        let result = try kvm { () throws(KVMError) in try cpu.memoryDigest(memory) }
        for place in places { try plant(place.address, at: place.place, memory) }
        return result
    }

    private static func write(
        _ byte: UInt8, _ place: GuestPhysicalAddress, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        do throws(GuestError) { try memory.write(place, [byte][...]) } catch { throw .guest(error) }
    }

    /// How long after a kick that came together with an exception another takes its place.
    private static let kickAgainNanoseconds: UInt64 = 20_000
    /// How many kicks in a row may come before a #BP or #DB does. A guest can stand behind an INT3 of ours by
    /// a jump, too.
    private static let kicksBehindInt3 = 16

    /// Runs ring 3 to its next stop; the table must be parked.
    ///
    /// A kick can find an exception on its way: raised, and not yet come out as a shutdown. The guest
    /// stands behind our INT3 or step then, and would be given the exception once the table is back
    /// in force, or run on without it: it is let come out first.
    mutating func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Stop { try run(&cpu, memory, isStep: false) }

    mutating func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory, isStep: Bool
    ) throws(ExecutionError) -> Stop {
        let began = HostThread.ownNanoseconds()
        defer { lastNanoseconds = HostThread.ownNanoseconds() &- began }
        // SAFETY: the page's registers do not change before the next run.
        let start = unsafe cpu.registersPointer.pointee
        guard var result = try enter(&cpu, memory) else { return .touched }
        var patience = Self.kicksBehindInt3
        while case .interrupted = result {
            let isUnderWay = try kvm { () throws(KVMError) in try cpu.hasEventUnderWay() }
            // Nor does it always tell of the #DB of a step that is done.
            let isStepped = unsafe isStep && cpu.registersPointer.pointee != start
            guard isUnderWay || patience > 0 && (isStepped || isBehindInt3(cpu)) else {
                return .kicked
            }
            patience -= 1
            _ = cpu.acknowledgeKick()
            try kvm { () throws(KVMError) in
                try cpu.armKick(nanoseconds: Self.kickAgainNanoseconds)
            }
            guard let again = try enter(&cpu, memory) else { return .touched }
            result = again
        }
        guard case .exit(let exit) = result else { return .kicked }
        guard case .shutdown = exit else { return .exit(exit) }
        let stop = try kvm { () throws(KVMError) -> Stop in
            try self.stop(&cpu, memory, isStep: isStep)
        }
        // A trap that the guest set itself would not be raised again by the same instruction.
        if case .raised(let vector) = stop, vector != Self.debugVector {
            try discount(&cpu, memory)
        }
        return stop
    }

    /// Enters the guest; nil where it came to what is shielded.
    private func enter<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> RunResult? {
        do throws(KVMError) {
            guard let shield else { return try cpu.run() }
            return try shield.run(&cpu, memory)
        } catch { throw .kvm(error) }
    }

    /// Whether the guest may have executed one of ours. KVM does not tell of a #BP on its way: it takes
    /// the guest to stand at the INT3 still, and to raise it again (KVM_GET_VCPU_EVENTS leaves soft
    /// exceptions out). Here RIP is behind it already.
    private func isBehindInt3<CPU: Processor & ~Copyable>(_ cpu: borrowing CPU) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        let rip = unsafe cpu.registersPointer.pointee.rip
        return planted.contains { $0.address == rip &- 1 }
    }

    /// Takes back what raising an exception in vain added to the instruction counter: of some, KVM
    /// tries to emulate the instruction first, and will again. Raised once more, it tells how much.
    private func discount<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        guard let before = try kvm({ () throws(KVMError) in try cpu.progress() }) else { return }
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        while case .interrupted = try enter(&cpu, memory) { _ = cpu.acknowledgeKick() }
        try kvm { () throws(KVMError) in
            guard let after = try cpu.progress() else { return }
            try cpu.discountProgress(2 &* (after &- before))
            // A trap has moved on.
            try cpu.moveRIP(to: registers.rip)
        }
    }

    private func stop<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory, isStep: Bool
    ) throws(KVMError) -> Stop {
        let vector = try cpu.raisedException()
        // SAFETY: the page's registers do not change before the next run.
        let rip = unsafe cpu.registersPointer.pointee.rip
        if vector == Self.breakpointVector {
            // A trap: RIP is behind it, in the guest's own case too.
            try cpu.moveRIP(to: rip &- 1)
            let isOurs = planted.contains { $0.address == rip &- 1 }
            return isOurs ? .breakpoint : .raised(vector)
        }
        if vector == Self.debugVector {
            if isStep { return .stepped }
            // SAFETY: as above.
            let system = unsafe cpu.systemRegistersPointer.pointee
            let before = PageWalk.read(
                GuestVirtualAddress(rip &- 1), count: 1, system: system, memory: memory)
            if before == [Self.int1] { try cpu.moveRIP(to: rip &- 1) }
        }
        return .raised(vector)
    }

    /// Executes the instruction at a planted place where the guest was just stopped.
    ///
    /// Where it is a jump, as at the end of a loop, without the CPU: that saves a run and what arms it.
    mutating func leave<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Stop {
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        let system = unsafe cpu.systemRegistersPointer.pointee
        guard shield == nil, system.mode == .long,
            registers[.rflags] & (FlagBits.trap | FlagBits.resume) == 0,
            let place = planted.first(where: { $0.address == registers.rip })
        else { return try step(&cpu, memory) }
        var code = PageWalk.read(
            GuestVirtualAddress(registers.rip), count: NearJump.maximumLength, system: system,
            memory: memory)
        if !code.isEmpty { code[0] = place.original }
        guard let jump = NearJump(code, at: registers.rip, Disassembler(for: system)) else {
            return try step(&cpu, memory)
        }
        let target = jump.destination(flags: registers[.rflags])
        // Else it might raise an exception.
        guard (target ^ registers.rip) >> 32 == 0 else { return try step(&cpu, memory) }
        lastNanoseconds = 0
        try kvm { () throws(KVMError) in try cpu.moveRIP(to: target) }
        return .stepped
    }

    /// Executes one instruction in ring 3, planted or not; the table must be parked.
    mutating func step<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Stop {
        // SAFETY: the page's registers do not change before the next run.
        let rip = unsafe cpu.registersPointer.pointee.rip
        let here = planted.first { $0.address == rip }
        if let here { try Self.write(here.original, here.place, memory) }
        let trace = unsafe StepTrace(
            registers: cpu.registersPointer.pointee, system: cpu.systemRegistersPointer.pointee)
        let stop: Stop
        if trace.isSyscall(memory) {
            // It would show the step in R11; by itself it raises a fault where it leads.
            stop = try run(&cpu, memory)
        } else {
            try kvm { () throws(KVMError) in
                try cpu.setGuestDebug(GuestDebug(singleStep: true))
            }
            stop = try run(&cpu, memory, isStep: true)
            try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
            if case .stepped = stop {
                trace.hidePushedFlags(unsafe cpu.registersPointer.pointee, memory)
            }
        }
        if let here { try Self.write(Self.int3, here.place, memory) }
        return stop
    }
}

extension Ring3Stops {
    /// Executes instructions in ring 3 one by one, until one leads to where `isEnd` says so, or raises
    /// something of its own; the table must be parked, and nothing planted.
    mutating func steps<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory,
        isEnd: (borrowing CPU) -> Bool
    ) throws(ExecutionError) -> Stop {
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(GuestDebug(singleStep: true)) }
        var stop = try run(&cpu, memory, isStep: true)
        while case .stepped = stop, !isEnd(cpu) { stop = try run(&cpu, memory, isStep: true) }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        return stop
    }
}

/// Instructions by which ring 0 returns to ring 3.
enum ReturnToRing3 {
    /// IRET and SYSRET behind their REX prefix (Intel SDM vol. 2).
    private static let iret: UInt8 = 0xCF
    private static let sysret: (UInt8, UInt8) = (0x0F, 0x07)

    /// Whether the next instruction is one, in 64-bit code.
    static func isNext(
        _ registers: GeneralRegisters, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> Bool {
        guard system.mode == .long, system.cpl == 0 else { return false }
        var code = PageWalk.read(
            GuestVirtualAddress(registers.rip), count: 3, system: system, memory: memory)[...]
        let prefix = code.first ?? 0
        let isWide = prefix & 0xF8 == 0x48
        if prefix & 0xF0 == 0x40 { code = code.dropFirst() }
        if code.count >= 2, code[code.startIndex] == sysret.0 {
            return code[code.startIndex + 1] == sysret.1
        }
        guard code.first == iret else { return false }
        // The frame is RIP, CS, RFLAGS, RSP, SS.
        let slot: UInt64 = isWide ? 8 : 4
        let selector = PageWalk.read(
            GuestVirtualAddress(registers[.rsp] &+ slot), count: 1, system: system, memory: memory)
        return (selector.first ?? 0) & 3 == 3
    }
}
