internal import Machine

/// Registers, counters, dirty log, MSR filter.
enum RegisterProbes {
    static let magic: UInt64 = 0x1122_3344_5566_7788

    static func synchronised(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guard SynchronisedRegisters(rawValue: UInt64(guest.machine.check(.syncRegisters))) == .all
        else {
            result.syncRegisters = .no
            return
        }
        guest.load(code: [0xE6, 0x80, 0xF4])
        var run = try ProbeRun(try guest.longModeCPU(cpuid: cpuid) { $0[.r15] = magic })
        guard case .io? = try run.next() else { return }
        var page = run.cpu.registers
        let pageSystem = run.cpu.systemRegisters
        guard case .settled(let cpu) = try run.cpu.settle() else { return }
        let fetched = try cpu.registers()
        // Settling may skip the OUT; nothing else may move.
        page.rip = fetched.rip
        let fetchedSystem = try cpu.systemRegisters()
        result.syncRegisters = Probed(
            page == fetched && page[.r15] == magic && pageSystem == fetchedSystem)
    }

    // out 0x82, al; mov [rsi], rax; out 0x80, al; jmp self
    private static let writeCode: [UInt8] = [
        0xE6, 0x82, 0x48, 0x89, 0x06, 0xE6, 0x80, 0xEB, 0xFE,
    ]

    static func writeAfterOutRing0(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: writeCode)
        var run = try ProbeRun(
            try guest.longModeCPU(cpuid: cpuid) { $0[.rsi] = UInt64(ProbeGuest.data) })
        result.syncWriteAfterOutRing0 = try writeAfterOut(guest.memory, &run)
    }

    static func writeAfterOutRing3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: writeCode)
        var run = try ProbeRun(
            try guest.userModeCPU(cpuid: cpuid) { $0[.rsi] = UInt64(ProbeGuest.data) })
        result.syncWriteAfterOutRing3 = try writeAfterOut(guest.memory, &run)
    }

    private static func writeAfterOut(
        _ memory: borrowing ScratchMemory, _ run: inout ProbeRun
    ) throws(KVMError) -> Probed {
        guard case .io(let first)? = try run.next(), first.port == 0x82 else { return .unknown }
        var registers = run.cpu.registers
        registers[.rax] = magic
        guard try run.cpu.replaceRegistersAfterOut(registers) else { return .unknown }
        guard case .io(let second)? = try run.next(), second.port == 0x80 else { return .no }
        return Probed(memory.read64(at: ProbeGuest.data) == magic)
    }

    static func immediateExit(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: [0xE6, 0x80, 0xF4])
        var cpu = try guest.longModeCPU(cpuid: cpuid).begin()
        cpu.kicker.kick()
        guard case .interrupted = try cpu.run() else {
            result.immediateExit = .no
            return
        }
        cpu.acknowledgeKick()
        guard case .exit(.io) = try cpu.run() else { return }
        result.immediateExit = .yes
    }

    static func instructionCounter(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        let out: [UInt8] = [0xE6, 0x80]
        let nops = { (count: Int) in [UInt8](repeating: 0x90, count: count) }
        guest.load(code: out + nops(10) + out + nops(100) + out + [0xF4])
        let cpu = try guest.longModeCPU(cpuid: cpuid)
        guard guest.machine.check(.binaryStatistics) > 0 else {
            result.instructionCounter = .no
            return
        }
        let statistics = try cpu.statistics()
        guard let counter = statistics.find("insn_emulation") else {
            result.instructionCounter = .no
            return
        }
        var run = try ProbeRun(cpu)
        var readings: [UInt64] = []
        for _ in 0..<3 {
            guard case .io? = try run.next() else { return }
            readings.append(try statistics.read(counter))
        }
        // An OUT and its nops: 11 and 101 where every instruction is counted once.
        result.instructionCounter = Probed(
            readings[1] &- readings[0] == 11 && readings[2] &- readings[1] == 101)
    }

    static func dirtyLog(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        // mov [rsi], rax; out 0x80, al; hlt
        guest.load(code: [0x48, 0x89, 0x06, 0xE6, 0x80, 0xF4])
        let page = ProbeGuest.data / 4096
        var run = try ProbeRun(
            try guest.longModeCPU(cpuid: cpuid) { $0[.rsi] = UInt64(ProbeGuest.data) })
        var bitmap = [UInt64](repeating: 0, count: ProbeGuest.byteCount / 4096 / 64)
        func isDirty() throws(KVMError) -> Bool {
            var span = bitmap.mutableSpan
            try guest.machine.readDirtyLog(slot: 0, into: &span)
            return bitmap[page / 64] >> UInt64(page % 64) & 1 != 0
        }
        // What earlier guests wrote; then nothing; then the page.
        _ = try isDirty()
        guard try !isDirty() else {
            result.dirtyLog = .no
            return
        }
        guard case .io? = try run.next() else { return }
        let shown = try isDirty()
        // Reading it clears it.
        let again = try isDirty()
        result.dirtyLog = Probed(shown && !again)
    }

    static func msrFilter(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guard guest.machine.check(.msrFilter) > 0, guest.machine.check(.userSpaceMSR) > 0 else {
            result.msrFilter = .no
            return
        }
        // rdmsr; mov [rsi], eax; mov [rsi + 4], edx; wrmsr; out 0x80, al; hlt
        guest.load(
            code: [0x0F, 0x32, 0x89, 0x06, 0x89, 0x56, 0x04, 0x0F, 0x30, 0xE6, 0x80, 0xF4])
        var run = try ProbeRun(
            try guest.longModeCPU(cpuid: cpuid) {
                $0[.rcx] = UInt64(PhaseProbes.msr)
                $0[.rsi] = UInt64(ProbeGuest.data)
            })
        guard let first = try run.next() else { return }
        result.msrFilter = .no
        guard case .rdmsr(let read) = first, read.index == PhaseProbes.msr else { return }
        run.cpu.answerMSR(magic)
        guard case .wrmsr(let write)? = try run.next(), write.value == magic else { return }
        run.cpu.answerMSR()
        guard case .io(let io)? = try run.next(), io.port == 0x80 else { return }
        result.msrFilter = Probed(guest.memory.read64(at: ProbeGuest.data) == magic)
    }

    static func emulationFailure(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        // The machine of the probes turned it on if it is there.
        result.exitOnEmulationFailure = Probed(guest.machine.check(.exitOnEmulationFailure) > 0)
    }

    static func xsave(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        result.xsaveByteCount = try guest.longModeCPU(cpuid: cpuid).xsaveByteCount
    }
}
