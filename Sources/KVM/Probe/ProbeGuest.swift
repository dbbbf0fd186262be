internal import Machine

/// The machine that probes run in: RAM from 0 with a GDT, an IDT and page tables for long mode. A
/// guest is some bytes of machine code and lives for microseconds, on a CPU of its own.
///
/// All probes share one machine: making and ending one takes the kernel some 7 ms, which waits for
/// every CPU to have noticed; a further vCPU takes 0.1 ms.
///
/// Every exception and interrupt `v` in long mode ends in `mov al, v; out 0xEF, al; hlt`, so that
/// a fault comes out as an exit that names it. VMCALL is never used: it does not return on some
/// hosts.
struct ProbeGuest: ~Copyable {
    /// RAM ends below 0xA0000, over which DS is put in real mode.
    static let byteCount = 0x80000
    /// Where code for ring 0 and for real mode starts.
    static let code = 0x8000
    /// Where code for ring 3 starts.
    static let userCode = 0xA000
    /// Free for data.
    static let data = 0xB000
    /// A guest-physical and linear address without memory (long mode).
    static let mmio: UInt64 = 0x1000_0000
    /// The port that exception handlers write their vector to.
    static let faultPort: UInt16 = 0xEF

    private static let pageTables = 0x2000
    private static let gdt = 0x5000
    private static let tss = 0x5100
    private static let tssLimit = 0x168
    private static let idt = 0x6000
    private static let stack: UInt64 = 0x8000
    private static let handlers = 0x9000
    private static let userStack: UInt64 = 0xD000

    let memory: ScratchMemory
    var machine: VirtualMachine
    private var nextCPU: UInt32 = 0

    init(_ hypervisor: borrowing Hypervisor) throws(KVMError) {
        let memory = try ScratchMemory(byteCount: Self.byteCount)
        var machine = try hypervisor.createMachine()
        // VMX without unrestricted guests needs both for real mode; others ignore them.
        if machine.check(.setIdentityMapAddress) > 0 {
            try machine.setIdentityMapAddress(GuestPhysicalAddress(0xFFFB_C000))
        }
        if machine.check(.setTSSAddress) > 0 {
            try machine.setTSSAddress(GuestPhysicalAddress(0xFFFB_D000))
        }
        if machine.check(.msrFilter) > 0, machine.check(.userSpaceMSR) > 0 {
            try machine.setMSRFilter([MSRFilterRange(first: PhaseProbes.msr)])
        }
        // Some KVMs deliver #UD for what they cannot emulate unless told otherwise.
        if machine.check(.exitOnEmulationFailure) > 0 {
            try machine.enable(.exitOnEmulationFailure, 1)
        }
        // SAFETY: memory and machine are fields of one value, and the CPUs made of it are local
        // to probes that hold the guest.
        try unsafe machine.setMemory(
            slot: 0, at: GuestPhysicalAddress(0), memory: memory.bytes, flags: .logDirtyPages)
        self.memory = memory
        self.machine = machine
        load()
    }

    /// Puts RAM as it is at the start, with the code of one probe.
    func load(code: [UInt8] = [], userCode: [UInt8] = []) {
        memory.clear()
        Self.writeTables(memory)
        memory.write(code, at: Self.code)
        memory.write(userCode, at: Self.userCode)
    }

    private mutating func newCPU() throws(KVMError) -> SettledCPU {
        let cpu = try machine.createCPU(id: nextCPU)
        nextCPU += 1
        return cpu
    }

    private static func writeTables(_ memory: borrowing ScratchMemory) {
        // Identity map of the first GiB in pages of 2 MiB, open to ring 3 (Intel SDM vol. 3, 4.5).
        memory.write64(UInt64(pageTables + 0x1000) | 7, at: pageTables)
        memory.write64(UInt64(pageTables + 0x2000) | 7, at: pageTables + 0x1000)
        for index in 0..<512 {
            memory.write64(
                UInt64(index) << 21 | 0x87, at: pageTables + 0x2000 + index * 8)
        }
        let descriptors: [UInt64] = [
            0, 0x00AF_9A00_0000_FFFF, 0x00CF_9200_0000_FFFF, 0x00CF_FA00_0000_FFFF,
            0x00CF_F200_0000_FFFF, 0x00AF_FA00_0000_FFFF,
            0x0000_8B00_0000_0000 | UInt64(tssLimit) | UInt64(tss) << 16, 0,
        ]
        for (index, descriptor) in descriptors.enumerated() {
            memory.write64(descriptor, at: gdt + index * 8)
        }
        // RSP0, and a bitmap that opens ports below 0x800 to ring 3 except 0x81: not every host
        // keeps an IOPL that IRETQ loads (Intel SDM vol. 1, 19.5.2).
        memory.write64(stack, at: tss + 4)
        memory.write([0x68, 0], at: tss + 0x66)
        memory.write([2], at: tss + 0x68 + 0x81 / 8)
        memory.write([0xFF], at: tss + tssLimit)
        for vector in 0..<256 {
            let handler = handlers + vector * 8
            memory.write([0xB0, UInt8(vector), 0xE6, UInt8(faultPort), 0xF4], at: handler)
            // An interrupt gate of 64 bits; DPL 3, so that ring 3 may use INT3.
            memory.write64(
                UInt64(handler) & 0xFFFF | 0x08 << 16 | 0xEE00 << 32, at: idt + vector * 16)
        }
    }

