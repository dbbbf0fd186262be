import Testing

@testable import Devices

/// A PC as a whole: PCI, power, the ports that devices share, and who interrupts when.
@Suite struct PCTests {
    static let second: UInt64 = 1_000_000_000

    /// A PC with its interrupt controllers set up, all lines but those of `mask` open.
    static func makePC(
        _ pc: PCConfiguration = .init(), input: [UInt8] = [], mask: UInt32 = 0
    ) throws -> Machine {
        var machine = try Machine(input: input, pc: pc)
        for (port, value) in [
            (0x20, 0x11), (0xA0, 0x11), (0x21, 0x20), (0xA1, 0x28), (0x21, 0x04), (0xA1, 0x02),
            (0x21, 0x01), (0xA1, 0x01), (0x21, mask & 0xFF), (0xA1, mask >> 8),
        ] as [(UInt16, UInt32)] { machine.out(port, value) }
        return machine
    }

    static func pci(_ machine: inout Machine, _ function: UInt32, _ index: UInt32) -> UInt32 {
        machine.out(0xCF8, 0x8000_0000 | function << 8 | index, size: 4)
        return machine.in(0xCFC, size: 4)
    }

    @Test func pciFunctionsAreFound() throws {
        var machine = try Self.makePC()
        #expect(Self.pci(&machine, 0x00, 0x00) == 0x1237_8086)
        #expect(machine.in(0xCF8, size: 4) == 0x8000_0000)
        #expect(Self.pci(&machine, 0x08, 0x00) == 0x7000_8086)
        #expect(Self.pci(&machine, 0x08, 0x08) == 0x0601_0000)
        #expect(Self.pci(&machine, 0x0B, 0x00) == 0x7113_8086)
        #expect(Self.pci(&machine, 0x00, 0x2C) == 0x1100_1AF4)
        #expect(Self.pci(&machine, 0x09, 0x00) == 0xFFFF_FFFF)
        #expect(Self.pci(&machine, 0x100, 0x00) == 0xFFFF_FFFF)
        machine.out(0xCF8, 0x0000_0000, size: 4)
        #expect(machine.in(0xCFC, size: 4) == 0xFFFF_FFFF)
        // Bytes and words of the data port, and identity that stays.
        _ = Self.pci(&machine, 0x00, 0x00)
        #expect(machine.in(0xCFE, size: 2) == 0x1237)
        #expect(machine.in(0xCFD) == 0x80)
        machine.out(0xCFC, 0, size: 4)
        #expect(machine.in(0xCFC, size: 4) == 0x1237_8086)
        // No base address registers.
        _ = Self.pci(&machine, 0x00, 0x10)
        machine.out(0xCFC, 0xFFFF_FFFF, size: 4)
        #expect(machine.in(0xCFC, size: 4) == 0)
        // Shadow RAM control is kept.
        _ = Self.pci(&machine, 0x00, 0x58)
        machine.out(0xCFD, 0x30)
        #expect(Self.pci(&machine, 0x00, 0x58) == 0x3000)
    }

    @Test func onlyFourBytesAreTheAddress() throws {
        var machine = try Self.makePC()
        #expect(machine.out(0xCF8, 0x8000_0640, size: 4) == .none)
        #expect(machine.in(0xCF9) == 0)
        machine.out(0xCF8, 0x12)
        machine.out(0xCFA, 0x3456, size: 2)
        #expect(machine.in(0xCF8, size: 4) == 0x8000_0640)
        #expect(machine.out(0xCF9, 0x06) == .reset)
    }

    @Test func powerManagementMovesAndSwitchesOff() throws {
        var machine = try Self.makePC()
        #expect(machine.out(0x604, 0x2000, size: 2) == .powerOff)
        _ = Self.pci(&machine, 0x0B, 0x40)
        #expect(machine.in(0xCFC, size: 4) == 0x0000_0601)
        machine.out(0xCFC, 0xB001, size: 4)
        #expect(machine.out(0x604, 0x2000, size: 2) == .none)
        #expect(machine.in(0x604, size: 2) == 0xFFFF)
        #expect(machine.out(0xB004, 0x3C00, size: 2) == .none)  // not S5
        #expect(machine.in(0xB004, size: 2) == 0x1C00)
        #expect(machine.out(0xB004, 0x2000, size: 2) == .powerOff)
        // Switched off altogether, and placed over other devices, which stay.
        _ = Self.pci(&machine, 0x0B, 0x80)
        machine.out(0xCFC, 0)
        #expect(machine.out(0xB004, 0x2000, size: 2) == .none)
        machine.out(0xCFC, 1)
        _ = Self.pci(&machine, 0x0B, 0x40)
        machine.out(0xCFC, 0x0001, size: 2)
        machine.out(0xCFC, 0x03C1, size: 2)
        machine.out(0x3FF, 0x77)
        #expect(machine.in(0x3FF) == 0x77)
        #expect(machine.out(0x3C4, 0x2000, size: 2) == .powerOff)
    }

