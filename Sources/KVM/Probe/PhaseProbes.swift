internal import Machine

/// Where RIP stands in each kind of exit.
enum PhaseProbes {
    /// What an instruction of a probe guest makes KVM return.
    private enum Kind {
        case input
        case output
        case mmioRead
        case mmioWrite
        case rdmsr
        case wrmsr
        case hlt

        func matches(_ exit: Exit) -> Bool {
            switch (self, exit) {
            case (.input, .io(let io)): io.direction == .input
            case (.output, .io(let io)):
                io.direction == .output && io.port != ProbeGuest.faultPort
            case (.mmioRead, .mmio(let mmio)): !mmio.isWrite
            case (.mmioWrite, .mmio(let mmio)): mmio.isWrite
            case (.rdmsr, .rdmsr), (.wrmsr, .wrmsr), (.hlt, .hlt): true
            default: false
            }
        }
    }

    /// One instruction: its bytes, and the exit it is to make.
    private struct Step {
        var bytes: [UInt8]
        var kind: Kind
        var path: WritableKeyPath<RIPPhases, RIPPhase>
    }

    // Before RDMSR, since it overwrites DX. ES:DI and ES:SI (real) or DI and SI (long) are RAM.
    private static func io(outs: [UInt8]) -> [Step] {
        [
            Step(bytes: [0xE6, 0x80], kind: .output, path: \.outImmediate),
            Step(bytes: [0xEE], kind: .output, path: \.outDX),
            Step(bytes: [0xEC], kind: .input, path: \.input),
            Step(bytes: [0x6C], kind: .input, path: \.ins),
            Step(bytes: outs, kind: .output, path: \.outs),
        ]
    }
    private static func mmio(read: [UInt8], write: [UInt8]) -> [Step] {
        [
            Step(bytes: read, kind: .mmioRead, path: \.mmioRead),
            Step(bytes: write, kind: .mmioWrite, path: \.mmioWrite),
        ]
    }
    private static var privileged: [Step] {
        [
            Step(bytes: [0x0F, 0x32], kind: .rdmsr, path: \.rdmsr),
            Step(bytes: [0x0F, 0x30], kind: .wrmsr, path: \.wrmsr),
            Step(bytes: [0xF4], kind: .hlt, path: \.hlt),
        ]
    }

    /// An MSR that every CPU has: the time-stamp counter.
    static let msr: UInt32 = 0x10

    private static func setRegisters(_ registers: inout GeneralRegisters, mmio: UInt64) {
        registers[.rbx] = mmio
        registers[.rcx] = UInt64(msr)
        registers[.rdx] = 0x510
        registers[.rsi] = UInt64(ProbeGuest.data)
        registers[.rdi] = UInt64(ProbeGuest.data) + 0x100
    }

    private static func walk(
        _ steps: [Step], from start: Int, _ run: inout ProbeRun, _ phases: inout RIPPhases
    ) throws(KVMError) {
        var address = UInt64(start)
        for step in steps {
            guard let exit = try run.next(), step.kind.matches(exit) else { return }
            phases[keyPath: step.path] = phase(
                run.cpu.registers.rip, at: address, length: step.bytes.count)
            if case .rdmsr = exit { run.cpu.answerMSR(0) }
            if case .wrmsr = exit { run.cpu.answerMSR() }
            address += UInt64(step.bytes.count)
        }
    }

    private static func phase(_ rip: UInt64, at address: UInt64, length: Int) -> RIPPhase {
        switch rip {
        case address: .at
        case address + UInt64(length): .after
        default: .unknown
        }
    }

    static func real(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        let steps =
            io(outs: [0x26, 0x6E]) + mmio(read: [0xA0, 0, 0], write: [0xA2, 0, 0]) + privileged
        guest.load(code: steps.flatMap(\.bytes))
        var run = try ProbeRun(
            try guest.realModeCPU(cpuid: cpuid) { setRegisters(&$0, mmio: 0) })
        try walk(steps, from: ProbeGuest.code, &run, &result.real)
    }

    static func ring0(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        let steps = io(outs: [0x6E]) + mmio(read: [0x8A, 0x03], write: [0x88, 0x03]) + privileged
        guest.load(code: steps.flatMap(\.bytes))
        var run = try ProbeRun(
            try guest.longModeCPU(cpuid: cpuid) { setRegisters(&$0, mmio: ProbeGuest.mmio) })
        try walk(steps, from: ProbeGuest.code, &run, &result.ring0)
    }

