import Machine
import Testing

@testable import Devices

/// fw_cfg by its ports, and its DMA against a RAM of bytes.
@Suite struct FirmwareConfigurationTests {
    /// RAM from address 0 up.
    struct Memory: DirectMemory {
        enum Failure: Error { case refused }
        var bytes: [UInt8]
        var refuses = false
        var writes = 0

        func read(
            _ address: GuestPhysicalAddress, into target: UnsafeMutableRawBufferPointer
        ) throws(Failure) -> Bool {
            if refuses { throw .refused }
            guard let range = range(address, target.count) else { return false }
            unsafe target.copyBytes(from: bytes[range])
            return true
        }

        mutating func write(
            _ address: GuestPhysicalAddress, _ source: UnsafeRawBufferPointer
        ) throws(Failure) -> Bool {
            guard let range = range(address, source.count) else { return false }
            unsafe bytes.replaceSubrange(range, with: source)
            writes += 1
            return true
        }

        private func range(_ address: GuestPhysicalAddress, _ count: Int) -> Range<Int>? {
            guard address.rawValue <= UInt64(bytes.count - count) else { return nil }
            let start = Int(address.rawValue)
            return start..<start + count
        }
    }

    static func read(_ machine: inout Machine, _ key: UInt32, _ count: Int) -> [UInt8] {
        machine.out(0x510, key, size: 2)
        return machine.ins(0x511, count: count)
    }

    @Test func tellsOfTheMachine() throws {
        var machine = try Machine(
            pc: .init(memoryBelow4GiB: 0x1234_5000, memoryAbove4GiB: 0x1000))
        #expect(Self.read(&machine, 0, 6) == Array("QEMU\0\0".utf8))
        #expect(Self.read(&machine, 1, 4) == [1, 0, 0, 0])
        #expect(Self.read(&machine, 3, 8) == [0x00, 0x50, 0x34, 0x12, 0, 0, 0, 0])
        #expect(Self.read(&machine, 5, 2) == [1, 0])
        #expect(Self.read(&machine, 0x7FFF, 2) == [0, 0])
        #expect(Self.read(&machine, 0x8000, 2) == [0, 0])
        // A byte is not a selection, and nothing can be written.
        machine.out(0x510, 0)
        machine.out(0x511, 0x55)
        #expect(machine.in(0x511) == 0)
        #expect(machine.in(0x514, size: 4) == 0xFFFF_FFFF)
    }

