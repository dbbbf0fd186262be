import Guest
import KVM
import Machine
import Testing
import Trace

@testable import Execution

/// What a single step shows in the guest is taken back.
@Suite struct StepTraceTests {
    private static let code: UInt64 = 0x1000
    private static let top: UInt64 = 0x3000

    /// 64-bit code without paging, so that addresses are physical.
    private static func system() -> SystemRegisters {
        var system = SystemRegisters()
        system[.cr0] = 1
        system[.efer] = 0x501
        system[.cs] = Segment(selector: 8, type: 0xB, l: true)
        return system
    }

    private static func registers(_ change: (inout GeneralRegisters) -> Void = { _ in })
        -> GeneralRegisters
    {
        var registers = GeneralRegisters()
        registers.rip = code
        registers[.rsp] = top
        registers.rflags = 0x202
        change(&registers)
        return registers
    }

    private struct Shown {
        var pushed: UInt64
        var r11: UInt64
        var changes: Int
    }

    /// What is left of a step over an instruction that pushed a word.
    private func step(
        _ bytes: [UInt8], pushed: UInt64, flags: UInt64 = 0x202, counted: UInt64? = 1,
        after: GeneralRegisters
    ) throws -> Shown {
        let memory = try smallMemory()
        try memory.write(GuestPhysicalAddress(Self.code), bytes[...])
        var word: [UInt8] = []
        word.append(word: pushed)
        try memory.write(GuestPhysicalAddress(Self.top - 8), word[...])
        let trace = StepTrace(
            registers: Self.registers { $0.rflags = flags }, system: Self.system())
        var cpu = ScriptedCPU([], registers: after, system: Self.system())
        _ = try cpu.settle()
        try trace.hideAll(&cpu, memory, counted: counted, isFromStop: true)
        let now = try memory.read(GuestPhysicalAddress(Self.top - 8), count: 8)
        return Shown(
            pushed: now.reversed().reduce(0) { $0 << 8 | UInt64($1) },
            r11: unsafe cpu.registersPointer.pointee[.r11], changes: cpu.applied.count)
    }

    @Test func `PUSHF that the CPU executed itself`() throws {
        let after = Self.registers {
            $0.rip += 1
            $0[.rsp] -= 8
        }
        #expect(try step([0x9C], pushed: 0x302, after: after).pushed == 0x202)
        #expect(try step([0x48, 0x9C], pushed: 0x302, after: after).pushed == 0x202)
        // A PUSH of something else, and a guest that steps itself.
        #expect(try step([0x50], pushed: 0x302, after: after).pushed == 0x302)
        #expect(try step([0x9C], pushed: 0x302, flags: 0x302, after: after).pushed == 0x302)
    }

    @Test func `SYSCALL that the CPU executed itself`() throws {
        let after = Self.registers {
            $0.rip = 0x5000
            $0[.rcx] = Self.code + 2
            $0[.r11] = 0x302
        }
        #expect(try step([0x0F, 0x05], pushed: 0, after: after).r11 == 0x202)
        #expect(try step([0x0F, 0x05], pushed: 0, flags: 0x302, after: after).changes == 0)
        #expect(try step([0x90, 0x90], pushed: 0, after: after).changes == 0)
    }

    @Test func `the frame of a fault, where the count says that there was one`() throws {
        func flags(counted: UInt64?) throws -> UInt64 {
            let memory = try smallMemory()
            var frame: [UInt8] = []
            for word in [Self.code, 8, 0x302, Self.top, 0] { frame.append(word: word) }
            try memory.write(GuestPhysicalAddress(Self.top - 40), frame[...])
            let trace = StepTrace(registers: Self.registers(), system: Self.system())
            var cpu = ScriptedCPU(
                [],
                registers: Self.registers {
                    $0.rip = 0x6000
                    $0[.rsp] -= 40
                }, system: Self.system())
            _ = try cpu.settle()
            try trace.hideAll(&cpu, memory, counted: counted, isFromStop: true)
            let now = try memory.read(GuestPhysicalAddress(Self.top - 24), count: 2)
            return UInt64(now[0]) | UInt64(now[1]) << 8
        }
        #expect(try flags(counted: 2) == 0x202)
        #expect(try flags(counted: nil) == 0x202)
        // Of one instruction nothing was delivered: what lies there is the guest's.
        #expect(try flags(counted: 1) == 0x302)
    }
}
