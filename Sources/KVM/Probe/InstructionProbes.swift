internal import Machine

/// Instructions that ring 0 cannot execute on this host, because KVM emulates ring 0 and its
/// emulator does not know them.
enum InstructionProbes {
    /// Names and encodings; RSI points to zeroed, aligned memory, RAX and RCX are 3, RDX is 0.
    static let table: [(name: String, bytes: [UInt8])] = [
        ("cmpxchg", [0x48, 0x0F, 0xB1, 0x06]),
        ("cmpxchg8b", [0x0F, 0xC7, 0x0E]),
        ("cmpxchg16b", [0x48, 0x0F, 0xC7, 0x0E]),
        ("xadd", [0x48, 0x0F, 0xC1, 0x06]),
        ("bswap", [0x48, 0x0F, 0xC8]),
        ("imul", [0x48, 0x0F, 0xAF, 0xC1]),
        ("shld", [0x48, 0x0F, 0xA4, 0xC8, 0x03]),
        ("bsf", [0x0F, 0xBC, 0xC1]),
        ("popcnt", [0xF3, 0x0F, 0xB8, 0xC1]),
        ("tzcnt", [0xF3, 0x0F, 0xBC, 0xC1]),
        ("lzcnt", [0xF3, 0x0F, 0xBD, 0xC1]),
        ("crc32", [0xF2, 0x0F, 0x38, 0xF1, 0xC1]),
        ("movbe", [0x0F, 0x38, 0xF0, 0x06]),
        ("andn", [0xC4, 0xE2, 0x70, 0xF2, 0xC2]),
        ("adcx", [0x66, 0x0F, 0x38, 0xF6, 0xC1]),
        ("movnti", [0x48, 0x0F, 0xC3, 0x06]),
        ("fwait", [0x9B]),
        ("fninit", [0xDB, 0xE3]),
        ("fld", [0xD9, 0x06]),
        ("ldmxcsr", [0x0F, 0xAE, 0x16]),
        ("fxsave", [0x48, 0x0F, 0xAE, 0x06]),
        ("fxrstor", [0x48, 0x0F, 0xAE, 0x0E]),
        ("xgetbv", [0x0F, 0x01, 0xD0]),
        ("xsave", [0x48, 0x0F, 0xAE, 0x26]),
        ("xrstor", [0x48, 0x0F, 0xAE, 0x2E]),
        ("movaps", [0x0F, 0x28, 0x06]),
        ("paddd", [0x66, 0x0F, 0xFE, 0xC1]),
        ("pxor", [0x66, 0x0F, 0xEF, 0xC0]),
        ("movq", [0x66, 0x48, 0x0F, 0x6E, 0xC0]),
        ("aesenc", [0x66, 0x0F, 0x38, 0xDC, 0xC1]),
        ("vmovups", [0xC5, 0xF8, 0x10, 0x06]),
        ("stac", [0x0F, 0x01, 0xCB]),
        ("clflush", [0x0F, 0xAE, 0x3E]),
        ("clwb", [0x66, 0x0F, 0xAE, 0x36]),
        ("invlpg", [0x0F, 0x01, 0x3E]),
        ("invpcid", [0x66, 0x0F, 0x38, 0x82, 0x06]),
        ("swapgs", [0x0F, 0x01, 0xF8]),
        ("rdfsbase", [0xF3, 0x48, 0x0F, 0xAE, 0xC0]),
        ("rdtscp", [0x0F, 0x01, 0xF9]),
        ("rdpmc", [0x0F, 0x33]),
        ("monitor", [0x0F, 0x01, 0xC8]),
        ("wbinvd", [0x0F, 0x09]),
        ("lfence", [0x0F, 0xAE, 0xE8]),
        ("prefetch", [0x0F, 0x18, 0x0E]),
        ("endbr64", [0xF3, 0x0F, 0x1E, 0xFA]),
        ("int3", [0xCC]),
    ]

    static func unemulated(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        guest.load()
        var cpu = try guest.longModeCPU(cpuid: cpuid)
        let system = try cpu.systemRegisters()
        let timer = try cpu.makeKickTimer()
        var names: [String] = []
        for (number, instruction) in table.enumerated() {
            // Each at its own address, so that nothing decoded before is met again.
            let at = 0x30000 + number * 64
            guest.memory.write(instruction.bytes + [0xE6, 0x80, 0xF4], at: at)
            var registers = GeneralRegisters()
            registers.rip = UInt64(at)
            registers.rflags = 2
            registers[.rsp] = 0x8000
            registers[.rax] = 3
            registers[.rcx] = 3
            // Zeros of its own; XSAVE of x87 and SSE writes 576 bytes.
            registers[.rsi] = UInt64(0x40000 + number * 0x1000)
            try cpu.setSystemRegisters(system)
            try cpu.setRegisters(registers)
            var pending = cpu.begin()
            try timer.arm(nanoseconds: ProbeRun.limitNanoseconds)
            let outcome = try pending.run()
            try timer.disarm()
            pending.acknowledgeKick()
            switch outcome {
            case .exit(.io): break
            case .interrupted: return
            // An internal error, or whatever else an emulator gives up with.
            default: names.append(instruction.name)
            }
            guard case .settled(let settled) = try pending.settle() else { return }
            cpu = settled
        }
        result.unemulated = names
    }
}
