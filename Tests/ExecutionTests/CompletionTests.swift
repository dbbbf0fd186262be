import Guest
import Machine
import Testing
import Trace

@testable import Execution

/// What instructions do that the runner carries out, and where it leaves them alone.
@Suite struct CompletionTests {
    private static let rip: UInt64 = 0x1000

    /// 64-bit code in ring 0 without paging, which no CPU has: linear is physical.
    private static func flat(cr0: UInt64 = 1, cr4: UInt64 = 0) -> SystemRegisters {
        var system = SystemRegisters()
        system[.cr0] = cr0
        system[.cr4] = cr4
        system[.efer] = 0x500
        system[.cs] = Segment(limit: 0xFFFF_FFFF, type: 11, l: true)
        return system
    }

    private static func registers(
        _ values: [Register: UInt64] = [:], flags: UInt64 = 2
    ) -> GeneralRegisters {
        var registers = GeneralRegisters()
        for (register, value) in values { registers[register] = value }
        registers.rip = rip
        registers.rflags = flags
        return registers
    }

    private static let extended = ExtendedState(
        mxcsr: 0x1F80, mxcsrMask: 0xFFFF, x87Status: 0, xcr0: 0x2_0000_0007)

    private func changes(
        _ code: [UInt8], _ registers: GeneralRegisters = registers(),
        system: SystemRegisters = flat(), extended: ExtendedState = extended,
        memory: borrowing GuestMemory
    ) -> [Change]? {
        InstructionCompletion(code, system: system)?.changes(
            registers: registers, system: system, extended: extended, memory: memory)
    }

    // MARK: Instructions

