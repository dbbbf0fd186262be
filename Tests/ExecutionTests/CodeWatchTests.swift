import Machine
import TestSupport
import Testing
import Trace

@testable import Execution
@testable import Guest

/// Where instructions may be that are to be rewritten: what memory alone says.
@Suite struct CodeWatchTests {
    private static let base: UInt64 = 0x10_0000

    private static func memory(_ code: [UInt8]) throws -> GuestMemory {
        let memory = try GuestMemory(layout: RAMLayout(lengthInBytes: 16 << 20))
        try memory.write(GuestPhysicalAddress(base), code[...])
        return memory
    }

    /// Flat 32-bit code runs.
    private static let system = {
        var system = SystemRegisters()
        system[.cr0] = 1
        system[.cs].db = true
        system[.ss].db = true
        return system
    }()

    private static func registers(at address: UInt64 = base) -> GeneralRegisters {
        var registers = GeneralRegisters()
        registers.rip = address
        registers[.rsp] = 0x8000
        return registers
    }

    private static func watch(_ code: [UInt8]) -> CodeWatch {
        CodeWatch(
            second: [0x31, 0xA2], certain: [], loaded: [base..<base + UInt64(code.count)])
    }

    private static let rdtsc: [UInt8] = [0x0F, 0x31]
    private static func nops(_ count: Int) -> [UInt8] { [UInt8](repeating: 0x90, count: count) }

    // MARK: Candidates

    @Test func `candidates are found at every place, across pages too, each once`() throws {
        let code = Self.rdtsc + Self.nops(4093) + [0x0F, 0xA2] + Self.nops(8)
        let memory = try Self.memory(code)
        var candidates = CodeCandidates(second: [0x31, 0xA2])
        for _ in 0..<2 {
            candidates.scan(Self.base, length: 8192, system: Self.system, memory: memory)
            #expect(candidates.all.map(\.address) == [Self.base, Self.base + 4095])
            #expect(candidates.all.map(\.second) == [0x31, 0xA2])
        }
    }

    @Test func `what is not asked for is none`() throws {
        let memory = try Self.memory([0x0F, 0xA2, 0x0F, 0x0F, 0x31])
        var candidates = CodeCandidates(second: [0x31])
        candidates.scan(Self.base, length: 4096, system: Self.system, memory: memory)
        #expect(candidates.all.map(\.address) == [Self.base + 3])
    }

    @Test func `a range beyond memory, or at the end of the address space, holds none`() throws {
        let memory = try Self.memory(Self.rdtsc)
        var candidates = CodeCandidates(second: [0x31])
        candidates.scan(1 << 40, length: 8192, system: Self.system, memory: memory)
        candidates.scan(UInt64.max - 4095, length: 8192, system: Self.system, memory: memory)
        candidates.look(around: .max, system: Self.system, memory: memory)
        #expect(candidates.all.filter { $0.address >= 16 << 20 }.isEmpty)
    }

    @Test func `code that is put somewhere later is found when it exits`() throws {
        let memory = try Self.memory(Self.nops(16))
        var candidates = CodeCandidates(second: [0x31])
        candidates.look(around: Self.base, system: Self.system, memory: memory)
        #expect(candidates.all.isEmpty)
        try memory.write(GuestPhysicalAddress(Self.base + 0x5008), Self.rdtsc[...])
        candidates.look(around: Self.base, system: Self.system, memory: memory)
        #expect(candidates.all.isEmpty)
        candidates.look(around: Self.base + 0x5000, system: Self.system, memory: memory)
        #expect(candidates.all.map(\.address) == [Self.base + 0x5008])
        // The same page with other bytes.
        try memory.write(GuestPhysicalAddress(Self.base + 0x5020), Self.rdtsc[...])
        candidates.look(around: Self.base + 0x5000, system: Self.system, memory: memory)
        #expect(candidates.all.count == 2)
    }

    // MARK: What stands before them

    /// The guard of the two bytes 0F 31 behind this code.
    private static func guardOf(_ before: [UInt8]) throws -> CodeGuard {
        let padding = nops(64)
        let memory = try memory(padding + before + rdtsc + nops(64))
        return CodeGuard(
            of: base + UInt64(padding.count + before.count), system: Self.system, memory: memory)
    }

    @Test func `bytes of other instructions are not likely to be code`() throws {
        // je +15; xor ecx, ecx: the jump's distance and the next opcode.
        let jump: [UInt8] = [0x85, 0xC0, 0x89, 0xC3, 0x74]
        let memory = try Self.memory(
            Self.nops(64) + jump + [0x0F, 0x31, 0xC9] + Self.nops(64))
        let place = Self.base + 64 + UInt64(jump.count)
        #expect(!CodeGuard(of: place, system: Self.system, memory: memory).isLikely)
        #expect(try Self.guardOf([0x89, 0xC3, 0x31, 0xC0]).isLikely)
    }

