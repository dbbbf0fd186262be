/// A PC/AT's keyboard controller: an Intel 8042 with IBM's program (PC/AT Technical Reference,
/// "Keyboard Controller"; PS/2 Hardware Interface Technical Reference), and a keyboard.
///
/// It answers at once, so that its input buffer is always empty. The auxiliary port has its
/// commands, and nobody is connected to it. A20 is kept and reads back, but masks no address: KVM
/// has no such thing.
struct KeyboardController8042: Sendable {
    /// Bits of the status register.
    private enum Status {
        static let outputFull: UInt8 = 0x01
        static let systemFlag: UInt8 = 0x04
        static let wasCommand: UInt8 = 0x08
        static let notLocked: UInt8 = 0x10
        static let auxiliaryOutput: UInt8 = 0x20
        static let timeout: UInt8 = 0x40
    }

    /// Bits of the command byte, which is byte 0 of the controller's RAM.
    private enum CommandByte {
        static let keyboardInterrupt: UInt8 = 0x01
        static let auxiliaryInterrupt: UInt8 = 0x02
        static let systemFlag: UInt8 = 0x04
        static let keyboardDisabled: UInt8 = 0x10
        static let auxiliaryDisabled: UInt8 = 0x20
        static let translates: UInt8 = 0x40
    }

    /// Who sent what is in the output buffer.
    private enum Source: UInt8 { case nobody, controller, keyboard, auxiliary }

    /// The keyboard.
    private(set) var keyboard = Keyboard()
    /// The level of A20's gate: output port, bit 1. Open at power-on.
    var isA20Open = true

    private var ram = InlineArray<32, UInt8>(repeating: 0)
    private var output: UInt8 = 0
    private var source = Source.nobody
    private var outputTimedOut = false
    /// The controller's own answers, which go first.
    private var answers = ByteFIFO()
    /// The command whose parameter comes next at port 0x60; 0: none.
    private var command: UInt8 = 0
    private var lastWriteWasCommand = false
    /// The keyboard sent 0xF0: the next code is a released key's.
    private var isRelease = false

    init() {
        // As firmware before the guest's would have found it: translating, not yet tested.
        ram[0] = CommandByte.translates
    }

    private func has(_ bit: UInt8) -> Bool { ram[0] & bit != 0 }

    /// The level of interrupt line 1.
    var keyboardLine: Bool {
        has(CommandByte.keyboardInterrupt) && (source == .keyboard || source == .controller)
    }
    /// The level of interrupt line 12.
    var auxiliaryLine: Bool { has(CommandByte.auxiliaryInterrupt) && source == .auxiliary }

    /// Whether a key that is pressed now leads to an interrupt.
    var takesKeys: Bool {
        has(CommandByte.keyboardInterrupt) && !has(CommandByte.keyboardDisabled)
            && keyboard.isScanning && keyboard.room >= Typist.bytesPerKey
    }

    /// Lets a typist press keys.
    mutating func type(_ typist: inout Typist, at now: UInt64) {
        typist.press(&keyboard, at: now)
        fill()
    }

    /// Queues a byte of a key's set-2 code. False where the keyboard does not take it.
    mutating func press(_ byte: UInt8) -> Bool {
        defer { fill() }
        return keyboard.press(byte)
    }

    /// Fills the output buffer, where it is empty, with what waits.
    private mutating func fill() {
        guard source == .nobody else { return }
        if let answer = answers.pop() {
            put(answer, from: .controller)
            return
        }
        guard !has(CommandByte.keyboardDisabled) else { return }
        while let code = keyboard.next() {
            guard has(CommandByte.translates) else {
                put(code, from: .keyboard)
                return
            }
            if code == 0xF0 {
                isRelease = true
                continue
            }
            put(KeyCodes.translate(code) | (isRelease ? 0x80 : 0), from: .keyboard)
            isRelease = false
            return
        }
    }

