import Disassembly
import Guest
import Machine
import Testing

@testable import Execution
@testable import KVM

/// How far RIP is wound back to the instruction that caused an exit.
@Suite struct InstructionFinderTests {
    /// A host where RIP is after every instruction.
    private static let after: HostBehaviour = {
        var phases = RIPPhases()
        for (_, path) in RIPPhases.named {
            guard let path = path as? WritableKeyPath<RIPPhases, RIPPhase> else { continue }
            phases[keyPath: path] = .after
        }
        var behaviour = HostBehaviour()
        behaviour.ring0 = phases
        behaviour.ring3 = phases
        behaviour.real = phases
        return behaviour
    }()

    /// What one exit is asked about.
    private enum Access {
        case port(PortAccess.Direction, UInt16, size: Int, count: Int)
        case memory(isWrite: Bool, length: Int)
        case hlt
    }

    /// The rewind for code that ends where RIP stands.
    private static func rewind(
        _ access: Access, after code: [UInt8], at rip: UInt64 = 0x8000, dx: UInt64 = 0,
        system: SystemRegisters = SystemRegisters(), behaviour: HostBehaviour = after
    ) throws -> UInt8 {
        var finder = InstructionFinder(behaviour)
        let memory = try smallMemory()
        try memory.write(GuestPhysicalAddress(rip - UInt64(code.count)), code[...])
        return ask(&finder, access, rip: rip, dx: dx, system: system, memory: memory)
    }

    private static func ask(
        _ finder: inout InstructionFinder, _ access: Access, rip: UInt64, dx: UInt64 = 0,
        system: SystemRegisters = SystemRegisters(), memory: borrowing GuestMemory
    ) -> UInt8 {
        var registers = GeneralRegisters()
        registers[.rip] = rip
        registers[.rdx] = dx
        // SAFETY: pointers to locals, used during the calls.
        return unsafe withUnsafePointer(to: registers) { registers in
            unsafe withUnsafePointer(to: system) { system in
                switch access {
                case .port(let direction, let port, let size, let count):
                    unsafe finder.rewind(
                        portAccess: direction, port: port, size: size, count: count,
                        registers: registers, system: system, memory: memory)
                case .memory(let isWrite, let length):
                    unsafe finder.rewind(
                        memoryAccess: isWrite, length: length, registers: registers,
                        system: system, memory: memory)
                case .hlt: unsafe finder.rewindOfHLT(system: system)
                }
            }
        }
    }