    @Test func `int3 is a breakpoint after it, ud2 an invalid opcode at it`() throws {
        let memory = try smallMemory()
        #expect(
            changes([0xCC, 0x90], memory: memory) == [
                .register(.rip, 0x1001), .event(.exception, vector: 3, errorCode: nil),
            ])
        #expect(
            changes([0x0F, 0x0B], memory: memory) == [
                .register(.rflags, 0x1_0002), .event(.exception, vector: 6, errorCode: nil),
            ])
    }

    @Test func `RF ends with the instruction, TF leaves it to somebody else`() throws {
        let memory = try smallMemory()
        #expect(
            changes([0x9B], Self.registers(flags: 0x1_0002), memory: memory) == [
                .register(.rip, 0x1001), .register(.rflags, 2),
            ])
        #expect(changes([0x9B], Self.registers(flags: 0x102), memory: memory) == nil)
    }

    @Test func `popcnt of a register and of memory`() throws {
        let memory = try smallMemory()
        // popcnt eax, ecx: the upper half becomes zero.
        #expect(
            changes(
                [0xF3, 0x0F, 0xB8, 0xC1],
                Self.registers([.rax: .max, .rcx: 0xFFFF_FFFF_0000_00F1], flags: 0x8D7),
                memory: memory) == [
                    .register(.rax, 5), .register(.rip, 0x1004), .register(.rflags, 2),
                ])
        // popcnt ax, cx: the upper 48 bits stay.
        #expect(
            changes(
                [0x66, 0xF3, 0x0F, 0xB8, 0xC1], Self.registers([.rax: .max]), memory: memory)
                == [
                    .register(.rax, 0xFFFF_FFFF_FFFF_0000), .register(.rip, 0x1005),
                    .register(.rflags, 0x42),
                ])
        // popcnt rax, [rip + 0x10]: counts from the next instruction.
        try memory.write(GuestPhysicalAddress(0x1019), [0xFF, 0, 0, 0, 0, 0, 0, 0x80])
        #expect(
            changes([0xF3, 0x48, 0x0F, 0xB8, 0x05, 0x10, 0, 0, 0], memory: memory) == [
                .register(.rax, 9), .register(.rip, 0x1009),
            ])
        // popcnt eax, [rbx + rcx * 4 - 1]
        try memory.write(GuestPhysicalAddress(0x200B), [7, 0, 0, 0])
        #expect(
            changes(
                [0xF3, 0x0F, 0xB8, 0x44, 0x8B, 0xFF], Self.registers([.rbx: 0x2000, .rcx: 3]),
                memory: memory) == [
                    .register(.rax, 3), .register(.rip, 0x1006),
                ])
    }

    @Test func `crc32 takes AH for AH`() throws {
        let memory = try smallMemory()
        // crc32 ecx, ah against crc32 ecx, bl with the same byte.
        let high = changes(
            [0xF2, 0x0F, 0x38, 0xF0, 0xCC], Self.registers([.rax: 0xA5_00, .rcx: 1]),
            memory: memory)
        let low = changes(
            [0xF2, 0x0F, 0x38, 0xF0, 0xCB], Self.registers([.rbx: 0xA5, .rcx: 1]),
            memory: memory)
        #expect(high != nil)
        #expect(high == low)
    }

    @Test func `movbe stores across a page`() throws {
        let memory = try smallMemory()
        let code: [UInt8] = [0x0F, 0x38, 0xF1, 0x03]  // movbe [rbx], eax
        let registers = Self.registers([.rbx: 0x2FFE, .rax: 0x1122_3344])
        #expect(
            changes(code, registers, memory: memory) == [
                .register(.rip, 0x1004), .memory(GuestPhysicalAddress(0x2FFE), [0x11, 0x22]),
                .memory(GuestPhysicalAddress(0x3000), [0x33, 0x44]),
            ])
    }

    @Test func `mulx writes both halves, the high one last`() throws {
        let memory = try smallMemory()
        let registers = Self.registers([.rdx: .max, .rbx: 3], flags: 0x8D7)
        // mulx rcx, rax, rbx; mulx rcx, rcx, rbx; mulx ecx, eax, ebx
        #expect(
            changes([0xC4, 0xE2, 0xFB, 0xF6, 0xCB], registers, memory: memory) == [
                .register(.rax, 0xFFFF_FFFF_FFFF_FFFD), .register(.rcx, 2),
                .register(.rip, 0x1005),
            ])
        #expect(
            changes([0xC4, 0xE2, 0xF3, 0xF6, 0xCB], registers, memory: memory) == [
                .register(.rcx, 2), .register(.rip, 0x1005),
            ])
        #expect(
            changes([0xC4, 0xE2, 0x7B, 0xF6, 0xCB], registers, memory: memory) == [
                .register(.rax, 0xFFFF_FFFD), .register(.rcx, 2), .register(.rip, 0x1005),
            ])
    }

    @Test func `cmpxchg16b swaps where equal, loads where not`() throws {
        let memory = try smallMemory()
        let code: [UInt8] = [0xF0, 0x48, 0x0F, 0xC7, 0x0E]  // lock cmpxchg16b [rsi]
        let at = GuestPhysicalAddress(0x2010)
        try memory.write(at, [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        var registers = Self.registers([
            .rsi: 0x2010, .rax: 1, .rdx: 2, .rbx: 0x33, .rcx: 0x44,
        ])
        #expect(
            changes(code, registers, memory: memory) == [
                .register(.rip, 0x1005), .register(.rflags, 0x42),
                .memory(at, [0x33, 0, 0, 0, 0, 0, 0, 0, 0x44, 0, 0, 0, 0, 0, 0, 0]),
            ])
        registers[.rdx] = 3
        registers.rflags = 0x8D7
        #expect(
            changes(code, registers, memory: memory) == [
                .register(.rdx, 2), .register(.rip, 0x1005), .register(.rflags, 0x897),
            ])
        // Not aligned: #GP.
        registers[.rsi] = 0x2018
        #expect(changes(code, registers, memory: memory) == nil)
    }

    @Test func `stac and clac`() throws {
        let memory = try smallMemory()
        #expect(
            changes([0x0F, 0x01, 0xCB], memory: memory) == [
                .register(.rip, 0x1003), .register(.rflags, 0x4_0002),
            ])
        #expect(
            changes([0x0F, 0x01, 0xCA], Self.registers(flags: 0x4_0002), memory: memory) == [
                .register(.rip, 0x1003), .register(.rflags, 2),
            ])
    }

    @Test func `fwait waits for nothing, unless an exception is due`() throws {
        let memory = try smallMemory()
        #expect(changes([0x9B], memory: memory) == [.register(.rip, 0x1001)])
        // CR0.TS alone is not watched; with CR0.MP it is.
        #expect(changes([0x9B], system: Self.flat(cr0: 9), memory: memory) != nil)
        #expect(changes([0x9B], system: Self.flat(cr0: 11), memory: memory) == nil)
        var due = Self.extended
        due.x87Status = 0x80
        #expect(changes([0x9B], extended: due, memory: memory) == nil)
    }

    @Test func `MXCSR is loaded and stored, its reserved bits refused`() throws {
        let memory = try smallMemory()
        let load: [UInt8] = [0x0F, 0xAE, 0x13]
        let store: [UInt8] = [0x0F, 0xAE, 0x1B]
        let system = Self.flat(cr4: 0x200)
        let registers = Self.registers([.rbx: 0x2000])
        try memory.write(GuestPhysicalAddress(0x2000), [0xA5, 0x1F, 0, 0])
        #expect(
            changes(load, registers, system: system, memory: memory) == [
                .register(.rip, 0x1003), .extendedState(offset: 24, [0xA5, 0x1F, 0, 0]),
            ])
        #expect(
            changes(store, registers, system: system, memory: memory) == [
                .register(.rip, 0x1003),
                .memory(GuestPhysicalAddress(0x2000), [0x80, 0x1F, 0, 0]),
            ])
        #expect(changes(load, registers, memory: memory) == nil)
        #expect(
            changes(store, registers, system: Self.flat(cr0: 9, cr4: 0x200), memory: memory)
                == nil)
        try memory.write(GuestPhysicalAddress(0x2002), [1])
        #expect(changes(load, registers, system: system, memory: memory) == nil)
    }

    @Test func `xgetbv reads XCR0 and no other`() throws {
        let memory = try smallMemory()
        let code: [UInt8] = [0x0F, 0x01, 0xD0]
        let system = Self.flat(cr4: 1 << 18)
        #expect(
            changes(code, Self.registers([.rax: .max]), system: system, memory: memory) == [
                .register(.rax, 7), .register(.rdx, 2), .register(.rip, 0x1003),
            ])
        #expect(changes(code, memory: memory) == nil)
        #expect(changes(code, Self.registers([.rcx: 1]), system: system, memory: memory) == nil)
    }

    @Test func `cache lines are written back without a trace, if they are there`() throws {
        let memory = try smallMemory()
        let code: [UInt8] = [0x66, 0x0F, 0xAE, 0x33]  // clwb [rbx]
        #expect(
            changes(code, Self.registers([.rbx: 0x2000]), memory: memory) == [
                .register(.rip, 0x1004)
            ])
        #expect(changes(code, Self.registers([.rbx: 0x100_0000]), memory: memory) == nil)
    }

    // MARK: What is left alone

    @Test func `ring 3, instructions nobody knows, and VEX in real mode`() throws {
        let memory = try smallMemory()
        var user = Self.flat()
        user[.ss] = Segment(limit: 0xFFFF_FFFF, dpl: 3)
        #expect(changes([0xCC], system: user, memory: memory) == nil)
        // pmulhuw, an incomplete popcnt, no byte at all, rdtscp (time is no completion's to give)
        for code in [[0x0F, 0xE4, 0xC0], [0xF3, 0x0F], [], [0x0F, 0x01, 0xF9]] as [[UInt8]] {
            #expect(changes(code, memory: memory) == nil)
        }
        let andn: [UInt8] = [0xC4, 0xE2, 0x60, 0xF2, 0xC1]
        #expect(changes(andn, memory: memory) != nil)
        #expect(changes(andn, system: SystemRegisters(), memory: memory) == nil)
    }

    @Test func `real mode: segments, limits, and IP that wraps`() throws {
        let memory = try smallMemory()
        var system = SystemRegisters()
        system[.ds] = Segment(base: 0x2000, selector: 0x200)
        try memory.write(GuestPhysicalAddress(0x2010), [0xFF, 0x01])
        // popcnt ax, [bx]
        let code: [UInt8] = [0xF3, 0x0F, 0xB8, 0x07]
        var registers = Self.registers([.rbx: 0x10])
        registers.rip = 0xFFFE
        #expect(
            changes(code, registers, system: system, memory: memory) == [
                .register(.rax, 9), .register(.rip, 2),
            ])
        // The word's second byte is beyond the segment.
        registers[.rbx] = 0xFFFF
        #expect(changes(code, registers, system: system, memory: memory) == nil)
    }

    @Test func `addresses that are not canonical`() throws {
        let memory = try smallMemory()
        let code: [UInt8] = [0xF3, 0x48, 0x0F, 0xB8, 0x03]  // popcnt rax, [rbx]
        for address in [0x8000_0000_0000, 0x7FFF_FFFF_FFFC, 0xFFFF_7FFF_FFFF_FFF0] as [UInt64] {
            #expect(changes(code, Self.registers([.rbx: address]), memory: memory) == nil)
        }
    }

    // MARK: Pages

    /// Linear 0x2000 and 0x3000 by pages with these low bits of their entries; tables at 0x8000.
    private static func paged(
        _ first: UInt64, _ second: UInt64, upper: UInt64 = 0x27
    ) throws -> GuestMemory {
        let memory = try smallMemory()
        let entries: [(UInt64, UInt64)] = [
            (0x8000, 0x9000 | upper), (0x9000, 0xA000 | upper), (0xA000, 0xB000 | upper),
            (0xB010, 0x4000 | first), (0xB018, 0x6000 | second),
        ]
        for (address, entry) in entries {
            let bytes = (0..<8).map { UInt8(truncatingIfNeeded: entry >> UInt64($0 * 8)) }
            try memory.write(GuestPhysicalAddress(address), bytes[...])
        }
        return memory
    }

    private static func paging(cr0: UInt64 = 0x8000_0001, cr4: UInt64 = 0) -> SystemRegisters {
        var system = flat(cr0: cr0, cr4: 0x20 | cr4)
        system[.cr3] = 0x8000
        return system
    }

    /// movbe [rbx], eax, astride the two pages.
    private static let store: [UInt8] = [0x0F, 0x38, 0xF1, 0x03]
    private static let storing = registers([.rbx: 0x2FFE, .rax: 0x1122_3344])
    /// popcnt rax, [rbx]
    private static let load: [UInt8] = [0xF3, 0x48, 0x0F, 0xB8, 0x03]

    @Test func `an operand goes to two frames, and the tables note it`() throws {
        // Present and writable; the second accessed and dirty already.
        let memory = try Self.paged(0x03, 0x63)
        #expect(
            changes(Self.store, Self.storing, system: Self.paging(), memory: memory) == [
                .register(.rip, 0x1004), .memory(GuestPhysicalAddress(0xB010), [0x63]),
                .memory(GuestPhysicalAddress(0x4FFE), [0x11, 0x22]),
                .memory(GuestPhysicalAddress(0x6000), [0x33, 0x44]),
            ])
        // A read marks no page dirty, and each entry once.
        let fresh = try Self.paged(0x03, 0x03, upper: 0x07)
        #expect(
            changes(Self.load, Self.storing, system: Self.paging(), memory: fresh) == [
                .register(.rax, 0), .register(.rip, 0x1005), .register(.rflags, 0x42),
                .memory(GuestPhysicalAddress(0x8000), [0x27]),
                .memory(GuestPhysicalAddress(0x9000), [0x27]),
                .memory(GuestPhysicalAddress(0xA000), [0x27]),
                .memory(GuestPhysicalAddress(0xB010), [0x23]),
                .memory(GuestPhysicalAddress(0xB018), [0x23]),
            ])
    }

    @Test func `a page that is missing, on either side`() throws {
        for (first, second) in [(0x02, 0x63), (0x63, 0x02)] as [(UInt64, UInt64)] {
            let memory = try Self.paged(first, second)
            #expect(
                changes(Self.store, Self.storing, system: Self.paging(), memory: memory) == nil)
            #expect(
                changes(Self.load, Self.storing, system: Self.paging(), memory: memory) == nil)
        }
    }

    @Test func `a page that is read-only is written where CR0.WP is clear`() throws {
        let memory = try Self.paged(0x63, 0x61)
        #expect(changes(Self.store, Self.storing, system: Self.paging(), memory: memory) != nil)
        let protected = Self.paging(cr0: 0x8001_0001)
        #expect(changes(Self.store, Self.storing, system: protected, memory: memory) == nil)
        #expect(changes(Self.load, Self.storing, system: protected, memory: memory) != nil)
    }

    @Test func `a user's page is reached under SMAP only with AC`() throws {
        let memory = try Self.paged(0x67, 0x67)
        let system = Self.paging(cr4: 1 << 21)
        #expect(changes(Self.load, Self.storing, system: system, memory: memory) == nil)
        var registers = Self.storing
        registers.rflags |= 1 << 18
        #expect(changes(Self.load, registers, system: system, memory: memory) != nil)
        #expect(changes(Self.load, Self.storing, system: Self.paging(), memory: memory) != nil)
    }

    @Test func `ROM is read and not written`() throws {
        let memory = try GuestMemory(
            layout: RAMLayout(lengthInBytes: 64 << 10), romLengthInBytes: 0x1_0000)
        let registers = Self.registers([.rbx: 0xFFFF_0000])
        #expect(changes(Self.load, registers, memory: memory) != nil)
        #expect(changes(Self.store, registers, memory: memory) == nil)
    }
}