    private mutating func put(_ byte: UInt8, from sender: Source, timedOut: Bool = false) {
        output = byte
        source = sender
        outputTimedOut = timedOut
    }

    private mutating func answer(_ byte: UInt8) {
        if answers.count < 16 { answers.push(byte) }
    }

    // MARK: Ports

    /// Reads port 0x60; what was read last where nothing is there.
    mutating func readData() -> UInt8 {
        source = .nobody
        defer { fill() }
        return output
    }

    /// Reads port 0x64.
    func readStatus() -> UInt8 {
        Status.notLocked
            | (source == .nobody ? 0 : Status.outputFull)
            | (has(CommandByte.systemFlag) ? Status.systemFlag : 0)
            | (lastWriteWasCommand ? Status.wasCommand : 0)
            | (source == .auxiliary ? Status.auxiliaryOutput : 0)
            | (source != .nobody && outputTimedOut ? Status.timeout : 0)
    }

    /// Writes port 0x60: a command's parameter, or a byte for the keyboard. True: reset.
    mutating func writeData(_ value: UInt8) -> Bool {
        lastWriteWasCommand = false
        defer { fill() }
        let command = command
        self.command = 0
        switch command {
        case 0x60...0x7F: ram[Int(command & 0x1F)] = value
        case 0xD1: return setOutputPort(value)
        case 0xD2: put(value, from: .keyboard)
        case 0xD3: put(value, from: .auxiliary)
        // Nobody is there to take it: a timeout, and the code for it.
        case 0xD4: put(0xFE, from: .auxiliary, timedOut: true)
        case 0xA5: if value != 0 { self.command = 0xA5 }  // a password ends with 0
        default:
            // A byte for the keyboard opens its interface.
            ram[0] &= ~CommandByte.keyboardDisabled
            keyboard.receive(value)
        }
        return false
    }

    /// Writes port 0x64: a command. True: reset.
    mutating func writeCommand(_ value: UInt8) -> Bool {
        lastWriteWasCommand = true
        command = 0
        defer { fill() }
        switch value {
        case 0x00...0x3F: answer(ram[Int(value & 0x1F)])
        case 0x60...0x7F, 0xA5, 0xD1...0xD4: command = value
        case 0xA4: answer(0xF1)  // no password is set
        case 0xA7: ram[0] |= CommandByte.auxiliaryDisabled
        case 0xA8: ram[0] &= ~CommandByte.auxiliaryDisabled
        case 0xA9, 0xAB: answer(0)  // the lines of a port are good
        case 0xAA:
            // The self-test clears what was there, and leaves both ports off.
            answers.clear()
            source = .nobody
            isRelease = false
            ram[0] =
                CommandByte.systemFlag | CommandByte.keyboardDisabled
                | CommandByte.auxiliaryDisabled | CommandByte.translates
            answer(0x55)
        case 0xAD: ram[0] |= CommandByte.keyboardDisabled
        case 0xAE: ram[0] &= ~CommandByte.keyboardDisabled
        // Input port: not locked, a colour display, no jumpers; polled by halves into the status.
        case 0xC0: answer(0x80)
        case 0xD0: answer(outputPort)
        case 0xDD: isA20Open = false
        case 0xDF: isA20Open = true
        case 0xE0: answer(0)  // both clocks are held or idle, both data lines low
        case 0xF0...0xFF: return value & 1 == 0  // pulses the lines that are 0: line 0 is reset
        default: break
        }
        return false
    }

    private var outputPort: UInt8 {
        // Keyboard data and clock idle high; the buffer's interrupts; A20; not reset.
        0xC0 | (source == .auxiliary ? 0x20 : 0)
            | (source == .keyboard || source == .controller ? 0x10 : 0) | (isA20Open ? 2 : 0) | 1
    }

    private mutating func setOutputPort(_ value: UInt8) -> Bool {
        isA20Open = value & 2 != 0
        return value & 1 == 0
    }
}
