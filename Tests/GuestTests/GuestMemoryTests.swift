import Machine
import Testing

@testable import Guest

@Suite struct GuestMemoryTests {
    @Test func layoutKeepsTheHole() throws {
        let small = try RAMLayout(lengthInBytes: 64 << 20)
        #expect(small.lowLength == 64 << 20)
        #expect(small.highLength == 0)
        let large = try RAMLayout(lengthInBytes: 5 << 30)
        #expect(large.lowLength == 3 << 30)
        #expect(large.highLength == 2 << 30)
        #expect(large.contains(0, 3 << 30))
        #expect(!large.contains((3 << 30) - 1, 2))
        #expect(!large.contains(3 << 30, 1))
        #expect(large.contains(4 << 30, 2 << 30))
        #expect(!large.contains(4 << 30, 2 << 30 + 1))
        #expect(!large.contains(.max, 2))
        #expect(!large.contains(0, 0))
    }

    @Test(arguments: [0, 4096, 65_537, (1 << 40) + 4096, .max] as [UInt64])
    func layoutRefusesSizes(_ length: UInt64) {
        #expect(throws: GuestError.self) { try RAMLayout(lengthInBytes: length) }
    }

    @Test func regionsAreInOrderAndMeetTheirAddresses() throws {
        let memory = try GuestMemory(
            layout: RAMLayout(lengthInBytes: 5 << 30), romLengthInBytes: 128 << 10)
        #expect(memory.regions.map(\.name) == ["ram", "rom", "ram-high"])
        #expect(memory.regions.map(\.base.rawValue) == [0, 0xFFFE_0000, 0x1_0000_0000])
        #expect(memory.regions.map(\.lengthInBytes) == [0xC000_0000, 0x2_0000, 0x8000_0000])
        #expect(memory.regions.map(\.isReadOnly) == [false, true, false])
    }

    @Test func bytesComeBackAndBoundsHold() throws {
        let memory = try GuestMemory(
            layout: RAMLayout(lengthInBytes: 64 << 10), romLengthInBytes: 4096)
        try memory.write(GuestPhysicalAddress(0xFFFE), [1, 2][...])
        #expect(try memory.read(GuestPhysicalAddress(0xFFFD), count: 3) == [0, 1, 2])
        try memory.write(GuestPhysicalAddress(0xFFFF_FFFF), [9][...])
        #expect(try memory.read(GuestPhysicalAddress(0xFFFF_FFFF), count: 1) == [9])
        for (address, count) in [
            (0xFFFF, 2), (0x1_0000, 1), (0xFFFF_EFFF, 1), (0xFFFF_FFFF, 2), (UInt64.max, 1),
            (UInt64.max, 2), (0, Int.max),
        ] as [(UInt64, Int)] {
            #expect(throws: GuestError.self) {
                try memory.read(GuestPhysicalAddress(address), count: count)
            }
            #expect(unsafe memory.host(GuestPhysicalAddress(address), count: count) == nil)
        }
        #expect(throws: GuestError.self) {
            try memory.write(GuestPhysicalAddress(0xFFFF), [1, 2][...])
        }
        #expect(try memory.read(GuestPhysicalAddress(0xFFFF), count: 1) == [2])
        #expect(unsafe memory.host(GuestPhysicalAddress(0), count: -1) == nil)
    }

    private func nonZeroPages(_ memory: borrowing GuestMemory) -> [UInt64] {
        var pages: [UInt64] = []
        unsafe memory.forEachNonZeroPage { number, bytes in
            #expect(bytes.count == 4096)
            pages.append(number)
        }
        return pages
    }

    @Test func onlyPagesWithDataAreVisitedInOrder() throws {
        let memory = try GuestMemory(
            layout: RAMLayout(lengthInBytes: 4 << 30), romLengthInBytes: 64 << 10)
        #expect(nonZeroPages(memory) == [])
        // A page that was touched and is zero, one whose last byte alone is set, ROM, high RAM.
        try memory.write(GuestPhysicalAddress(0x5000), [0][...])
        try memory.write(GuestPhysicalAddress(0x1_0000_0000), [1][...])
        try memory.write(GuestPhysicalAddress(0xFFFF_FFFF), [1][...])
        try memory.write(GuestPhysicalAddress(0x7FFF), [1][...])
        try memory.write(GuestPhysicalAddress(0x4000_0008), [1][...])
        #expect(nonZeroPages(memory) == [0x7, 0x4_0000, 0xF_FFFF, 0x10_0000])
    }

    @Test func anErrorEndsTheWalk() throws {
        struct Stop: Error {}
        let memory = try GuestMemory(layout: RAMLayout(lengthInBytes: 1 << 20))
        try memory.write(GuestPhysicalAddress(0), [UInt8](repeating: 1, count: 1 << 20)[...])
        var visited = 0
        #expect(throws: Stop.self) {
            try unsafe memory.forEachNonZeroPage { number, _ throws(Stop) in
                visited += 1
                if number == 3 { throw Stop() }
            }
        }
        #expect(visited == 4)
    }

    @Test func aTebibyteCostsNothing() throws {
        let memory: GuestMemory
        do throws(GuestError) {
            memory = try GuestMemory(layout: RAMLayout(lengthInBytes: 1 << 40))
        } catch {
            // A host with strict overcommit refuses; then it must say so.
            #expect(error.kind == .noMemory)
            return
        }
        try memory.write(GuestPhysicalAddress((1 << 40) + (1 << 30) - 1), [7][...])
        #expect(
            try memory.read(GuestPhysicalAddress((1 << 40) + (1 << 30) - 1), count: 1) == [7])
    }
}
