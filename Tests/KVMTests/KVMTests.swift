import Machine
import Testing

@testable import KVM

/// Whether tests that need a real /dev/kvm can run; the reason is shown where they cannot.
let kvmProblem: KVMError? = Hypervisor.availability()

extension Trait where Self == ConditionTrait {
    /// Runs a test only where KVM can be used.
    static var needsKVM: Self {
        .enabled(if: kvmProblem == nil, "\(kvmProblem?.description ?? "")")
    }
}

/// A real-mode guest of one slot at 0, started at 0:`entry`.
struct RealModeGuest: ~Copyable {
    // The order matters to nothing: KVM keeps its own hold on the memory until the CPU goes.
    let memory: ScratchMemory
    var machine: VirtualMachine

    init(_ code: [UInt8], at entry: Int = 0x1000, flags: MemorySlotFlags = []) throws {
        let memory = try ScratchMemory(byteCount: 0x10000)
        memory.write(code, at: entry)
        var machine = try Hypervisor().createMachine()
        try unsafe machine.setMemory(
            slot: 0, at: GuestPhysicalAddress(0), memory: memory.bytes, flags: flags)
        self.memory = memory
        self.machine = machine
    }

    func cpu(
        entry: UInt64 = 0x1000, synchronisation: SynchronisedRegisters = .all,
        _ set: (inout GeneralRegisters) -> Void = { _ in }
    ) throws -> SettledCPU {
        var cpu = try machine.createCPU(synchronisation: synchronisation)
        var system = try cpu.systemRegisters()
        system[.cs].base = 0
        system[.cs].selector = 0
        try cpu.setSystemRegisters(system)
        var registers = GeneralRegisters()
        registers.rip = entry
        registers.rflags = 2
        set(&registers)
        try cpu.setRegisters(registers)
        return cpu
    }
}

@Suite("Running guests", .needsKVM) struct RunningGuests {
    @Test("The classic guest adds two numbers, prints and halts", arguments: [true, false])
    func classic(synchronised: Bool) throws {
        // mov dx, 0x3f8; add al, bl; add al, '0'; out dx, al; hlt
        let guest = try RealModeGuest([0xBA, 0xF8, 0x03, 0x00, 0xD8, 0x04, 0x30, 0xEE, 0xF4])
        var cpu = try guest.cpu(synchronisation: synchronised ? .all : []) {
            $0[.rax] = 2
            $0[.rbx] = 2
        }.begin()
        guard case .exit(.io(let io)) = try cpu.run() else {
            Issue.record("no OUT")
            return
        }
        #expect(io.direction == .output && io.port == 0x3F8 && io.size == 1 && io.count == 1)
        #expect(cpu.ioValue == UInt32(UInt8(ascii: "4")))
        #expect(cpu.registers[.rax] == UInt64(UInt8(ascii: "4")))
        #expect(cpu.systemRegisters[.cs].limit == 0xFFFF)
        guard case .exit(.hlt) = try cpu.run() else {
            Issue.record("no HLT")
            return
        }
        #expect(cpu.registers.rip == 0x1009)
    }
}
