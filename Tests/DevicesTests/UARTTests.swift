import Testing

@testable import Devices

/// Each register of the 16550A, as a guest sees it at 0x3F8.
@Suite struct UARTTests {
    static let base: UInt16 = 0x3F8
    let data = base
    let ier = base + 1
    let iir = base + 2
    let fcr = base + 2
    let lcr = base + 3
    let mcr = base + 4
    let lsr = base + 5
    let msr = base + 6
    let scr = base + 7

    @Test func resetValues() throws {
        var machine = try Machine()
        #expect(machine.in(ier) == 0)
        #expect(machine.in(iir) == 0x01)
        #expect(machine.in(lcr) == 0)
        #expect(machine.in(mcr) == 0)
        #expect(machine.in(lsr) == 0x60)
        #expect(machine.in(msr) == 0xB0)
        #expect(machine.in(data) == 0)
    }

    @Test func transmittedBytesComeOutWhole() throws {
        var machine = try Machine()
        for byte in [0x48, 0xFF, 0x00, 0x0A] as [UInt32] { machine.out(data, byte) }
        #expect(machine.devices.takeSerialBytes() == [0x48, 0xFF, 0x00, 0x0A])
        #expect(machine.in(lsr) == 0x60)
        #expect(machine.devices.outputByteCount == 4)
    }

    @Test func divisorLatchHidesDataAndEnables() throws {
        var machine = try Machine(input: [0x41])
        machine.out(lcr, 0x83)
        machine.out(data, 0x01)
        machine.out(ier, 0x02)
        #expect(machine.in(data) == 0x01)
        #expect(machine.in(ier) == 0x02)
        machine.out(lcr, 0x03)
        #expect(machine.in(ier) == 0)
        #expect(machine.in(data) == 0x41)
        #expect(machine.devices.takeSerialBytes() == [])
        machine.out(lcr, 0x80)
        #expect(machine.in(data) == 0x01)
    }

    @Test func registersKeepTheirDefinedBits() throws {
        var machine = try Machine()
        machine.out(ier, 0xFF)
        #expect(machine.in(ier) == 0x0F)
        machine.out(mcr, 0xFF)
        #expect(machine.in(mcr) == 0x1F)
        machine.out(scr, 0xA5)
        #expect(machine.in(scr) == 0xA5)
        machine.out(lcr, 0x7F)
        #expect(machine.in(lcr) == 0x7F)
        machine.out(lsr, 0)
        #expect(machine.in(lsr) & 0x60 == 0x60)
    }

    @Test func inputIsNeverOverrun() throws {
        let text = Array("a long line of input that no FIFO holds".utf8)
        for fifo in [0, 1] as [UInt32] {
            var machine = try Machine(input: text)
            machine.out(fcr, fifo)
            var seen: [UInt8] = []
            while machine.in(lsr) & 1 != 0 {
                #expect(machine.in(lsr) & 2 == 0)
                seen.append(UInt8(machine.in(data)))
            }
            #expect(seen == text)
            #expect(machine.devices.isInputExhausted == true)
        }
    }

    @Test func fifoControlShowsInIdentification() throws {
        var machine = try Machine()
        machine.out(fcr, 0x01)
        #expect(machine.in(iir) == 0xC1)
        // With bit 0 clear the other bits are not programmed, and the FIFO is off.
        machine.out(fcr, 0xC0)
        #expect(machine.in(iir) == 0x01)
    }

    @Test func clearingTheReceiverDropsItsBytes() throws {
        var machine = try Machine(input: Array(1...20))
        machine.out(fcr, 0x01)
        #expect(machine.in(lsr) & 1 == 1)  // 16 are taken from the host
        machine.out(fcr, 0x03)
        #expect(machine.in(data) == 17)
        // So does switching the FIFO off.
        machine.out(fcr, 0x00)
        #expect(machine.in(lsr) & 1 == 0)
    }

