import Testing

@testable import Devices

@Suite struct DeviceSetTests {
    @Test func debugConsolesAnswerAndPrint() throws {
        var machine = try Machine()
        #expect(machine.in(0xE9) == 0xE9)
        #expect(machine.in(0x402) == 0xE9)
        machine.out(0xE9, 0x61)
        machine.out(0x3F8, 0x62)
        machine.out(0x402, 0x63)
        #expect(machine.devices.takeSerialBytes() == Array("abc".utf8))
    }

    @Test func debugConsolesCanGoElsewhere() throws {
        var machine = try Machine(debugConsole: .memory)
        machine.out(0xE9, 0x61)
        machine.out(0x3F8, 0x62)
        #expect(machine.devices.takeSerialBytes() == [0x62])
        #expect(machine.devices.takeDebugBytes() == [0x61])
    }

    @Test(
        arguments: [(1, 3, 7), (2, 0x1234, 0x2469), (4, 0x8000_0000, 1)] as [(Int, UInt32, UInt32)])
    func debugExitTakesEverySize(_ size: Int, _ value: UInt32, _ status: UInt32) throws {
        var machine = try Machine()
        #expect(machine.out(0xF4, value, size: size) == .debugExit(status: status))
    }

    @Test func resetsAndWhatIsNone() throws {
        var machine = try Machine()
        #expect(machine.out(0xCF9, 0x02) == .none)
        #expect(machine.in(0xCF9) == 0x02)
        #expect(machine.out(0xCF9, 0x06) == .reset)
        #expect(machine.out(0xCF9, 0x0E) == .reset)
        #expect(machine.out(0x64, 0xFE) == .reset)
        #expect(machine.out(0x64, 0xAA) == .none)
        #expect(machine.in(0x64) & 0x03 == 0)
        // PCI configuration, whose second byte is not the reset port's.
        #expect(machine.out(0xCF8, 0x8000_0600, size: 4) == .none)
        // Two 8-bit ports in one access, as an ISA bus splits it.
        #expect(machine.out(0xCF8, 0x0600, size: 2) == .reset)
    }

    @Test func wideAccessesReachConsecutivePorts() throws {
        var machine = try Machine()
        machine.out(0x3FF, 0xA5)
        #expect(machine.in(0x3FC, size: 4) == 0xA5B0_6000)
        // Scratch, then a port that no device claims.
        #expect(machine.in(0x3FF, size: 2) == 0xFFA5)
        machine.out(0x3FE, 0x77FF, size: 2)
        #expect(machine.in(0x3FF) == 0x77)
        #expect(machine.in(0xFFFF, size: 4) == 0xFFFF_FFFF)
        #expect(machine.in(0x3F5, size: 4) == 0x00FF_FFFF)
    }

    @Test func stringsGoElementByElement() throws {
        var machine = try Machine(input: Array("input".utf8))
        #expect(machine.outs(0x3F8, Array("hello".utf8)) == .none)
        #expect(machine.devices.takeSerialBytes() == Array("hello".utf8))
        machine.out(0x3FA, 1)
        #expect(machine.ins(0x3F8, count: 5) == Array("input".utf8))
        #expect(machine.ins(0x80, count: 3, size: 4) == [UInt8](repeating: 0xFF, count: 12))
        // Each 16-bit element of an OUTSW reaches both ports.
        #expect(machine.outs(0xE8, [1, 0x41, 2, 0x42], size: 2) == .none)
        #expect(machine.devices.takeSerialBytes() == [0x41, 0x42])
        // What ends the machine ends the string.
        #expect(machine.outs(0xF4, [1, 2, 3]) == .debugExit(status: 3))
    }

    @Test func oddLengthsAndSizesDoNotTrap() throws {
        var machine = try Machine()
        for size in [-1, 0, 1, 2, 3, 4, 8] {
            for length in 0..<9 {
                let bytes = [UInt8](repeating: 1, count: length)
                for port in [0x3F8, 0xCF8, 0xFFFE, 0xF0, 0xE9] as [UInt16] {
                    _ = machine.outs(port, bytes, size: size)
                    var answer = bytes
                    unsafe answer.withUnsafeMutableBytes {
                        unsafe machine.devices.portIn(port, size: size, into: $0)
                    }
                }
            }
        }
        for length in 0..<20 {
            _ = machine.store(.max - 3, [UInt8](repeating: 0, count: length))
            #expect(machine.load(.max - 3, length) == [UInt8](repeating: 0xFF, count: length))
        }
    }

