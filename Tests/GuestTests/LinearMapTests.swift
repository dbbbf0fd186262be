import Machine
import Testing

@testable import Guest

/// Page tables that a test writes into memory.
private struct Tables: ~Copyable {
    let memory: GuestMemory
    var system = SystemRegisters()

    init(megabytes: UInt64 = 16) throws {
        memory = try GuestMemory(layout: RAMLayout(lengthInBytes: megabytes << 20))
        system[.cr0] = 0x8000_0001
        system[.cr3] = 0x1000
    }

    /// Writes an entry of 8 bytes.
    func set(_ table: UInt64, _ index: UInt64, _ entry: UInt64) throws {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: entry)
        try memory.write(GuestPhysicalAddress(table + index * 8), bytes[...])
    }

    /// Writes an entry of 4 bytes.
    func set32(_ table: UInt64, _ index: UInt64, _ entry: UInt32) throws {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: entry)
        try memory.write(GuestPhysicalAddress(table + index * 4), bytes[...])
    }

    /// `linear physical length` of each stretch.
    func found() -> [[UInt64]] {
        LinearMap(system, memory).stretches.map {
            [$0.linear.rawValue, $0.physical.rawValue, $0.lengthInBytes]
        }
    }
}

@Suite struct LinearMapTests {
    @Test func withoutPagingMemoryIsWhereItIs() throws {
        var tables = try Tables()
        tables.system[.cr0] = 1
        #expect(tables.found() == [[0, 0, 16 << 20]])
        #expect(!LinearMap(tables.system, tables.memory).isPaging)
    }

    @Test func pagesOfEverySizeInFourLevels() throws {
        var tables = try Tables()
        tables.system[.efer] = 0x500
        tables.system[.cr4] = 0x20
        try tables.set(0x1000, 0, 0x2003)
        try tables.set(0x1000, 511, 0x5003)
        // 1 GiB, of which 16 MiB are there.
        try tables.set(0x2000, 0, 0x83)
        try tables.set(0x2000, 1, 0x3003)
        // 2 MiB at 2 MiB, then one that is not present, then one beyond memory.
        try tables.set(0x3000, 0, 0x20_0083)
        try tables.set(0x3000, 1, 0x40_0082)
        try tables.set(0x3000, 2, 0x1_0000_0083)
        try tables.set(0x3000, 3, 0x4003)
        // Two pages that go on, and one that does not; no-execute and protection bits do not matter.
        try tables.set(0x4000, 0, 0x7003)
        try tables.set(0x4000, 1, 1 << 63 | 0x8067)
        try tables.set(0x4000, 2, 0x7003)
        // The top of the address space.
        try tables.set(0x5000, 511, 0x6003)
        try tables.set(0x6000, 511, 0x60_0083)
        let base: UInt64 = 1 << 30
        #expect(
            tables.found() == [
                [0, 0, 16 << 20], [base, 0x20_0000, 0x20_0000],
                [base + 0x60_0000, 0x7000, 0x2000], [base + 0x60_2000, 0x7000, 0x1000],
                [0xFFFF_FFFF_FFE0_0000, 0x60_0000, 0x20_0000],
            ])
        #expect(LinearMap(tables.system, tables.memory).isComplete)
        tables.system[.cr4] = 0x1020
        try tables.set(0xA000, 511, 0x1003)
        tables.system[.cr3] = 0xA000
        #expect(tables.found().first?[0] == 0xFFFF_0000_0000_0000)
    }

    @Test func extendedAndClassicTables() throws {
        var tables = try Tables()
        tables.system[.cr4] = 0x20
        tables.system[.cr3] = 0x1020
        try tables.set(0x1020, 3, 0x2001)
        try tables.set(0x2000, 1, 0x20_0083)
        try tables.set(0x2000, 2, 0x3003)
        try tables.set(0x3000, 5, 0x9003)
        #expect(
            tables.found() == [
                [0xC020_0000, 0x20_0000, 0x20_0000], [0xC040_5000, 0x9000, 0x1000],
            ])
        tables.system[.cr4] = 0x10
        tables.system[.cr3] = 0x4000
        try tables.set32(0x4000, 0, 0x0040_0083)
        try tables.set32(0x4000, 1023, 0x5003)
        try tables.set32(0x5000, 1023, 0xA003)
        #expect(
            tables.found() == [[0, 0x40_0000, 0x40_0000], [0xFFFF_F000, 0xA000, 0x1000]])
        // Without CR4.PSE the bit means nothing: the entry leads to a table.
        tables.system[.cr4] = 0
        #expect(tables.found() == [[0xFFFF_F000, 0xA000, 0x1000]])
    }

    @Test func tablesThatLeadToThemselvesEnd() throws {
        var tables = try Tables()
        tables.system[.efer] = 0x500
        tables.system[.cr4] = 0x20
        for index in 0..<512 as Range<UInt64> { try tables.set(0x1000, index, 0x1003) }
        let map = LinearMap(tables.system, tables.memory)
        #expect(!map.isComplete)
        #expect(map.stretches.count <= LinearMap.mostStretches)
        // One entry that leads back, as kernels have it, is no trouble.
        for index in 1..<512 as Range<UInt64> { try tables.set(0x1000, index, 0) }
        try tables.set(0x1000, 511, 0x2003)
        try tables.set(0x2000, 0, 0x83)
        #expect(LinearMap(tables.system, tables.memory).isComplete)
        tables.system[.cr3] = 0xFFFF_FFFF_F000
        #expect(tables.found().isEmpty)
    }
}
