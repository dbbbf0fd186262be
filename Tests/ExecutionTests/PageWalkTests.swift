import Execution
import Guest
import Machine
import Testing

/// Translation through tables that the tests lay out, in every mode of paging.
@Suite struct PageWalkTests {
    private static let present: UInt64 = 1
    private static let large: UInt64 = 1 << 7

    /// System registers with paging on; `cr3` at 0x1000.
    private static func paging(
        pae: Bool = true, long: Bool = true, la57: Bool = false, pse: Bool = false
    ) -> SystemRegisters {
        var system = SystemRegisters()
        system[.cr0] = 0x8000_0001
        system[.cr3] = 0x1000
        system[.cr4] = (pae ? 0x20 : 0) | (la57 ? 0x1000 : 0) | (pse ? 0x10 : 0)
        system[.efer] = long ? 0x500 : 0
        system[.cs] = Segment(limit: 0xFFFF_FFFF, type: 11, db: !long, l: long)
        return system
    }

    /// 1 MiB of RAM with entries of 8 or 4 bytes.
    private static func memory(
        _ entries: [(UInt64, UInt64)], entryBytes: Int = 8
    ) throws -> GuestMemory {
        let memory = try smallMemory(1 << 20)
        for (address, entry) in entries {
            let bytes = (0..<entryBytes).map {
                UInt8(truncatingIfNeeded: entry >> UInt64($0 * 8))
            }
            try memory.write(GuestPhysicalAddress(address), bytes[...])
        }
        return memory
    }

    private func translate(
        _ linear: UInt64, _ system: SystemRegisters, _ memory: borrowing GuestMemory
    ) -> [UInt64]? {
        PageWalk.translate(GuestVirtualAddress(linear), system: system, memory: memory).map {
            [$0.address.rawValue, UInt64($0.contiguousBytes)]
        }
    }

    @Test func `without paging, linear is physical`() throws {
        let memory = try smallMemory()
        let system = SystemRegisters()
        #expect(translate(0x1234, system, memory) == [0x1234, 0xDCC])
        #expect(translate(0x1_0000_1000, system, memory) == [0x1000, 0x1000])
    }

    @Test func `4-level paging: 4 KiB pages`() throws {
        // Indices 1, 2, 3, 4: linear 0x80_8060_4000.
        let linear: UInt64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12
        let memory = try Self.memory([
            (0x1000 + 8, 0x2000 | 7), (0x2000 + 16, 0x3000 | 7), (0x3000 + 24, 0x4000 | 7),
            // No-execute, a key and software bits are no part of the address.
            (0x4000 + 32, 0xFFF0_0000_0000_0E00 | 0x9000 | 3),
        ])
        let system = Self.paging()
        #expect(translate(linear, system, memory) == [0x9000, 0x1000])
        #expect(translate(linear + 0xABC, system, memory) == [0x9ABC, 0x544])
        #expect(translate(linear + 0x1000, system, memory) == nil)
        #expect(translate(linear + (1 << 21), system, memory) == nil)
        #expect(translate(linear + (1 << 30), system, memory) == nil)
        #expect(translate(linear + (1 << 39), system, memory) == nil)
    }