    @Test(arguments: [(false, 24), (true, 32)] as [(Bool, UInt64)])
    func theACPITimerCountsAndOverflows(has32Bits: Bool, bits: UInt64) throws {
        var pc = PCConfiguration()
        pc.has32BitTimer = has32Bits
        var machine = try Self.makePC(pc)
        machine.devices.advance(to: Self.second)
        #expect(machine.in(0x608, size: 4) == 3_579_545)
        machine.out(0x602, 0x0001, size: 2)
        #expect(machine.devices.nextDeadline == nil)  // ACPI is not on
        machine.out(0xB2, 0xF1)
        #expect(machine.in(0x604, size: 2) == 0x0001)
        let half = ClockRate.powerManagementTimer.time(of: 1 << (bits - 1))
        #expect(machine.devices.nextDeadline == half)
        machine.devices.advance(to: half - 1)
        #expect(machine.devices.hasInterrupt == false)
        machine.devices.advance(to: half)
        #expect(machine.in(0x608, size: 4) == 1 << (bits - 1))
        #expect(machine.in(0x600, size: 2) == 1)
        #expect(machine.devices.acknowledgeInterrupt() == 0x29)
        #expect(machine.devices.nextDeadline == nil)
        machine.out(0x600, 0x0000, size: 2)
        #expect(machine.in(0x600, size: 2) == 1)
        machine.out(0x600, 0xFFFF, size: 2)
        #expect(machine.in(0x600, size: 2) == 0)
        machine.out(0xB2, 0xF0)
        #expect(machine.in(0x604, size: 2) == 0)
        machine.devices.advance(to: half * 2)
        #expect(machine.in(0x608, size: 4) == 0)
    }

    @Test func theTimerInterruptsAtItsDeadlines() throws {
        var machine = try Self.makePC()
        #expect(machine.devices.nextDeadline == nil)
        machine.out(0x43, 0x34)
        machine.out(0x40, 0x9C)
        machine.out(0x40, 0x2E)  // 11932 ticks: 10 ms
        var times: [UInt64] = []
        while times.count < 3 {
            let deadline = machine.devices.nextDeadline
            let next = try #require(deadline)
            machine.devices.advance(to: next - 1)
            #expect(machine.devices.hasInterrupt == false)
            machine.devices.advance(to: next)
            #expect(machine.devices.hasInterrupt == true)
            #expect(machine.devices.acknowledgeInterrupt() == 0x20)
            machine.out(0x20, 0x20)
            times.append(next)
        }
        #expect(times == [11_933, 23_865, 35_797].map { ClockRate.intervalTimer.time(of: $0) })
        // Late by many periods: one interrupt.
        machine.devices.advance(to: 20 * Self.second)
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
        machine.out(0x20, 0x20)
        #expect(machine.devices.hasInterrupt == false)
        // Masked, it is nothing to wait for.
        machine.out(0x21, 0x01)
        #expect(machine.devices.nextDeadline == nil)
        // Time does not go back.
        machine.devices.advance(to: 5)
        machine.out(0x21, 0x00)
        #expect(machine.devices.nextDeadline ?? 0 > 20 * Self.second)
    }

    @Test func aTickThatComesLateIsNotLost() throws {
        var machine = try Self.makePC()
        machine.out(0x43, 0x36)  // a square wave: high for 50 ticks, low for 50
        machine.out(0x40, 100)
        machine.out(0x40, 0)
        machine.devices.advance(to: IntervalTimerTests.time(1 + 100 + 75))
        #expect(machine.devices.hasInterrupt == true)
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
        machine.out(0x20, 0x20)
        machine.devices.advance(to: IntervalTimerTests.time(1 + 100 + 76))
        #expect(machine.devices.hasInterrupt == false)
        machine.devices.advance(to: IntervalTimerTests.time(1 + 200))
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
        machine.out(0x20, 0x20)
        // A guest that lowers OUT itself takes the request back.
        machine.devices.advance(to: IntervalTimerTests.time(1 + 300 + 75))
        #expect(machine.devices.hasInterrupt == true)
        machine.out(0x43, 0x30)
        #expect(machine.devices.hasInterrupt == false)
        // With levels, nothing is kept.
        machine.out(0x20, 0x19)
        for value in [0x20, 0x04, 0x01] as [UInt32] { machine.out(0x21, value) }
        machine.out(0x43, 0x36)
        machine.out(0x40, 100)
        machine.out(0x40, 0)
        #expect(machine.devices.hasInterrupt == true)
        machine.devices.advance(to: IntervalTimerTests.time(1 + 400 + 75 + 76))
        #expect(machine.devices.hasInterrupt == false)
    }

