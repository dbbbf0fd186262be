internal import Machine

/// Ways into ring 0: SYSCALL, INT3, INT n, interrupts.
enum EventProbes {
    static func syscall(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: [0x0F, 0x05, 0xEB, 0xFE])
        let handler = ProbeGuest.code + 0x100
        // out 0x81, al; hlt
        guest.memory.write([0xE6, 0x81, 0xF4], at: handler)
        // Port 0x81 is closed to ring 3: the handler's OUT faults if it is still there.
        var cpu = try guest.userModeCPU(cpuid: cpuid)
        let refused = try cpu.writeMSRs([
            MSRValue(index: 0xC000_0081, value: 0x18 << 48 | 0x08 << 32),
            MSRValue(index: 0xC000_0082, value: UInt64(handler)),
            MSRValue(index: 0xC000_0084, value: 0x200),
        ])
        guard refused.isEmpty else { return }
        var run = try ProbeRun(cpu)
        guard let exit = try run.next() else { return }
        result.syscall = .no
        if case .io(let io) = exit, io.port == 0x81, run.cpu.systemRegisters.cpl == 0 {
            result.syscall = .yes
        }
    }

    static func int3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: [0xCC, 0xF4])
        var run = try ProbeRun(try guest.longModeCPU(cpuid: cpuid))
        guard let exit = try run.next() else { return }
        result.int3Ring0 = Probed(run.faultVector(exit) == 3)
    }

    static func intN(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: [0xCD, 0x41, 0xEB, 0xFE])
        var run = try ProbeRun(try guest.userModeCPU(cpuid: cpuid))
        guard let exit = try run.next() else { return }
        result.intNRing3 = Probed(run.faultVector(exit) == 0x41)
    }

    static func interrupt(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        // sti; nop; out 0x80, al; out 0x81, al; hlt
        guest.load(code: [0xFB, 0x90, 0xE6, 0x80, 0xE6, 0x81, 0xF4])
        // mov al, 0x40; out 0xEF, al; iretq: the handler of vector 0x40, which goes back.
        guest.memory.write([0xB0, 0x40, 0xE6, 0xEF, 0x48, 0xCF], at: 0x9000 + 0x40 * 8)
        var run = try ProbeRun(try guest.longModeCPU(cpuid: cpuid))
        guard case .io(let first)? = try run.next(), first.port == 0x80,
            case .settled(var cpu) = try run.cpu.settle(), cpu.isReadyForInterrupt
        else { return }
        try cpu.interrupt(vector: 0x40)
        var after = try ProbeRun(cpu)
        guard let exit = try after.next() else { return }
        result.interruptInjection = .no
        guard after.faultVector(exit) == 0x40 else { return }
        guard case .io(let last)? = try after.next(), last.port == 0x81 else { return }
        result.interruptInjection = .yes
    }
}