    @Test(arguments: [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)] as [(UInt32, Int)])
    func triggerLevels(_ control: UInt32, _ level: Int) throws {
        var machine = try Machine(input: [UInt8](repeating: 7, count: level))
        machine.out(fcr, control)
        machine.out(ier, 0x01)
        #expect(machine.in(iir) == 0xC4)
        if level > 1 {
            _ = machine.in(data)
            #expect(machine.in(iir) == 0xCC)  // below the level: character timeout
        }
        while machine.in(lsr) & 1 != 0 { _ = machine.in(data) }
        #expect(machine.in(iir) == 0xC1)
    }

    @Test func transmitterInterruptIsToldOnce() throws {
        var machine = try Machine()
        machine.out(ier, 0x02)
        #expect(machine.in(iir) == 0x02)
        #expect(machine.in(iir) == 0x01)
        machine.out(data, 0x41)
        #expect(machine.in(iir) == 0x02)
        #expect(machine.in(iir) == 0x01)
        // Enabling it again tells again.
        machine.out(ier, 0)
        machine.out(ier, 0x02)
        #expect(machine.in(iir) == 0x02)
    }

    @Test func prioritiesAndWhatClearsThem() throws {
        var machine = try Machine()
        machine.out(mcr, 0x10)  // loopback; the lines of the modem change
        machine.out(data, 1)
        machine.out(data, 2)  // overrun
        machine.out(ier, 0x0F)
        #expect(machine.in(iir) == 0x06)
        // Identification of another source does not clear the transmitter's.
        #expect(machine.in(lsr) == 0x63)
        #expect(machine.in(iir) == 0x04)
        #expect(machine.in(data) == 2)
        #expect(machine.in(iir) == 0x02)
        #expect(machine.in(iir) == 0x00)
        #expect(machine.in(msr) & 0x0F == 0x0B)
        #expect(machine.in(iir) == 0x01)
    }

    @Test func loopbackKeepsBytesInside() throws {
        var machine = try Machine(input: [0x99])
        machine.out(mcr, 0x10)
        machine.out(data, 0x41)
        #expect(machine.in(data) == 0x41)
        #expect(machine.in(lsr) & 1 == 0)
        #expect(machine.devices.takeSerialBytes() == [])
        machine.out(mcr, 0)
        #expect(machine.in(data) == 0x99)
    }

    @Test func overrunKeepsTheFIFOAndOverwritesTheRegister() throws {
        var machine = try Machine()
        machine.out(mcr, 0x10)
        machine.out(fcr, 0x01)
        for byte in 1...17 as ClosedRange<UInt32> { machine.out(data, byte) }
        #expect(machine.in(lsr) == 0x63)
        #expect(machine.in(lsr) == 0x61)  // told once
        #expect(machine.ins(data, count: 16) == Array(1...16))
        machine.out(fcr, 0x00)
        machine.out(data, 1)
        machine.out(data, 2)
        #expect(machine.in(lsr) == 0x63)
        #expect(machine.in(data) == 2)
    }

    @Test(
        arguments: [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)] as [(UInt32, UInt32)])
    func loopbackWiresOutputsToInputs(_ output: UInt32, _ input: UInt32) throws {
        var machine = try Machine()
        machine.out(mcr, 0x10)
        _ = machine.in(msr)
        machine.out(mcr, 0x10 | output)
        let rose = machine.in(msr)
        #expect(rose & 0xF0 == input)
        // RI tells of its falling edge only.
        #expect(rose & 0x0F == (input == 0x40 ? 0 : input >> 4))
        machine.out(mcr, 0x10)
        #expect(machine.in(msr) == input >> 4)
        #expect(machine.in(msr) == 0)
    }

    @Test func interruptLineGoesThroughOUT2() throws {
        var machine = try Machine(input: [1])
        machine.out(ier, 0x01)
        #expect(machine.devices.interruptLines() == 0)
        machine.out(mcr, 0x08)
        #expect(machine.devices.interruptLines() == 1 << 4)
        machine.out(mcr, 0x18)
        #expect(machine.devices.interruptLines() == 0)
        machine.out(mcr, 0x08)
        _ = machine.in(data)
        #expect(machine.devices.interruptLines() == 0)
    }
}