    @Test func theClockInterruptsThroughTheSlave() throws {
        var machine = try Self.makePC()
        machine.out(0x70, 0x0B)
        machine.out(0x71, 0x12)
        #expect(machine.devices.nextDeadline == Self.second)
        machine.out(0xA1, 0x01)
        #expect(machine.devices.nextDeadline == nil)
        machine.out(0xA1, 0x00)
        machine.out(0x21, 0x04)
        #expect(machine.devices.nextDeadline == nil)
        machine.out(0x21, 0x00)
        machine.devices.advance(to: Self.second)
        #expect(machine.devices.acknowledgeInterrupt() == 0x28)
        machine.out(0xA0, 0x20)
        machine.out(0x20, 0x20)
        // Until register C is read, no further edge.
        machine.devices.advance(to: 2 * Self.second)
        #expect(machine.devices.hasInterrupt == false)
        machine.out(0x70, 0x0C)
        #expect(machine.in(0x71) & 0x90 == 0x90)
        machine.devices.advance(to: 3 * Self.second)
        #expect(machine.devices.hasInterrupt == true)
    }

    @Test func theSerialPortInterrupts() throws {
        var machine = try Self.makePC(input: Array("x".utf8))
        machine.out(0x3FC, 0x08)
        machine.out(0x3F9, 0x03)
        #expect(machine.devices.acknowledgeInterrupt() == 0x24)
        #expect(machine.in(0x3FA) == 0x04)
        #expect(machine.in(0x3F8) == 0x78)
        #expect(machine.in(0x3FA) == 0x02)
        machine.out(0x20, 0x20)
        #expect(machine.devices.hasInterrupt == false)
        // Each byte that is sent asks anew, whether or not the last request was looked at.
        for byte in [0x41, 0x42] as [UInt32] {
            machine.out(0x3F8, byte)
            #expect(machine.devices.acknowledgeInterrupt() == 0x24)
            machine.out(0x20, 0x20)
            #expect(machine.devices.hasInterrupt == false)
        }
    }

    @Test func eachKeyCodeInterrupts() throws {
        var pc = PCConfiguration()
        pc.keys = Array("a".utf8)
        var machine = try Self.makePC(pc)
        machine.out(0x64, 0x60)
        machine.out(0x60, 0x41)
        #expect(machine.devices.nextDeadline == pc.firstKeyNanoseconds)
        machine.devices.advance(to: pc.firstKeyNanoseconds)
        for code in [0x1E, 0x9E] as [UInt32] {
            #expect(machine.devices.acknowledgeInterrupt() == 0x21)
            #expect(machine.in(0x60) == code)
            machine.out(0x20, 0x20)
        }
        #expect(machine.devices.hasInterrupt == false)
        #expect(machine.devices.nextDeadline == nil)
        #expect(machine.devices.pressKey(0x1C) == true)
        #expect(machine.devices.acknowledgeInterrupt() == 0x21)
    }

    @Test func fastA20AndReset() throws {
        var machine = try Self.makePC()
        #expect(machine.in(0x92) == 0x02)
        #expect(machine.out(0x92, 0x00) == .none)
        machine.out(0x64, 0xD0)
        #expect(machine.in(0x60) & 0x02 == 0)
        #expect(machine.out(0x92, 0x02) == .none)
        #expect(machine.in(0x92) == 0x02)
        #expect(machine.out(0x92, 0x03) == .reset)
        #expect(machine.out(0x64, 0xFE) == .reset)
        machine.out(0x64, 0xD1)
        #expect(machine.out(0x60, 0x02) == .reset)
    }

    @Test func latchesKeepWhatIsWritten() throws {
        var machine = try Self.makePC()
        for port in [0x00, 0x0F, 0x80, 0x8F, 0xC0, 0xDF] as [UInt16] {
            machine.out(port, UInt32(port) ^ 0x5A)
            #expect(machine.in(port) == UInt32(port) ^ 0x5A)
        }
        #expect(machine.devices.unclaimed.total == 0)
    }

