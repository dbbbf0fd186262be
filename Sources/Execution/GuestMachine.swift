public import Guest
public import KVM
public import Machine

/// A virtual machine with its guest loaded, at its first instruction: what a session drives.
///
/// Made in one fixed order from a load plan and a CPUID table alone, so that a recording and its
/// replay begin in the same state.
public struct GuestMachine: ~Copyable {
    /// The guest's memory. Declared before the machine that maps it, which must go first.
    let memory: GuestMemory
    private let machine: VirtualMachine
    var cpu: GuestCPU
    /// The CPUID table as KVM holds it after the table was set.
    public let observedCPUID: [CPUIDEntry]
    /// Registers at the first instruction, as KVM has them.
    public let registers: GeneralRegisters
    /// System registers at the first instruction, as KVM has them.
    public let systemRegisters: SystemRegisters
    /// Makes KVM_RUN return, from other threads.
    public let kicker: Kicker
    /// Which OUTs stand for rewritten instructions.
    let traps: RewriteTraps
    /// The world has a local APIC, so that CR8 is more than a number.
    let hasLocalAPIC: Bool
    /// Finds further ones; nil where none is looked for.
    let codeWatch: CodeWatch?
    /// The image says what of it is code: what is rewritten there is all that it begins with.
    let isCodeKnown: Bool

    /// Creates the machine and loads the guest.
    ///
    /// The calling thread is the one that must run it (KVM binds kicks to it).
    public init(
        hypervisor: borrowing Hypervisor, plan: LoadPlan, cpuid: [CPUIDEntry],
        rewriting: Rewriting = Rewriting(), msrFilter: [MSRFilterRange] = [],
        isListenedTo: Bool = true, hasLocalAPIC: Bool = false
    ) throws(ExecutionError) {
        let memory = try guest { () throws(GuestError) in
            try GuestMemory(layout: plan.ram, romLengthInBytes: plan.romLengthInBytes)
        }
        try guest { () throws(GuestError) in try plan.apply(to: memory) }
        try rewriting.apply(to: memory)
        let machine = try Self.makeMachine(hypervisor, memory, msrFilter)
        var cpu = try kvm { () throws(KVMError) in
            // Events too would cost 1 % of an exit, and no exit needs them.
            try machine.createCPU(synchronisation: isListenedTo ? [.general, .system] : .general)
        }
        let handle = try kvm { () throws(KVMError) -> VirtualMachine in try machine.duplicate() }
        let savedMSRs = try kvm { () throws(KVMError) in try hypervisor.savedMSRIndices() }
        let initial = try kvm { () throws(KVMError) in
            try cpu.setCPUID(cpuid)
            try cpu.setSystemRegisters(plan.systemRegisters)
            try cpu.setRegisters(plan.registers)
            return (try cpu.cpuid(), try cpu.registers(), try cpu.systemRegisters())
        }
        (observedCPUID, registers, systemRegisters) = initial
        kicker = cpu.kicker
        self.hasLocalAPIC = hasLocalAPIC
        traps = rewriting.traps
        codeWatch = rewriting.watch
        isCodeKnown = !plan.code.isEmpty && plan.code.allSatisfy(\.isCertain)
        self.cpu = GuestCPU(cpu.begin(), of: handle, savedMSRs: savedMSRs)
        self.machine = machine
        self.memory = memory
    }

    private static func makeMachine(
        _ hypervisor: borrowing Hypervisor, _ memory: borrowing GuestMemory,
        _ msrFilter: [MSRFilterRange]
    ) throws(ExecutionError) -> VirtualMachine {
        do throws(KVMError) {
            var machine = try hypervisor.createMachine()
            // Intel hosts need three pages for a TSS and one for an identity map; both go where
            // no RAM and no device is (Documentation/virt/kvm/api.rst 4.35, 4.41).
            if machine.check(.setIdentityMapAddress) > 0 {
                try machine.setIdentityMapAddress(GuestPhysicalAddress(0xFEFF_C000))
            }
            if machine.check(.setTSSAddress) > 0 {
                try machine.setTSSAddress(GuestPhysicalAddress(0xFEFF_D000))
            }
            if machine.check(.exitOnEmulationFailure) > 0 {
                try machine.enable(.exitOnEmulationFailure, 1)
            }
            if !msrFilter.isEmpty { try machine.setMSRFilter(msrFilter) }
            for (slot, region) in memory.regions.enumerated() {
                // SAFETY: the memory lives as long as the machine: one value owns both.
                try unsafe machine.setMemory(
                    slot: UInt32(slot), at: region.base,
                    memory: UnsafeMutableRawBufferPointer(
                        start: region.host, count: Int(region.lengthInBytes)),
                    flags: region.isReadOnly ? .readOnly : [])
            }
            return machine
        } catch { throw .kvm(error) }
    }

    /// Runs the guest through a loop until something ends it.
    public mutating func run<Side: World & RunListener & ~Copyable>(
        _ loop: inout RunLoop, _ side: inout Side
    ) throws(ExecutionError) -> LoopOutcome {
        try loop.run(&cpu, &side, memory: memory)
    }

    /// The registers at the last exit.
    public var currentRegisters: GeneralRegisters { unsafe cpu.registersPointer.pointee }

    /// System registers at the last exit.
    public var currentSystemRegisters: SystemRegisters { unsafe cpu.systemRegistersPointer.pointee }

    /// Up to `count` bytes of guest memory at a linear address, as the guest maps it now.
    public func bytes(at address: GuestVirtualAddress, count: Int) -> [UInt8] {
        PageWalk.read(
            address, count: count, system: currentSystemRegisters, memory: memory)
    }
}
