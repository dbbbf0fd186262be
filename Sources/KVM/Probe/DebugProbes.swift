internal import Machine

/// Breakpoints and stepping, by ring.
enum DebugProbes {
    private static let nops: [UInt8] = [0x90, 0x90, 0x90, 0xE6, 0x80, 0xEB, 0xFE]

    private static func address(_ number: Int) -> GuestVirtualAddress {
        GuestVirtualAddress(UInt64(number))
    }

    /// Whether an exit is the stop that was asked for. A stop elsewhere is none: where ring 3 runs
    /// on the bare CPU, the trap goes to the guest's handler, and that is what is stepped.
    private static func answer(_ exit: Exit?, pc: Int) -> Probed {
        switch exit {
        case .debug(let stop) where stop.pc == address(pc): .yes
        case .io(let io) where io.port == 0x80 || io.port == ProbeGuest.faultPort: .no
        case .debug, .internalError: .no
        default: .unknown
        }
    }

    static func breakpointRing0(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: nops)
        let stop = ProbeGuest.code + 1
        let wish = GuestDebug(breakpoints: [.init(address(stop))])
        var cpu = try guest.longModeCPU(cpuid: cpuid)
        try cpu.setGuestDebug(wish)
        var run = try ProbeRun(cpu)
        result.breakpointRing0 = answer(try run.next(), pc: stop)
        guard result.breakpointRing0 == .yes,
            case .settled(var stopped) = try run.cpu.settle()
        else { return }
        var registers = try stopped.registers()
        registers.rflags |= 1 << 16
        try stopped.setRegisters(registers)
        var again = try ProbeRun(stopped)
        switch answer(try again.next(), pc: stop) {
        case .yes: result.resumeFlag = .no
        case .no: result.resumeFlag = .yes
        case .unknown: break
        }
    }

    static func breakpointRing3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: nops)
        let stop = ProbeGuest.userCode + 1
        var cpu = try guest.userModeCPU(cpuid: cpuid)
        try cpu.setGuestDebug(GuestDebug(breakpoints: [.init(address(stop))]))
        var run = try ProbeRun(cpu)
        result.breakpointRing3 = answer(try run.next(), pc: stop)
    }

    /// Each kind in each ring. A watchpoint is a trap: it stops after the access.
    static func watchpoint(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        result.watchpointRing0 = try stopsAt(.write, inRing3: false, &guest, cpuid)
        result.watchpointRing3 = try stopsAt(.write, inRing3: true, &guest, cpuid)
        result.accessWatchpointRing0 = try stopsAt(.access, inRing3: false, &guest, cpuid)
        result.accessWatchpointRing3 = try stopsAt(.access, inRing3: true, &guest, cpuid)
    }

    private static func stopsAt(
        _ kind: GuestDebug.Breakpoint.Kind, inRing3: Bool, _ guest: inout ProbeGuest,
        _ cpuid: [CPUIDEntry]
    ) throws(KVMError) -> Probed {
        // mov [rsi], rax, or mov rax, [rsi]; out 0x80, al; jmp self
        let code: [UInt8] = [0x48, kind == .write ? 0x89 : 0x8B, 0x06, 0xE6, 0x80, 0xEB, 0xFE]
        guest.load(code: inRing3 ? [] : code, userCode: inRing3 ? code : [])
        let data = UInt64(ProbeGuest.data)
        var cpu =
            try inRing3
            ? guest.userModeCPU(cpuid: cpuid) { $0[.rsi] = data }
            : guest.longModeCPU(cpuid: cpuid) { $0[.rsi] = data }
        try cpu.setGuestDebug(
            GuestDebug(breakpoints: [.init(address(ProbeGuest.data), kind: kind, length: 8)]))
        var run = try ProbeRun(cpu)
        let start = inRing3 ? ProbeGuest.userCode : ProbeGuest.code
        return answer(try run.next(), pc: start + 3)
    }

    // out 0x82, al; nop; nop; out 0x80, al; jmp self
    private static let steps: [UInt8] = [0xE6, 0x82, 0x90, 0x90, 0xE6, 0x80, 0xEB, 0xFE]
    // out 0x82, al; int3; out 0x80, al; jmp self
    private static let int3: [UInt8] = [0xE6, 0x82, 0xCC, 0xE6, 0x80, 0xEB, 0xFE]

    /// Runs to the first OUT, arms, and tells whether the guest then stops at `pc`.
    private static func afterFirstOut(
        _ run: consuming ProbeRun, arm wish: GuestDebug, pc: Int
    ) throws(KVMError) -> Probed {
        guard case .io(let io)? = try run.next(), io.port == 0x82,
            case .settled(var cpu) = try run.cpu.settle()
        else { return .unknown }
        try cpu.setGuestDebug(wish)
        var armed = try ProbeRun(cpu)
        return answer(try armed.next(), pc: pc)
    }

    static func stepRing0(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: steps)
        result.singleStepRing0 = try afterFirstOut(
            ProbeRun(guest.longModeCPU(cpuid: cpuid)), arm: GuestDebug(singleStep: true),
            pc: ProbeGuest.code + 3)
    }

    static func stepRing3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: steps)
        result.singleStepRing3 = try afterFirstOut(
            ProbeRun(guest.userModeCPU(cpuid: cpuid)), arm: GuestDebug(singleStep: true),
            pc: ProbeGuest.userCode + 3)
    }

    static func int3Ring0(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: int3)
        result.softwareBreakpointRing0 = try afterFirstOut(
            ProbeRun(guest.longModeCPU(cpuid: cpuid)), arm: GuestDebug(softwareBreakpoints: true),
            pc: ProbeGuest.code + 2)
    }

    static func int3Ring3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: int3)
        result.softwareBreakpointRing3 = try afterFirstOut(
            ProbeRun(guest.userModeCPU(cpuid: cpuid)), arm: GuestDebug(softwareBreakpoints: true),
            pc: ProbeGuest.userCode + 2)
    }

    /// A step and an INT3 in ring 3 without an interrupt table: each must come out as a shutdown
    /// behind its instruction that says which exception it was, and the guest must go on from there.
    static func exceptionRing3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        // Elsewhere the stops that KVM offers do it, and a shutdown may take the CPU's state along.
        guard result.breakpointRing3 == .no, result.singleStepRing3 == .no else { return }
        result.exceptionStopsRing3 = .no
        // out 0x82, al; nop; int3; out 0x80, al; jmp self
        guest.load(userCode: [0xE6, 0x82, 0x90, 0xCC, 0xE6, 0x80, 0xEB, 0xFE])
        var run = try ProbeRun(guest.userModeCPU(cpuid: cpuid))
        guard case .io(let io)? = try run.next(), io.port == 0x82,
            case .settled(var cpu) = try run.cpu.settle()
        else { return }
        try cpu.setGuestDebug(GuestDebug(singleStep: true))
        var stepped = try ProbeRun(cpu)
        let limit = try stepped.cpu.setInterruptTableLimit(0)
        guard let stop = try shutdown(&stepped), stop == (1, UInt64(ProbeGuest.userCode + 3)),
            case .settled(var afterStep) = try stepped.cpu.settle()
        else { return }
        try afterStep.setGuestDebug(.off)
        var trapped = try ProbeRun(afterStep)
        guard let trap = try shutdown(&trapped), trap == (3, UInt64(ProbeGuest.userCode + 4))
        else { return }
        _ = try trapped.cpu.setInterruptTableLimit(limit)
        guard case .io(let last)? = try trapped.next(), last.port == 0x80 else { return }
        result.exceptionStopsRing3 = .yes
    }

    /// The exception behind a shutdown, and RIP there; nil where the guest does something else.
    private static func shutdown(
        _ run: inout ProbeRun
    ) throws(KVMError) -> (vector: UInt8, rip: UInt64)? {
        guard case .shutdown? = try run.next() else { return nil }
        return (run.cpu.events.exceptionVector, run.cpu.registers.rip)
    }
}