    @Test func aBareMachineHasNoneOfIt() throws {
        var machine = try Machine()
        machine.devices.advance(to: Self.second)
        #expect(machine.devices.nextDeadline == nil)
        #expect(machine.devices.hasInterrupt == false)
        #expect(machine.devices.acknowledgeInterrupt() == nil)
        #expect(machine.devices.pressKey(0x1C) == false)
        for port in [0x20, 0x40, 0x60, 0x61, 0x70, 0x92, 0x510, 0x604, 0xCFC] as [UInt16] {
            #expect(machine.in(port) == 0xFF)
        }
    }

    /// PMBA and SMBBA are port bases of 16 bits (82371AB data sheet, 7.1), and the status registers
    /// behind PMBA are cleared by ones (7.2).
    @Test func powerManagementRegistersKeepWhatTheyCan() throws {
        var machine = try Self.makePC()
        for (index, value) in [(0x40, 0xFFC1), (0x90, 0xFFF1)] as [(UInt32, UInt32)] {
            _ = Self.pci(&machine, 0x0B, index)
            machine.out(0xCFC, 0xFFFF_FFFF, size: 4)
            #expect(machine.in(0xCFC, size: 4) == value)
        }
        _ = Self.pci(&machine, 0x0B, 0x40)
        machine.out(0xCFC, 0x601, size: 4)
        for offset in [0x0C, 0x18, 0x1C, 0x1E] as [UInt16] {
            machine.out(0x600 + offset, 0xFFFF, size: 2)
            #expect(machine.in(0x600 + offset, size: 2) == 0, "\(offset)")
        }
        // Their enables keep what is written.
        machine.out(0x60E, 0x0703, size: 2)
        #expect(machine.in(0x60E, size: 2) == 0x0703)
    }

    @Test func descriptionsNameAPC() throws {
        let machine = try Machine(pc: .init())
        #expect(
            machine.devices.descriptions.map { "\($0.name) \($0.base) \($0.options)" } == [
                "16550a port 0x3f8..0x3ff ", "debug-console port 0xe9 ",
                "debug-console port 0x402 ", "isa-debug-exit port 0xf4 ",
                "8259a-pair port 0x20..0x21 0xa0..0xa1 0x4d0..0x4d1 ", "8254 port 0x40..0x43 ",
                "8042 port 0x60 0x64 ", "mc146818 port 0x70..0x71 start=0",
                "system-control port 0x61 0x92 ", "fw-cfg port 0x510 0x511 0x514..0x51b ",
                "piix4-pm port 0xb2..0xb3 0x600..0x63f timer=24",
                "pci-config port 0xcf8 0xcfc..0xcff ",
                "dma-and-post-latches port 0x0..0xf 0x80..0x8f 0xc0..0xdf ",
                "reset-control port 0xcf9 ",
            ])
    }

    /// Random accesses at random times: nothing traps, and the same again gives the same.
    @Test func nothingTrapsAndAllRepeats() throws {
        func run(_ seed: UInt64) throws -> UInt64 {
            var pc = PCConfiguration()
            pc.keys = Array("some text".utf8)
            pc.offersFirmwareDMA = true
            var machine = try Self.makePC(pc, input: Array("input".utf8))
            var random = IntervalTimerTests.Random(state: seed)
            var now: UInt64 = 0
            var digest: UInt64 = 0
            let ports: [UInt16] = [
                0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xA0, 0xA1,
                0xB2, 0x3F8, 0x3F9, 0x3FC, 0x4D0, 0x510, 0x511, 0x518, 0x600, 0x604, 0x608, 0xCF8,
                0xCFC,
            ]
            for _ in 0..<4000 {
                let choice = random.next()
                let port = ports[Int(choice % UInt64(ports.count))]
                let size = [1, 1, 1, 2, 4][Int((choice >> 32) % 5)]
                if choice >> 40 & 1 == 0 {
                    machine.out(port, UInt32(truncatingIfNeeded: random.next()), size: size)
                } else {
                    digest = digest &* 31 &+ UInt64(machine.in(port, size: size))
                }
                let leap = random.next() >> UInt64.random(in: 24..<60, using: &random)
                let (next, overflow) = now.addingReportingOverflow(leap)
                now = overflow ? .max : next
                machine.devices.advance(to: now)
                if let deadline = machine.devices.nextDeadline { #expect(deadline >= now) }
                if machine.devices.hasInterrupt {
                    digest = digest &* 31 &+ UInt64(machine.devices.acknowledgeInterrupt() ?? 0)
                    machine.out(0xA0, 0x20)
                    machine.out(0x20, 0x20)
                }
            }
            return digest
        }
        for seed in 0..<40 as Range<UInt64> {
            let first = try run(seed)
            #expect(try run(seed) == first)
        }
    }
}