    @Test func unclaimedAccessesAreCountedInOrder() throws {
        var machine = try Machine()
        for _ in 0..<3 { machine.out(0x80, 0) }
        _ = machine.in(0x80)
        _ = machine.in(0x60, size: 4)
        #expect(machine.load(0xFED4_0008, 8) == [UInt8](repeating: 0xFF, count: 8))
        _ = machine.load(0xFED4_0000, 1)
        #expect(machine.store(0xFEE0_0000, [1]) == .none)
        _ = machine.outs(0x81, [1, 2, 3])
        typealias Entry = UnclaimedAccesses.Entry
        #expect(
            machine.devices.unclaimed.entries == [
                // Of the four bytes at 0x60, 0x64 is not one.
                Entry(space: .port, address: 0x60, isWrite: false, count: 1),
                Entry(space: .port, address: 0x80, isWrite: false, count: 1),
                Entry(space: .port, address: 0x80, isWrite: true, count: 3),
                Entry(space: .port, address: 0x81, isWrite: true, count: 3),
                Entry(space: .memory, address: 0xFED4_0000, isWrite: false, count: 2),
                Entry(space: .memory, address: 0xFEE0_0000, isWrite: true, count: 1),
            ])
        #expect(machine.devices.unclaimed.total == 11)
    }

    @Test func unclaimedCountsAreBounded() {
        var counts = UnclaimedAccesses()
        for page in 0..<2000 as Range<UInt64> {
            counts.count(.memory, page << 12, isWrite: false)
        }
        counts.count(.memory, 0, isWrite: false)
        #expect(counts.entries.count == UnclaimedAccesses.capacity)
        #expect(counts.beyondCapacity == 2000 - UInt64(UnclaimedAccesses.capacity))
        #expect(counts.entries.first?.count == 2)
        #expect(counts.total == 2001)
        counts.count(.memory, .max, isWrite: true)
        #expect(counts.total == 2002)
    }

    @Test func aSerialPortInMemoryIsTheSameOne() throws {
        var machine = try Machine(serialMemoryBase: 0xD000_0000)
        #expect(machine.store(0xD000_0007, [0x5A]) == .none)
        #expect(machine.in(0x3FF) == 0x5A)
        #expect(machine.load(0xD000_0004, 4) == [0x00, 0x60, 0xB0, 0x5A])
        #expect(machine.store(0xD000_0000, [0x41]) == .none)
        #expect(machine.devices.takeSerialBytes() == [0x41])
        // An access that begins in front of the device.
        #expect(machine.load(0xCFFF_FFFF, 2) == [0xFF, 0x00])
    }

    @Test func rangesAreFoundAtTheirEdges() {
        var ranges = AddressRanges()
        ranges.insert(base: 0x3000, length: 0x100, slot: .serial)
        ranges.insert(base: 0x1000, length: 1, slot: .debugExit)
        ranges.insert(base: .max - 7, length: 8, slot: .debugConsole)
        #expect(ranges.find(0xFFF).slot == .unclaimed)
        #expect(ranges.find(0x1000).slot == .debugExit)
        #expect(ranges.find(0x1001).slot == .unclaimed)
        #expect(ranges.find(0x30FF) == (.serial, 0xFF))
        #expect(ranges.find(0x3100).slot == .unclaimed)
        #expect(ranges.find(.max) == (.debugConsole, 7))
        #expect(AddressRanges().find(0).slot == .unclaimed)
    }

    @Test func descriptionsNameEveryDevice() throws {
        let machine = try Machine(serialMemoryBase: 0xD000_0000)
        #expect(
            machine.devices.descriptions.map { "\($0.name) \($0.base) \($0.options)" } == [
                "16550a port 0x3f8..0x3ff memory=0xd0000000", "debug-console port 0xe9 ",
                "debug-console port 0x402 ", "isa-debug-exit port 0xf4 ", "8042-reset port 0x64 ",
                "reset-control port 0xcf9 ",
            ])
        #expect(machine.devices.descriptions[0].irq == 4)
    }

    @Test(arguments: MachineKind.allCases)
    func descriptionsNameEveryPort(_ kind: MachineKind) throws {
        let devices = try DeviceSet(.init(machine: kind))
        var described: Set<UInt16> = []
        for device in devices.descriptions where device.base.hasPrefix("port ") {
            for range in device.base.split(separator: " ").dropFirst() {
                let ends = range.split(separator: ".").map { UInt16($0.dropFirst(2), radix: 16) }
                let first = try #require(ends.first ?? nil)
                let last = try #require(ends.last ?? nil)
                described.formUnion(first...last)
            }
        }
        for port in 0...UInt16.max {
            #expect(
                described.contains(port) == (devices.slot(port) != .unclaimed),
                "port 0x\(String(port, radix: 16))")
        }
    }
}
