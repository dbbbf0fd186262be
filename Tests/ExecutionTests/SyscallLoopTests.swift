import Guest
import Machine
import Testing
import Trace

@testable import Execution
@testable import KVM

/// How the loop watches for SYSCALL where KVM leaves it half done, without KVM.
@Suite struct SyscallLoopTests {
    private static let handler: UInt64 = 0x4000
    private static let stack: UInt64 = 0x3000

    /// A host on which SYSCALL stays in ring 3.
    private static var behaviour: HostBehaviour {
        var behaviour = HostBehaviour()
        behaviour.syscall = .no
        behaviour.breakpointRing0 = .yes
        return behaviour
    }

    /// Without paging, so that addresses are physical; SYSCALL is enabled.
    private static var system: SystemRegisters {
        var system = SystemRegisters()
        system[.cr0] = 1
        system[.efer] = 0x501
        system[.cs] = Segment(selector: 8, type: 0xB, l: true)
        system.idt = DescriptorTable(base: 0x2000, limit: 0xFFF)
        return system
    }

    private static func memory() throws -> GuestMemory {
        let memory = try smallMemory()
        // A gate for #PF, present; and below the stack a frame of an event that came while the
        // handler's first instruction was stepped.
        try put([0x0000_8E00_0008_0000 | handler, 0], at: 0x2000 + 14 * 16, memory)
        try put([handler, 8, 0x102, stack, 0x10], at: stack - 40, memory)
        return memory
    }

    private static func put(
        _ words: [UInt64], at address: UInt64, _ memory: borrowing GuestMemory
    ) throws {
        var bytes: [UInt8] = []
        for word in words { bytes.append(word: word) }
        try memory.write(GuestPhysicalAddress(address), bytes[...])
    }

    private static func registers(flags: UInt64) -> GeneralRegisters {
        var registers = GeneralRegisters()
        registers[.rip] = handler
        registers[.rsp] = stack
        registers[.rflags] = flags
        return registers
    }

    private static var firstExit: ScriptedCPU.Step {
        ScriptedCPU.portOut(0x80, [1], registers: registers(flags: 2), system: system)
    }

    private static var stopAtHandler: ScriptedCPU.Step {
        .exit(
            .debug(
                DebugStop(
                    exception: 1, pc: GuestVirtualAddress(handler), dr6: 1, dr7: 0)),
            registers: registers(flags: 2), system: system)
    }

    @Test func `a run that nobody listens to finds the handler soon, and seldom looks`() throws {
        let quiet = (0..<3000).map { _ in ScriptedCPU.portOut(0x80, [1]) }
        let ready = (0..<200).map { _ in
            ScriptedCPU.portOut(0x80, [1], system: Self.system)
        }
        var cpu = ScriptedCPU(quiet + ready)
        var side = Attended(world: ScriptedSide(), listener: NoListener())
        var loop = RunLoop(
            behaviour: Self.behaviour, exitLimit: 3000 + 3000 / 16, stop: StopRequest())
        #expect(try loop.run(&cpu, &side, memory: Self.memory()) == .exitLimit)
        #expect(cpu.standing == GuestVirtualAddress(Self.handler))
        #expect(cpu.refreshCount < 120)
    }

    @Test func `stepping over the handler's first instruction shows in no frame`() throws {
        let memory = try Self.memory()
        var cpu = ScriptedCPU([
            Self.firstExit,
            Self.stopAtHandler, Self.stopAtHandler,
        ])
        var side = ScriptedSide()
        var loop = RunLoop(behaviour: Self.behaviour, stop: StopRequest())
        _ = try loop.run(&cpu, &side, memory: memory)
        // The OUT and the HLT.
        #expect(loop.exitCount == 2)
        #expect(cpu.debugs == [GuestDebug(singleStep: true), .off])
        let flags = try memory.read(GuestPhysicalAddress(Self.stack - 24), count: 2)
        #expect(flags == [2, 0])
    }

    @Test func `an interrupt behind the handler's first instruction is not stepped into`() throws {
        var cpu = ScriptedCPU([
            Self.firstExit,
            Self.stopAtHandler,
            // The handler's first instruction exits.
            ScriptedCPU.portOut(0x81, [1], registers: Self.registers(flags: 0x202)),
        ])
        var side = ScriptedSide()
        side.interrupts = [0x20]
        var loop = RunLoop(behaviour: Self.behaviour, stop: StopRequest())
        _ = try loop.run(&cpu, &side, memory: Self.memory())
        #expect(cpu.injected.map(\.vector) == [0x20])
        #expect(cpu.debugs == [GuestDebug(singleStep: true), .off])
        let wasStepping = cpu.wasInjectedWhileStepping
        #expect(!wasStepping)
    }
}