    @Test func `an exit that comes first on every way guards`() throws {
        // ret; in al, 0x61; nop
        #expect(try Self.guardOf([0xC3, 0xE4, 0x61, 0x90]).isGuarded)
        // ret; push ebx; nop
        #expect(try !Self.guardOf([0xC3, 0x53, 0x90]).isGuarded)
        // ret; test eax, eax; je +2; in al, 0x61: one way goes round it.
        #expect(try !Self.guardOf([0xC3, 0x85, 0xC0, 0x74, 0x02, 0xE4, 0x61]).isGuarded)
        // Where its function begins is not known.
        #expect(try !Self.guardOf([0xE4, 0x61, 0x90]).isGuarded)
    }

    // MARK: The way there

    private static func reach(
        _ code: [UInt8], _ wanted: [UInt64], stack: [UInt32] = []
    ) throws -> [UInt64: Int] {
        let memory = try memory(code)
        let words = stack.flatMap { word in (0..<4).map { UInt8(word >> ($0 * 8) & 0xFF) } }
        try memory.write(GuestPhysicalAddress(0x8000), words[...])
        return CodeReach(
            from: Self.registers(), system: Self.system, memory: memory,
            wanted: Set(wanted.map { base + $0 })
        ).distances
    }

    @Test func `branches and calls are followed, and exits are not passed`() throws {
        // in al, 0x61; call +3; rdtsc; hlt; (at 10) rdtsc; ret
        let code: [UInt8] =
            [0xE4, 0x61, 0xE8, 3, 0, 0, 0, 0x0F, 0x31, 0xF4, 0x0F, 0x31, 0xC3]
        let found = try Self.reach(code, [7, 10])
        #expect(found.count == 2)
        // nop; in al, 0x61; rdtsc: another exit comes first.
        #expect(try Self.reach([0x90, 0xE4, 0x61, 0x0F, 0x31], [3]).isEmpty)
        // jmp +2; rdtsc; nop: never reached.
        #expect(try Self.reach([0xEB, 2, 0x0F, 0x31, 0x90, 0xF4], [2]).isEmpty)
        // An endless loop ends.
        #expect(try Self.reach([0xEB, 0xFE, 0x0F, 0x31], [2]).isEmpty)
    }

    @Test func `return addresses are found on the stack`() throws {
        // ret; call +0 behind it at 1; rdtsc at 6.
        let code: [UInt8] = [0xC3, 0xE8, 0, 0, 0, 0, 0x0F, 0x31, 0xF4]
        #expect(try Self.reach(code, [6], stack: [0xDEAD, UInt32(Self.base) + 6]).count == 1)
        #expect(try Self.reach(code, [6], stack: [0xDEAD, UInt32(Self.base) + 2]).isEmpty)
    }

    // MARK: Choices

    @Test func `with four candidates or fewer, all stand, once`() throws {
        let code = Self.rdtsc + Self.nops(20) + Self.rdtsc
        let memory = try Self.memory(code)
        var watch = Self.watch(code)
        let choice = watch.choose(Self.registers(), Self.system, memory: memory)
        #expect(choice?.map(\.rawValue) == [Self.base, Self.base + 22])
        #expect(watch.choose(Self.registers(), Self.system, memory: memory) == nil)
        #expect(watch.isCurrent(rip: Self.base, codeBase: 0))
        watch.remove(GuestVirtualAddress(Self.base))
        #expect(!watch.isCurrent(rip: Self.base, codeBase: 0))
        #expect(
            watch.choose(Self.registers(), Self.system, memory: memory)?.map(\.rawValue) == [
                Self.base + 22
            ])
    }

    @Test func `of many, those stand that the code leads to`() throws {
        // Eight stretches of 32 bytes, each with an RDTSC in its middle, jumping to itself.
        let stretch = Self.nops(15) + Self.rdtsc + Self.nops(13) + [0xEB, 0xE0]
        let code = Array(repeating: stretch, count: 8).flatMap { $0 }
        let memory = try Self.memory(code)
        var watch = Self.watch(code)
        for number in [7, 0, 5] as [UInt64] {
            let choice = watch.choose(
                Self.registers(at: Self.base + number * 32), Self.system, memory: memory)
            #expect(choice?.count == 4)
            #expect(choice?.map(\.rawValue).contains(Self.base + number * 32 + 15) == true)
        }
    }

    @Test func `ring 3 and what is known to be code are left alone`() throws {
        let memory = try Self.memory(Self.rdtsc)
        var system = Self.system
        system[.ss].dpl = 3
        var watch = Self.watch(Self.rdtsc)
        #expect(watch.choose(Self.registers(), system, memory: memory) == nil)
        var certain = CodeWatch(
            second: [0x31], certain: [Self.base..<Self.base + 16], loaded: [])
        #expect(certain.choose(Self.registers(), Self.system, memory: memory) == nil)
    }
}