    /// A CPU in real mode at ``code``, with ES = 0 and DS over 0xA0000, where there
    /// is no memory.
    mutating func realModeCPU(
        cpuid: [CPUIDEntry] = [], _ set: (inout GeneralRegisters) -> Void = { _ in }
    ) throws(KVMError) -> SettledCPU {
        var cpu = try newCPU()
        if !cpuid.isEmpty { try cpu.setCPUID(cpuid) }
        var system = try cpu.systemRegisters()
        system[.cs].base = 0
        system[.cs].selector = 0
        system[.ds].base = 0xA0000
        system[.ds].selector = 0xA000
        try cpu.setSystemRegisters(system)
        try cpu.setRegisters(Self.registers(set))
        return cpu
    }

    /// A CPU in 64-bit mode, ring 0, at ``code``.
    mutating func longModeCPU(
        cpuid: [CPUIDEntry], _ set: (inout GeneralRegisters) -> Void = { _ in }
    ) throws(KVMError) -> SettledCPU {
        var cpu = try newCPU()
        try cpu.setCPUID(cpuid)
        var system = try cpu.systemRegisters()
        system[.cs] = Segment(limit: ~0, selector: 0x08, type: 0xB, l: true, g: true)
        let data = Segment(limit: ~0, selector: 0x10, type: 0x3, db: true, g: true)
        for name in [SystemRegisters.SegmentName.ds, .es, .fs, .gs, .ss] { system[name] = data }
        system[.tr] = Segment(
            base: UInt64(Self.tss), limit: UInt32(Self.tssLimit), selector: 0x30, type: 0xB,
            s: false)
        system[.ldt] = Segment(limit: 0, type: 2, present: false, s: false, unusable: true)
        system.gdt = DescriptorTable(base: UInt64(Self.gdt), limit: 0x3F)
        system.idt = DescriptorTable(base: UInt64(Self.idt), limit: 0xFFF)
        system[.cr0] = 0x8005_0033
        system[.cr3] = UInt64(Self.pageTables)
        system[.cr4] = 0x620
        system[.efer] = 0x501
        try cpu.setSystemRegisters(system)
        try cpu.setRegisters(Self.registers(set))
        return cpu
    }

    /// A CPU in 64-bit mode that enters ring 3 at ``userCode`` by IRETQ as its first instruction.
    mutating func userModeCPU(
        cpuid: [CPUIDEntry], _ set: (inout GeneralRegisters) -> Void = { _ in }
    ) throws(KVMError) -> SettledCPU {
        memory.write([0x48, 0xCF], at: Self.code)
        let frame = Int(Self.stack) - 0x100
        let words: [UInt64] = [UInt64(Self.userCode), 0x2B, 2, Self.userStack, 0x23]
        for (index, word) in words.enumerated() { memory.write64(word, at: frame + index * 8) }
        return try longModeCPU(cpuid: cpuid) {
            set(&$0)
            $0[.rsp] = UInt64(frame)
        }
    }

    private static func registers(_ set: (inout GeneralRegisters) -> Void) -> GeneralRegisters {
        var registers = GeneralRegisters()
        registers.rip = UInt64(code)
        registers.rflags = 2
        registers[.rsp] = stack
        set(&registers)
        return registers
    }
}

/// A probe guest that runs under a timer: one that does not come back is kicked.
struct ProbeRun: ~Copyable {
    /// How long one stretch of a probe guest may take, far beyond what any needs.
    static let limitNanoseconds: UInt64 = 200_000_000

    var cpu: PendingCPU
    let timer: KickTimer

    init(_ cpu: consuming SettledCPU) throws(KVMError) {
        self.cpu = cpu.begin()
        timer = try self.cpu.makeKickTimer()
    }

    /// The next exit, nil if the guest was stopped by the timer.
    mutating func next() throws(KVMError) -> Exit? {
        try timer.arm(nanoseconds: Self.limitNanoseconds)
        var result: Exit?
        run: while true {
            switch try cpu.run() {
            case .exit(let exit):
                result = exit
                break run
            case .interrupted:
                // Another signal than the timer's does not end a probe.
                if cpu.acknowledgeKick() { break run }
            }
        }
        try timer.disarm()
        cpu.acknowledgeKick()
        return result
    }

    /// The CPU, settled; nil if something was pending that made a further exit.
    consuming func settled() throws(KVMError) -> SettledCPU? {
        guard case .settled(let cpu) = try cpu.settle() else { return nil }
        return cpu
    }

    /// The vector, if the exit is that of an exception handler of the probe guest.
    func faultVector(_ exit: Exit?) -> UInt8? {
        guard case .io(let io) = exit, io.port == ProbeGuest.faultPort else { return nil }
        return UInt8(truncatingIfNeeded: cpu.ioValue)
    }
}
