import Testing

@testable import Devices

/// The 8042 and its keyboard, by ports 0x60 and 0x64.
@Suite struct KeyboardControllerTests {
    /// A controller that has passed its self-test, with the command byte that is given.
    static func makeController(_ commandByte: UInt8 = 0x41) -> KeyboardController8042 {
        var controller = KeyboardController8042()
        _ = controller.writeCommand(0xAA)
        _ = controller.readData()
        _ = controller.writeCommand(0x60)
        _ = controller.writeData(commandByte)
        return controller
    }

    @Test func selfTestsPass() {
        var controller = KeyboardController8042()
        #expect(controller.readStatus() & 0x05 == 0)
        #expect(controller.writeCommand(0xAA) == false)
        #expect(controller.readStatus() & 0x0D == 0x0D)
        #expect(controller.readData() == 0x55)
        #expect(controller.readStatus() & 0x01 == 0)
        for command in [0xA9, 0xAB] as [UInt8] {
            _ = controller.writeCommand(command)
            #expect(controller.readData() == 0x00)
        }
    }

    @Test func commandByteAndRAM() {
        var controller = Self.makeController(0x45)
        _ = controller.writeCommand(0x20)
        #expect(controller.readData() == 0x45)
        _ = controller.writeCommand(0xAD)
        _ = controller.writeCommand(0xA7)
        _ = controller.writeCommand(0x20)
        #expect(controller.readData() == 0x75)
        _ = controller.writeCommand(0xAE)
        _ = controller.writeCommand(0xA8)
        _ = controller.writeCommand(0x20)
        #expect(controller.readData() == 0x45)
        _ = controller.writeCommand(0x7F)
        _ = controller.writeData(0xA5)
        #expect(controller.readStatus() & 0x08 == 0)
        _ = controller.writeCommand(0x3F)
        #expect(controller.readStatus() & 0x08 == 0x08)
        #expect(controller.readData() == 0xA5)
    }

    @Test func outputPortSwitchesA20AndResets() {
        var controller = Self.makeController()
        _ = controller.writeCommand(0xD0)
        #expect(controller.readData() & 0x03 == 0x03)
        _ = controller.writeCommand(0xD1)
        #expect(controller.writeData(0xDD) == false)
        #expect(!controller.isA20Open)
        _ = controller.writeCommand(0xDF)
        #expect(controller.isA20Open)
        _ = controller.writeCommand(0xDD)
        #expect(!controller.isA20Open)
        _ = controller.writeCommand(0xD1)
        #expect(controller.writeData(0xFE) == true)
        #expect(controller.writeCommand(0xFE) == true)
        #expect(controller.writeCommand(0xF0) == true)
        #expect(controller.writeCommand(0xFF) == false)
    }

    @Test func keysAreTranslatedAndInterrupt() {
        var controller = Self.makeController()
        #expect(!controller.keyboardLine)
        for code in [0x1C, 0xF0, 0x1C, 0xE0, 0xF0, 0x75, 0x83] as [UInt8] {
            #expect(controller.press(code) == true)
        }
        var seen: [UInt8] = []
        while controller.readStatus() & 1 != 0 {
            #expect(controller.keyboardLine)
            seen.append(controller.readData())
        }
        // A pressed, A released, the grey arrow up released, F7 pressed.
        #expect(seen == [0x1E, 0x9E, 0xE0, 0xC8, 0x41])
        #expect(!controller.keyboardLine)
        #expect(controller.readData() == 0x41)  // the last byte stays
    }

    @Test func untranslatedAndUninterrupted() {
        var controller = Self.makeController(0x00)
        #expect(controller.press(0xF0) == true)
        #expect(!controller.keyboardLine)
        #expect(controller.readData() == 0xF0)
    }

    @Test func aDisabledKeyboardWaits() {
        var controller = Self.makeController(0x51)
        #expect(controller.press(0x1C) == true)
        #expect(controller.readStatus() & 1 == 0)
        _ = controller.writeCommand(0xAE)
        #expect(controller.readData() == 0x1E)
    }

    @Test func theKeyboardFillsUp() {
        var controller = Self.makeController(0x51)
        #expect((0..<20).filter { _ in controller.press(0x1C) }.count == 16)
    }