    @Test func listsFilesByName() throws {
        var pc = PCConfiguration(memoryBelow4GiB: 2 << 20, memoryAbove4GiB: 1 << 20)
        pc.files = [.init(name: "opt/a", bytes: [1, 2, 3]), .init(name: "aa", bytes: [9])]
        pc.bootOrder = ["/pci@i0cf8/ide@1,1", "HALT"]
        var machine = try Machine(pc: pc)
        let directory = Self.read(&machine, 0x19, 4 + 4 * 64)
        #expect(Array(directory[..<4]) == [0, 0, 0, 4])
        let entries = (0..<4).map { index in
            let entry = Array(directory[4 + index * 64..<68 + index * 64])
            let name = String(decoding: entry[8...].prefix { $0 != 0 }, as: UTF8.self)
            let length = Int(entry[2]) << 8 | Int(entry[3])
            return (name, length, UInt32(entry[4]) << 8 | UInt32(entry[5]))
        }
        #expect(entries.map(\.0) == ["aa", "bootorder", "etc/e820", "opt/a"])
        #expect(entries.map(\.1) == [1, 24, 40, 3])
        #expect(entries.map(\.2) == [0x20, 0x21, 0x22, 0x23])
        #expect(Self.read(&machine, 0x23, 4) == [1, 2, 3, 0])
        #expect(Self.read(&machine, 0x21, 24) == Array("/pci@i0cf8/ide@1,1\nHALT\0".utf8))
        #expect(
            Self.read(&machine, 0x22, 40) == [
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 1, 0, 0, 0,
                0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 1, 0, 0, 0,
            ])
    }

    @Test func namesAndNumbersOfFilesAreBounded() throws {
        var pc = PCConfiguration()
        let name = String(repeating: "n", count: 80)
        pc.files = (0..<400).map { .init(name: name + "\($0)", bytes: []) }
        var machine = try Machine(pc: pc)
        #expect(Self.read(&machine, 0x19, 4) == [0, 0, 1, 0])
        let directory = Self.read(&machine, 0x19, 4 + 64 * 256)
        #expect(directory[4 + 64 + 63] == 0)
    }

    @Test func aKernelIsCutAfterItsSetup() throws {
        var pc = PCConfiguration()
        pc.kernel = (0..<5000).map { UInt8(truncatingIfNeeded: $0 / 512) }
        pc.kernel[0x1F1] = 3
        for index in 0x22C..<0x230 { pc.kernel[index] = index < 0x22F ? 0xFF : 0x01 }
        pc.initrd = [7, 8, 9]
        pc.commandLine = "a=b"
        var machine = try Machine(pc: pc)
        #expect(Self.read(&machine, 0x17, 4) == [0, 8, 0, 0])
        #expect(Self.read(&machine, 0x18, 2049)[2047] == 3)
        #expect(Self.read(&machine, 0x08, 4) == [0x88, 0x0B, 0, 0])
        #expect(Self.read(&machine, 0x11, 1) == [4])
        #expect(Self.read(&machine, 0x14, 4) == [4, 0, 0, 0])
        #expect(Self.read(&machine, 0x15, 5) == Array("a=b\0\0".utf8))
        #expect(Self.read(&machine, 0x12, 3) == [7, 8, 9])
        #expect(Self.read(&machine, 0x0B, 4) == [3, 0, 0, 0])
        // Below the kernel's limit of 32 MiB, on a page.
        #expect(Self.read(&machine, 0x0A, 4) == [0x00, 0xF0, 0xFF, 0x01])
        pc.kernel = [1]
        pc.initrd = [UInt8](repeating: 0, count: 100)
        pc.memoryBelow4GiB = 64
        var tiny = try Machine(pc: pc)
        #expect(Self.read(&tiny, 0x17, 4) == [1, 0, 0, 0])
        #expect(Self.read(&tiny, 0x0A, 4) == [0, 0, 0, 0])
    }

    // MARK: DMA

    /// Puts a request at 0x100 and has it served; gives RAM after it.
    static func request(
        _ control: UInt32, length: UInt32, address: UInt64, memoryLength: Int = 0x3000,
        pc: PCConfiguration? = nil
    ) throws -> Memory {
        var pc = pc ?? PCConfiguration()
        pc.offersFirmwareDMA = true
        var machine = try Machine(pc: pc)
        #expect(Self.read(&machine, 1, 1) == [3])
        #expect(machine.ins(0x514, count: 1, size: 4) == Array("QEMU".utf8))
        #expect(machine.ins(0x518, count: 1, size: 4) == Array(" CFG".utf8))
        var memory = Memory(bytes: [UInt8](repeating: 0xEE, count: memoryLength))
        memory.bytes.replaceSubrange(
            0x100..<0x110,
            with: FirmwareItems.bigEndian(UInt64(control), length: 4)
                + FirmwareItems.bigEndian(UInt64(length), length: 4)
                + FirmwareItems.bigEndian(address, length: 8))
        #expect(machine.out(0x514, 0, size: 4) == .none)
        #expect(machine.out(0x518, UInt32(0x100).bigEndian, size: 4) == .directMemory)
        try machine.devices.transfer(with: &memory)
        return memory
    }

    @Test func dmaCopiesAnItemAndZerosBehindIt() throws {
        let memory = try Self.request(0x0000_000A, length: 6, address: 0x200)
        #expect(
            memory.bytes[0x200..<0x208].elementsEqual([0x51, 0x45, 0x4D, 0x55, 0, 0, 0xEE, 0xEE]))
        #expect(memory.bytes[0x100..<0x104].elementsEqual([0, 0, 0, 0]))
    }

    @Test func dmaCopiesInPieces() throws {
        var pc = PCConfiguration()
        pc.files = [.init(name: "a", bytes: (0..<200_000).map { UInt8(truncatingIfNeeded: $0) })]
        let memory = try Self.request(
            0x0020_000A, length: 200_000, address: 0x1000, memoryLength: 300_000, pc: pc)
        #expect(memory.bytes[0x1000..<0x1000 + 200_000].elementsEqual(pc.files[0].bytes))
        #expect(memory.writes == 5)
    }

    @Test(
        arguments: [
            (0x0000_0018, 4, 0x200),  // writing
            (0x0000_000A, 4, 0x2FFE),  // past the end of RAM
            (0x0000_000A, 0xFFFF_FFFF, 0x200),  // more than there is
            (0x0000_000A, 8, .max - 3),
        ] as [(UInt32, UInt32, UInt64)])
    func dmaThatCannotBeIsAnError(control: UInt32, length: UInt32, address: UInt64) throws {
        let memory = try Self.request(control, length: length, address: address)
        #expect(memory.bytes[0x100..<0x104].elementsEqual([0, 0, 0, 1]))
    }

    @Test func dmaSelectsAndSkips() throws {
        let memory = try Self.request(0x0003_000C, length: 3, address: 0)
        #expect(memory.bytes[0x100..<0x104].elementsEqual([0, 0, 0, 0]))
    }

    @Test func aRequestOutsideOfRAMIsDropped() throws {
        var pc = PCConfiguration()
        pc.offersFirmwareDMA = true
        var machine = try Machine(pc: pc)
        machine.out(0x514, .max, size: 4)
        #expect(machine.out(0x518, .max, size: 4) == .directMemory)
        var memory = Memory(bytes: [UInt8](repeating: 0, count: 16))
        try machine.devices.transfer(with: &memory)
        #expect(memory.writes == 0)
        memory.refuses = true
        do throws(Memory.Failure) {
            try machine.devices.transfer(with: &memory)
            Issue.record("the memory's failure did not come through")
        } catch { #expect(error == .refused) }
    }
}