    @Test func `a host whose RIP stays at the instruction needs no rewind`() throws {
        for access in [
            Access.port(.output, 0x80, size: 1, count: 1), .port(.input, 0x80, size: 1, count: 4),
            .memory(isWrite: true, length: 4), .memory(isWrite: false, length: 4), .hlt,
        ] {
            #expect(
                try Self.rewind(access, after: [0xE6, 0x80], behaviour: HostBehaviour()) == 0)
        }
    }

    @Test func `OUT and IN, by immediate and by DX`() throws {
        #expect(
            try Self.rewind(.port(.output, 0x80, size: 1, count: 1), after: [0x90, 0xE6, 0x80])
                == 2)
        #expect(
            try Self.rewind(
                .port(.output, 0x3F8, size: 1, count: 1), after: [0x90, 0xEE], dx: 0x3F8) == 1)
        #expect(
            try Self.rewind(.port(.input, 0x64, size: 1, count: 1), after: [0x90, 0xE4, 0x64])
                == 2)
        // 32 bits wide in 16-bit code: an operand-size prefix.
        #expect(
            try Self.rewind(
                .port(.output, 0xCF8, size: 4, count: 1), after: [0x90, 0x66, 0xEF], dx: 0xCF8)
                == 2)
    }

    @Test func `string instructions with their prefixes`() throws {
        #expect(
            try Self.rewind(
                .port(.output, 0x3F8, size: 1, count: 5), after: [0x90, 0xF3, 0x6E], dx: 0x3F8)
                == 2)
        #expect(
            try Self.rewind(
                .port(.input, 0x1F0, size: 2, count: 256), after: [0x90, 0xF3, 0x6D], dx: 0x1F0)
                == 2)
    }

    @Test func `stores to device memory in long mode`() throws {
        var system = SystemRegisters()
        system[.cr0] = 0x8000_0001
        system[.cr3] = 0x1000
        system[.cr4] = 0x20
        system[.efer] = 0x500
        system[.cs] = Segment(limit: 0xFFFF_FFFF, type: 11, l: true)
        var finder = InstructionFinder(Self.after)
        let memory = try smallMemory(1 << 20)
        for (address, entry) in [(0x1000, 0x2003), (0x2000, 0x83)] as [(UInt64, UInt64)] {
            let bytes = (0..<8).map { UInt8(truncatingIfNeeded: entry >> UInt64($0 * 8)) }
            try memory.write(GuestPhysicalAddress(address), bytes[...])
        }
        // nop; mov dword ptr [rdi + 4], 0x11223344
        let code: [UInt8] = [0x90, 0xC7, 0x47, 0x04, 0x44, 0x33, 0x22, 0x11]
        // Astride a page, so that the code is read in two pieces.
        for rip in [0x8000, 0x9003] as [UInt64] {
            try memory.write(GuestPhysicalAddress(rip - UInt64(code.count)), code[...])
            #expect(
                Self.ask(
                    &finder, .memory(isWrite: true, length: 4), rip: rip, system: system,
                    memory: memory) == 7)
        }
    }

    @Test func `the mode of the CPU chooses the rule`() throws {
        var behaviour = HostBehaviour()
        behaviour.ring3.outImmediate = .after
        var protected = SystemRegisters()
        protected[.cr0] = 1
        protected[.cs] = Segment(limit: 0xFFFF_FFFF, type: 11, db: true)
        var user = protected
        user[.ss] = Segment(dpl: 3)
        let out = Access.port(.output, 0x80, size: 1, count: 1)
        let code: [UInt8] = [0x90, 0xE6, 0x80]
        #expect(try Self.rewind(out, after: code, behaviour: behaviour) == 0)
        #expect(try Self.rewind(out, after: code, system: protected, behaviour: behaviour) == 0)
        #expect(try Self.rewind(out, after: code, system: user, behaviour: behaviour) == 2)
    }

    @Test func `HLT is one byte`() throws {
        #expect(try Self.rewind(.hlt, after: [0xF4]) == 1)
    }

    @Test func `where nothing fits, one byte: inside of the instruction`() throws {
        let out = Access.port(.output, 0x80, size: 1, count: 1)
        #expect(try Self.rewind(out, after: [0x90, 0x90, 0x90]) == 1)
        var finder = InstructionFinder(Self.after)
        let memory = try smallMemory()
        // Nothing before RIP, RIP at the very start, RIP beyond RAM.
        for rip in [0, 1, 0xFFFF_0000] as [UInt64] {
            #expect(Self.ask(&finder, out, rip: rip, memory: memory) == 1)
        }
    }

    @Test func `what was found at an address is not taken for another access there`() throws {
        var finder = InstructionFinder(Self.after)
        let memory = try smallMemory()
        try memory.write(GuestPhysicalAddress(0x7FFD), [0x66, 0xE7, 0x80][...])
        func ask(_ access: Access) -> UInt8 {
            Self.ask(&finder, access, rip: 0x8000, memory: memory)
        }
        let wide = ask(.port(.output, 0x80, size: 4, count: 1))
        #expect(wide == 3)
        // Remembered, even if the code has been overwritten since: replays find the same.
        try memory.write(GuestPhysicalAddress(0x7FFD), [0x90, 0x90, 0x90][...])
        #expect(ask(.port(.output, 0x80, size: 4, count: 1)) == 3)
        #expect(ask(.port(.output, 0x81, size: 4, count: 1)) == 1)
    }
}