    @Test func `4-level paging: the higher half`() throws {
        // The last entry of each table down to a 2 MiB page.
        let memory = try Self.memory([
            (0x1FF8, 0x2001), (0x2000 + 510 * 8, 0x3001), (0x3000, 0x20_0000 | Self.large | 1),
        ])
        #expect(
            translate(0xFFFF_FFFF_8000_1234, Self.paging(), memory)
                == [0x20_1234, 0x20_0000 - 0x1234])
    }

    @Test func `4-level paging: 2 MiB and 1 GiB pages, whose PAT bit is no address`() throws {
        let memory = try Self.memory([
            (0x1000, 0x2001), (0x2000, 0x3001), (0x3000 + 8, 0x40_1000 | Self.large | 1),
            (0x2008, 0xC000_1000 | Self.large | 1),
        ])
        let system = Self.paging()
        #expect(translate(0x20_0010, system, memory) == [0x40_0010, 0x1F_FFF0])
        #expect(translate(0x4012_3456, system, memory) == [0xC012_3456, 0x3FED_CBAA])
    }

    @Test func `5-level paging`() throws {
        let linear: UInt64 = 1 << 48 | 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12
        let memory = try Self.memory([
            (0x1008, 0x2001), (0x2008, 0x3001), (0x3008, 0x4001), (0x4008, 0x5001),
            (0x5008, 0x8001),
        ])
        #expect(
            translate(linear | 5, Self.paging(la57: true), memory) == [0x8005, 0xFFB])
        // The same address with four levels begins one table further down.
        #expect(translate(linear | 5, Self.paging(), memory) == [0x5005, 0xFFB])
    }

    @Test func `PAE paging: 4 KiB and 2 MiB pages, and four entries at the top`() throws {
        let system = Self.paging(long: false)
        let linear: UInt64 = 3 << 30 | 2 << 21 | 1 << 12
        let memory = try Self.memory([
            (0x1000 + 24, 0x2001), (0x2000 + 16, 0x3001), (0x3008, 0x9001),
            (0x2000 + 24, 0x60_0000 | Self.large | 1),
        ])
        #expect(translate(linear, system, memory) == [0x9000, 0x1000])
        #expect(translate(linear + 0x1FF000, system, memory) == [0x60_0000, 0x20_0000])
        // The table of four stands at a multiple of 32.
        var moved = system
        moved[.cr3] = 0x1020
        let other = try Self.memory([
            (0x1020 + 24, 0x2001), (0x2000 + 16, 0x3001), (0x3008, 0xA001),
        ])
        #expect(translate(linear, moved, other) == [0xA000, 0x1000])
    }

    @Test func `PAE paging: the size bit at the top is none`() throws {
        let memory = try Self.memory([
            (0x1000, 0x2001 | Self.large), (0x2000, 0x3001), (0x3000, 0x9001),
        ])
        // Bit 7 is reserved there; the walk goes on to the next table.
        #expect(translate(0, Self.paging(long: false), memory)?.first == 0x9000)
    }

    @Test func `32-bit paging: 4 KiB pages`() throws {
        let system = Self.paging(pae: false, long: false)
        let memory = try Self.memory(
            [(0x1000 + 4 * 0x300, 0x2007), (0x2000 + 4 * 5, 0x7007)], entryBytes: 4)
        #expect(translate(0xC000_5123, system, memory) == [0x7123, 0xEDD])
        #expect(translate(0xC000_6123, system, memory) == nil)
        #expect(translate(0xC040_5123, system, memory) == nil)
    }

    @Test func `32-bit paging: 4 MiB pages with CR4.PSE alone, and beyond 4 GiB`() throws {
        let memory = try Self.memory(
            [
                (0x1000, 0x0040_0000 | Self.large | 1),
                (0x1004, 0x0080_0000 | 0x12 << 13 | Self.large | 1),
            ], entryBytes: 4)
        let system = Self.paging(pae: false, long: false, pse: true)
        #expect(translate(0x1234, system, memory) == [0x40_1234, 0x3F_EDCC])
        #expect(translate(0x40_1234, system, memory)?.first == 0x12_0080_1234)
        // Without it, the entry points to a table, here one beyond RAM.
        #expect(translate(0x1234, Self.paging(pae: false, long: false), memory) == nil)
    }

    @Test func `tables beyond RAM map nothing`() throws {
        for entry in [0x7FFF_F000, 0xF_FFFF_FFFF_F000, 0x10_0000] as [UInt64] {
            let memory = try Self.memory([(0x1000, entry | 1)])
            #expect(translate(0, Self.paging(), memory) == nil)
        }
        let memory = try smallMemory()
        var system = Self.paging()
        for cr3 in [0x7FFF_F000, 0xFFFF_FFFF_FFFF_F000] as [UInt64] {
            system[.cr3] = cr3
            #expect(translate(0xFFFF_FFFF_FFFF_FFFF, system, memory) == nil)
            #expect(
                PageWalk.read(
                    GuestVirtualAddress(0), count: 16, system: system, memory: memory) == [])
        }
    }

    @Test func `a table that points to itself ends`() throws {
        let memory = try Self.memory([(0x1000, 0x1001)])
        #expect(translate(0x10, Self.paging(), memory) == [0x1010, 0xFF0])
    }

    @Test func `bytes are read across pages that lie apart, up to where the mapping ends`() throws {
        let memory = try Self.memory([
            (0x1000, 0x2001), (0x2000, 0x3001), (0x3000, 0x4001), (0x4000, 0x9001),
            (0x4008, 0x7001), (0x4018, 0xFFFF_F001),
        ])
        try memory.write(GuestPhysicalAddress(0x9FFE), [1, 2][...])
        try memory.write(GuestPhysicalAddress(0x7000), [3, 4][...])
        let system = Self.paging()
        func read(_ address: UInt64, _ count: Int) -> [UInt8] {
            PageWalk.read(
                GuestVirtualAddress(address), count: count, system: system, memory: memory)
        }
        #expect(read(0xFFE, 4) == [1, 2, 3, 4])
        #expect(read(0x1FFE, 15) == [0, 0])
        #expect(read(0x2000, 15) == [])
        // Mapped, but beyond RAM.
        #expect(read(0x3000, 15) == [])
        #expect(read(0xFFE, 0) == [])
    }

    @Test func `RIP is an offset in CS but in 64-bit code`() {
        var system = SystemRegisters()
        system[.cs] = Segment(base: 0xFFFF_0000, selector: 0xF000, type: 11)
        #expect(PageWalk.linearRIP(0xFFF0, system: system).rawValue == 0xFFFF_FFF0)
        #expect(PageWalk.linearRIP(0x1_0010, system: system).rawValue == 0x10)
        let long = Self.paging()
        #expect(
            PageWalk.linearRIP(0xFFFF_8000_0000_1000, system: long).rawValue
                == 0xFFFF_8000_0000_1000)
    }
}
