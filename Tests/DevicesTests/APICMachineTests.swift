import Machine
import Testing

@testable import Devices

/// A PC with APICs as a whole: addresses, lines, and the 8259 pair behind them.
@Suite struct APICMachineTests {
    static let local: UInt64 = 0xFEE0_0000
    static let io: UInt64 = 0xFEC0_0000
    static let second: UInt64 = 1_000_000_000

    /// A machine whose 8259 pair is set up (vectors 0x20 to 0x2F), all lines but those of `mask`
    /// open. The APIC is as after power-on unless it is to be enabled.
    static func make(
        input: [UInt8] = [], mask: UInt32 = 0, enables: Bool = true
    ) throws -> Machine {
        var machine = try Machine(input: input, pc: PCConfiguration(), hasAPIC: true)
        for (port, value) in [
            (0x20, 0x11), (0xA0, 0x11), (0x21, 0x20), (0xA1, 0x28), (0x21, 0x04), (0xA1, 0x02),
            (0x21, 0x01), (0xA1, 0x01), (0x21, mask & 0xFF), (0xA1, mask >> 8),
        ] as [(UInt16, UInt32)] { machine.out(port, value) }
        if enables { machine.set(0xF0, 0x1FF) }
        return machine
    }

    /// The 8254's counter 0 at 100 Hz, mode 2.
    static func startTimer(_ machine: inout Machine) {
        machine.out(0x43, 0x34)
        machine.out(0x40, 11932 & 0xFF)
        machine.out(0x40, 11932 >> 8)
    }