    static func ring3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        let steps = io(outs: [0x6E]) + mmio(read: [0x8A, 0x03], write: [0x88, 0x03])
        guest.load(userCode: steps.flatMap(\.bytes) + [0xE6, 0x80, 0xEB, 0xFE])
        var run = try ProbeRun(
            try guest.userModeCPU(cpuid: cpuid) { setRegisters(&$0, mmio: ProbeGuest.mmio) })
        try walk(steps, from: ProbeGuest.userCode, &run, &result.ring3)
    }

    // MARK: REP

    /// Runs `rep insb` and `rep outsb` of 8 and notes the first exit of each.
    private static func repeated(
        ins: Int, outs: Int, insLength: Int, outsLength: Int, _ run: inout ProbeRun,
        _ phases: inout RIPPhases
    ) throws(KVMError) -> (ins: Int, outs: Int) {
        var counts = (ins: 0, outs: 0)
        // Eight of each at most, then whatever follows.
        for _ in 0..<17 {
            guard case .io(let io)? = try run.next(), io.port == 0x510 else { return counts }
            let rip = run.cpu.registers.rip
            if io.direction == .input, counts.ins == 0 {
                counts.ins = Int(io.count)
                phases.repIns = phase(rip, at: UInt64(ins), length: insLength)
            }
            if io.direction == .output, counts.outs == 0 {
                counts.outs = Int(io.count)
                phases.repOuts = phase(rip, at: UInt64(outs), length: outsLength)
            }
        }
        return counts
    }

    // mov ecx, 8; rep insb; mov ecx, 8; rep outsb; hlt or a port of another number
    private static let repeatedCode: [UInt8] = [
        0xB9, 8, 0, 0, 0, 0xF3, 0x6C, 0xB9, 8, 0, 0, 0, 0xF3, 0x6E, 0xE6, 0x80, 0xEB, 0xFE,
    ]

    static func repeatedRing0(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(code: repeatedCode)
        var run = try ProbeRun(
            try guest.longModeCPU(cpuid: cpuid) { setRegisters(&$0, mmio: 0) })
        let start = ProbeGuest.code
        let counts = try repeated(
            ins: start + 5, outs: start + 12, insLength: 2, outsLength: 2, &run, &result.ring0)
        result.repInsAccesses = counts.ins
        result.repOutsAccesses = counts.outs
    }

    static func repeatedRing3(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load(userCode: repeatedCode)
        var run = try ProbeRun(
            try guest.userModeCPU(cpuid: cpuid) { setRegisters(&$0, mmio: 0) })
        let start = ProbeGuest.userCode
        _ = try repeated(
            ins: start + 5, outs: start + 12, insLength: 2, outsLength: 2, &run, &result.ring3)
    }

    static func repeatedReal(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        // mov cx, 8; rep insb; mov cx, 8; rep es outsb; hlt
        let code: [UInt8] = [
            0xB9, 8, 0, 0xF3, 0x6C, 0xB9, 8, 0, 0xF3, 0x26, 0x6E, 0xF4,
        ]
        guest.load(code: code)
        var run = try ProbeRun(
            try guest.realModeCPU(cpuid: cpuid) { setRegisters(&$0, mmio: 0) })
        let start = ProbeGuest.code
        _ = try repeated(
            ins: start + 3, outs: start + 8, insLength: 2, outsLength: 3, &run, &result.real)
    }

    // MARK: Page-crossing MMIO

    static func pageCrossing(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        // mov [rbx], rax; out 0x80, al; hlt
        guest.load(code: [0x48, 0x89, 0x03, 0xE6, 0x80, 0xF4])
        var run = try ProbeRun(
            try guest.longModeCPU(cpuid: cpuid) { $0[.rbx] = ProbeGuest.mmio + 0xFFC })
        var exits = 0
        while exits < 16 {
            switch try run.next() {
            case .mmio: exits += 1
            case .io(let io) where io.port == 0x80:
                result.pageCrossingMMIOExits = exits
                return
            default: return
            }
        }
    }
}