    @Test(
        arguments: [
            ([0xFF], [0xFA, 0xAA]), ([0xF2], [0xFA, 0xAB, 0x83]), ([0xEE], [0xEE]),
            ([0xED, 0x07], [0xFA, 0xFA]), ([0xF3, 0x20], [0xFA, 0xFA]), ([0xF4], [0xFA]),
            ([0xF5], [0xFA]), ([0xF6], [0xFA]), ([0xF0, 0x00], [0xFA, 0xFA, 0x02]),
            ([0xF0, 0x03], [0xFA, 0xFA]), ([0xF0, 0x07], [0xFA, 0xFE]),
            ([0xFB, 0x1C], [0xFA, 0xFA]), ([0xF8], [0xFA]), ([0x77], [0xFE]),
            ([0xEE, 0xFE], [0xEE, 0xEE]), ([0xED, 0xF4], [0xFA, 0xFA]),
        ] as [([UInt8], [UInt8])])
    func keyboardCommands(sent: [UInt8], expected: [UInt8]) {
        var controller = Self.makeController(0x00)
        var seen: [UInt8] = []
        for byte in sent {
            _ = controller.writeData(byte)
            while controller.readStatus() & 1 != 0 { seen.append(controller.readData()) }
        }
        #expect(seen == expected)
    }

    @Test func aKeyboardThatIsOffTakesNoKeys() {
        var controller = Self.makeController(0x00)
        _ = controller.writeData(0xF5)
        _ = controller.readData()
        #expect(controller.press(0x1C) == false)
        #expect(!controller.takesKeys)
        _ = controller.writeData(0xF4)
        _ = controller.readData()
        #expect(controller.press(0x1C) == true)
    }

    @Test func theAuxiliaryPortHasNobody() {
        var controller = Self.makeController(0x43)
        _ = controller.writeCommand(0xD4)
        _ = controller.writeData(0xF4)
        #expect(controller.readStatus() & 0x61 == 0x61)
        #expect(controller.auxiliaryLine)
        #expect(controller.readData() == 0xFE)
        #expect(!controller.auxiliaryLine)
        // Loopbacks.
        _ = controller.writeCommand(0xD3)
        _ = controller.writeData(0x5A)
        #expect(controller.readStatus() & 0x21 == 0x21)
        #expect(controller.readData() == 0x5A)
        _ = controller.writeCommand(0xD2)
        _ = controller.writeData(0x1E)
        #expect(controller.keyboardLine)
        #expect(controller.readData() == 0x1E)
    }

    @Test func everyByteOnEveryPortIsTaken() {
        for first in 0...255 as ClosedRange<UInt8> {
            var controller = Self.makeController()
            _ = controller.writeCommand(first)
            for second in 0...255 as ClosedRange<UInt8> {
                _ = controller.writeData(second)
                _ = controller.writeCommand(second ^ first)
                _ = controller.readData()
            }
        }
    }

    @Test func textIsTyped() throws {
        var pc = PCConfiguration()
        pc.keys = Array("aB\n\u{E9}".utf8)
        pc.firstKeyNanoseconds = 1000
        pc.keyIntervalNanoseconds = 500
        var machine = try Machine(pc: pc)
        machine.out(0x64, 0x60)
        machine.out(0x60, 0x41)
        func take() -> [UInt32] {
            var seen: [UInt32] = []
            while machine.in(0x64) & 1 != 0 { seen.append(machine.in(0x60)) }
            return seen
        }
        machine.devices.advance(to: 999)
        #expect(take() == [])
        machine.devices.advance(to: 1000)
        #expect(take() == [0x1E, 0x9E])
        machine.devices.advance(to: 1499)
        #expect(take() == [])
        machine.devices.advance(to: 5000)
        #expect(take() == [0x2A, 0x30, 0xB0, 0xAA])
        machine.devices.advance(to: 6000)
        #expect(take() == [0x1C, 0x9C])
        machine.devices.advance(to: 60_000)
        #expect(take() == [])
    }

    @Test func everyPrintableCharacterHasAKey() {
        for byte in 0x20...0x7E as ClosedRange<UInt8> {
            #expect(KeyCodes.key(for: byte) != nil, "\(byte)")
        }
        #expect(KeyCodes.key(for: 0x01) == nil)
        #expect(KeyCodes.key(for: 0xE9) == nil)
        #expect(KeyCodes.key(for: 0x0D)?.isShifted == false)
        // Every code has a translation of its own.
        let codes = (0x20...0x7E as ClosedRange<UInt8>).compactMap { KeyCodes.key(for: $0)?.code }
        #expect(Set(codes).count == 48)
        #expect(Set(codes.map(KeyCodes.translate)).count == 48)
    }
}