    @Test func theRegistersAreInMemory() throws {
        var machine = try Self.make()
        #expect(machine.load(Self.local + 0x30, 4) == [0x14, 0, 6, 0])
        #expect(machine.load(Self.local + 0x32, 2) == [6, 0])
        #expect(machine.load(Self.local + 0x30, 8) == [0x14, 0, 6, 0, 0, 0, 0, 0])
        #expect(machine.load(Self.local + 0x34, 4) == [0, 0, 0, 0])
        machine.set(0x80, 0x33)
        // Neither bytes nor places between registers are written.
        #expect(machine.store(Self.local + 0x80, [0x44]) == .none)
        #expect(machine.store(Self.local + 0x84, [1, 2, 3, 4]) == .none)
        #expect(machine.get(0x80) == 0x33)
        #expect(machine.store(Self.local + 0x80, [0x55, 0, 0, 0, 9, 9, 9, 9]) == .none)
        #expect(machine.get(0x80) == 0x55)
        #expect(machine.store(Self.io, [0x01]) == .none)
        #expect(machine.load(Self.io + 0x10, 4) == [0x11, 0, 0x17, 0])
        #expect(machine.devices.unclaimed.total == 0)
        #expect(
            machine.devices.descriptions.map(\.name).suffix(2) == ["82093aa", "local-apic"])
    }

    @Test func otherMachinesHaveNone() throws {
        var machine = try PCTests.makePC()
        #expect(machine.load(Self.local + 0x30, 4) == [0xFF, 0xFF, 0xFF, 0xFF])
        #expect(machine.load(Self.io, 4) == [0xFF, 0xFF, 0xFF, 0xFF])
        machine.devices.synchroniseAPIC(taskPriorityClass: 3, base: 0)
        machine.devices.setTimerDeadline(1, at: 1)
        #expect(machine.devices.hasInterrupt == false)
        #expect(machine.devices.timerDeadline == 0)
    }

    @Test func thePairInterruptsThroughTheVirtualWire() throws {
        var machine = try Self.make(enables: false)
        Self.startTimer(&machine)
        let deadline = try machine.deadline()
        machine.devices.advance(to: deadline)
        #expect(machine.devices.hasInterrupt == true)
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
        machine.out(0x20, 0x20)
        // Software enables the APIC and masks the line: nothing comes, and nothing is waited for.
        machine.set(0xF0, 0x1FF)
        machine.set(0x350, 0x1_0000)
        #expect(machine.devices.nextDeadline == nil)
        machine.devices.advance(to: deadline * 3)
        #expect(machine.devices.hasInterrupt == false)
        machine.set(0x350, 0x700)
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
    }

    @Test func pin0PassesThePairToo() throws {
        var machine = try Self.make()
        machine.set(0x350, 0x1_0000)
        machine.route(0, 0x700)
        Self.startTimer(&machine)
        let deadline = try machine.deadline()
        machine.devices.advance(to: deadline)
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
    }

    @Test func theIntervalTimerIsAtPin2() throws {
        var machine = try Self.make(mask: 0xFFFF)
        machine.route(2, 0x51)
        Self.startTimer(&machine)
        var deadline = try machine.deadline()
        for _ in 0..<3 {
            machine.devices.advance(to: deadline)
            #expect(machine.devices.acknowledgeInterrupt() == 0x51)
            #expect(machine.devices.hasInterrupt == false)
            #expect(machine.devices.nextDeadline == nil)  // held back by the one in service
            machine.set(0xB0, 0)
            let next = try machine.deadline()
            #expect(next - deadline > 9_990_000 && next - deadline < 10_010_000)
            deadline = next
        }
        machine.route(2, 0x1_0051)
        #expect(machine.devices.nextDeadline == nil)
    }

    @Test func theSerialPortIsAtPin4() throws {
        var machine = try Self.make(input: [0x61, 0x62], mask: 0xFFFF)
        machine.route(4, 0x44)
        machine.out(0x3FC, 0x08)  // OUT2 lets its interrupt through
        machine.out(0x3F9, 0x02)  // transmitter empty
        #expect(machine.devices.acknowledgeInterrupt() == 0x44)
        machine.set(0xB0, 0)
        #expect(machine.devices.hasInterrupt == false)
        // Each byte that is sent asks anew.
        machine.out(0x3F8, 0x41)
        #expect(machine.devices.acknowledgeInterrupt() == 0x44)
        machine.set(0xB0, 0)
        #expect(machine.in(0x3FA) & 0x0F == 0x02)  // told: the line falls
        machine.out(0x3F9, 0x01)
        machine.devices.advance(to: 1)
        #expect(machine.devices.hasInterrupt == true)
    }

    @Test func theTimerWakesAtItsDeadline() throws {
        var machine = try Self.make(mask: 0xFFFF)
        machine.set(0x3E0, 0xB)
        machine.set(0x320, 0x40)
        machine.set(0x380, 1_000_000)
        #expect(machine.devices.nextDeadline == 1_000_000)
        machine.devices.advance(to: 999_999)
        #expect(machine.devices.hasInterrupt == false)
        machine.devices.advance(to: 1_000_000)
        #expect(machine.devices.acknowledgeInterrupt() == 0x40)
        #expect(machine.devices.nextDeadline == nil)
        machine.set(0xB0, 0)
        machine.set(0x320, 0x4_0041)
        machine.devices.setTimerDeadline(7_000_000, at: 7_000_000)
        #expect(machine.devices.timerDeadline == 7_000_000)
        #expect(machine.devices.nextDeadline == 7_000_000)
        machine.devices.advance(to: 7_000_000)
        #expect(machine.devices.acknowledgeInterrupt() == 0x41)
        #expect(machine.devices.timerDeadline == 0)
        machine.set(0xB0, 0)
        machine.devices.setTimerDeadline(6_000_000, at: 6_000_000)
        #expect(machine.devices.hasInterrupt == true)
    }

    @Test func cr8HoldsInterruptsBack() throws {
        var machine = try Self.make(mask: 0xFFFF)
        machine.set(0x300, 0x4_0045)
        #expect(machine.devices.hasInterrupt == true)
        machine.devices.synchroniseAPIC(taskPriorityClass: 4, base: PCLayout.localAPICBase)
        #expect(machine.devices.hasInterrupt == false)
        #expect(machine.get(0x80) == 0x40)
        machine.devices.synchroniseAPIC(taskPriorityClass: 3, base: PCLayout.localAPICBase)
        #expect(machine.devices.acknowledgeInterrupt() == 0x45)
    }

    /// What a guest can let through by CR8 alone, and so without an exit.
    @Test func whatThePriorityHoldsBackIsTold() throws {
        var machine = try Self.make(mask: 0xFFFF)
        func hold(_ priority: UInt64) -> Bool {
            machine.devices.synchroniseAPIC(
                taskPriorityClass: priority, base: PCLayout.localAPICBase)
            return machine.devices.isHoldingBack
        }
        #expect(hold(15) == false)  // nothing to hold
        // A request that waits.
        machine.set(0x300, 0x4_0045)
        #expect(hold(0) == false)
        #expect(hold(3) == false)
        #expect(hold(4) == true)
        #expect(hold(0) == false)
        #expect(machine.devices.acknowledgeInterrupt() == 0x45)
        machine.set(0x300, 0x4_0043)
        #expect(hold(9) == false)  // what is in service holds it back anyhow
        machine.set(0xB0, 0)
        #expect(hold(9) == true)
        #expect(hold(0) == false)
        #expect(machine.devices.acknowledgeInterrupt() == 0x43)
        machine.set(0xB0, 0)
        // The timer's, and a pin's.
        machine.set(0x320, 0x52)
        #expect(hold(5) == false)
        machine.set(0x380, 1000)
        #expect(hold(5) == true)
        machine.set(0x380, 0)
        #expect(hold(5) == false)
        machine.route(2, 0x51)
        #expect(hold(5) == true)
        #expect(hold(4) == false)
        machine.route(2, 0x1_0051)
        #expect(hold(5) == false)
    }

    @Test func theAPICsPageMovesAndGoes() throws {
        var machine = try Self.make()
        machine.devices.synchroniseAPIC(taskPriorityClass: 0, base: 0xFED1_0900)
        #expect(machine.load(0xFED1_0030, 4) == [0x14, 0, 6, 0])
        #expect(machine.load(Self.local + 0x30, 4) == [0xFF, 0xFF, 0xFF, 0xFF])
        machine.devices.synchroniseAPIC(taskPriorityClass: 0, base: 0xFED1_0100)
        #expect(machine.load(0xFED1_0030, 4) == [0xFF, 0xFF, 0xFF, 0xFF])
        Self.startTimer(&machine)
        machine.devices.advance(to: Self.second)
        #expect(machine.devices.acknowledgeInterrupt() == 0x20)
    }

    /// Whatever a guest writes anywhere, nothing traps and time goes on.
    @Test(arguments: 0..<8 as Range<UInt64>)
    func nonsenseIsSurvived(seed: UInt64) throws {
        var machine = try Self.make()
        var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
        func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
        var time: UInt64 = 0
        for _ in 0..<20_000 {
            let value = next()
            let bytes = (0..<8).map { UInt8(truncatingIfNeeded: value >> (UInt64($0) * 8)) }
            let size = [1, 2, 4, 4, 4, 8][Int(next() % 6)]
            let base = next() & 3 == 0 ? Self.io : Self.local
            let offset = next() & 7 == 0 ? next() & 0xFFF : next() & 0x3F0
            switch next() % 6 {
            case 0: _ = machine.load(base + offset, size)
            case 1: _ = machine.devices.acknowledgeInterrupt()
            case 2:
                time &+= next() % 3_000_000
                machine.devices.advance(to: time)
            case 3:
                machine.devices.setTimerDeadline(value >> 32, at: value >> 32)
            default: _ = machine.store(base + offset, Array(bytes.prefix(size)))
            }
            if let deadline = machine.devices.nextDeadline { #expect(deadline > time) }
        }
    }
}

extension Machine {
    /// When something happens by itself next; a failure where nothing does.
    func deadline() throws -> UInt64 {
        let deadline = devices.nextDeadline
        return try #require(deadline)
    }

    /// Writes a register of the local APIC.
    mutating func set(_ offset: UInt64, _ value: UInt32) {
        _ = store(
            APICMachineTests.local + offset,
            (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) })
    }

    /// Reads a register of the local APIC.
    mutating func get(_ offset: UInt64) -> UInt32 {
        load(APICMachineTests.local + offset, 4).reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Sets the low half of a pin's entry; its destination is APIC 0.
    mutating func route(_ pin: UInt8, _ entry: UInt32) {
        _ = store(APICMachineTests.io, [0x10 + pin * 2])
        _ = store(
            APICMachineTests.io + 0x10,
            (0..<4).map { UInt8(truncatingIfNeeded: entry >> UInt32($0 * 8)) })
    }
}
