internal import Machine
internal import Synchronization

/// A PC's devices beside the serial port, and how they are wired: which device pulls which
/// interrupt line, and what the ports that several share do.
struct PC: ~Copyable, Sendable {
    /// Interrupt lines, as an AT has them.
    enum Line {
        static let timer = 0
        static let keyboard = 1
        static let serial = 4
        static let clock = 8
        static let powerManagement = PCLayout.powerLine
        static let auxiliary = 12
    }

    /// Keeps this value at one address (see ``DeviceSet``).
    private let pin = Atomic<Bool>(false)
    var interrupts = InterruptControllerPair()
    /// The APICs; nothing happens there where the machine has none.
    var apic = APICPair()
    private let hasAPIC: Bool
    var timer = IntervalTimer8254()
    var clock: RealTimeClock
    var keyboard = KeyboardController8042()
    var power: PowerManagement
    var pci = PCIHost()
    var firmware: FirmwareConfigurationPort
    private var typist: Typist
    /// The timer's line is kept up after its OUT fell by itself, until the edge is acknowledged. A
    /// PC's CPU takes a tick at once; here it may come late, and is not to be lost for it.
    private var holdsTimerLine = false
    /// Port 0x61, the bits that can be written: timer gate, speaker, parity and channel checks.
    private var systemControlB: UInt8 = 0
    /// Port 0x92 but for A20.
    private var systemControlA: UInt8 = 0
    /// DMA controllers, their page registers and the POST code: ports below 0x100 that keep what
    /// is written.
    private var latches = [UInt8](repeating: 0, count: 256)
    /// Nanoseconds since the machine started.
    private(set) var now: UInt64 = 0

    init(_ configuration: PCConfiguration, hasAPIC: Bool) {
        self.hasAPIC = hasAPIC
        let contents = CMOSContents(
            memoryBelow4GiB: configuration.memoryBelow4GiB,
            memoryAbove4GiB: configuration.memoryAbove4GiB, processorCount: 1)
        clock = RealTimeClock(
            secondsSince1970: configuration.startDate, contents: contents)
        power = PowerManagement(has32BitTimer: configuration.has32BitTimer)
        firmware = FirmwareConfigurationPort(configuration)
        typist = Typist(
            configuration.keys, start: configuration.firstKeyNanoseconds,
            interval: configuration.keyIntervalNanoseconds)
        // What is high at power-on is no edge.
        updateLines(serial: false)
    }

    // MARK: Time

    /// Moves on to a time; one that has passed changes nothing.
    mutating func advance(to nanoseconds: UInt64) {
        guard nanoseconds > now else { return }
        now = nanoseconds
        if timer.advance(to: now) {
            // However often it rose on the way: one edge.
            setLine(Line.timer, false)
            setLine(Line.timer, true)
        }
        if hasAPIC { apic.local.advance(to: now) }
        holdsTimerLine = !timer.interruptOutput && interrupts.master.hasEdge(Line.timer)
        clock.advance(to: now)
        power.advance(to: now)
        if let due = typist.nextPress, due <= now { keyboard.type(&typist, at: now) }
    }

    /// When a line that the guest has not masked rises next by itself.
    var nextDeadline: UInt64? {
        var deadline: UInt64?
        func take(_ time: UInt64?) {
            guard let time else { return }
            deadline = min(deadline ?? .max, time)
        }
        if isEnabled(Line.timer) { take(timer.nextInterrupt) }
        if isEnabled(Line.clock) { take(clock.nextInterrupt) }
        if isEnabled(Line.powerManagement) { take(power.nextInterrupt) }
        if isEnabled(Line.keyboard), keyboard.takesKeys, let due = typist.nextPress {
            take(max(due, now &+ 1))
        }
        if hasAPIC { take(apic.local.nextInterrupt) }
        return deadline
    }

    /// Brings the interrupt controllers' inputs up to date.
    mutating func updateLines(serial: Bool) {
        interrupts.setLine(Line.timer, timer.interruptOutput || holdsTimerLine)
        if hasAPIC { apic.setLine(Line.timer, timer.interruptOutput) }
        setLine(Line.keyboard, keyboard.keyboardLine)
        setLine(Line.serial, serial)
        setLine(Line.clock, clock.hasInterrupt)
        setLine(Line.powerManagement, power.line)
        setLine(Line.auxiliary, keyboard.auxiliaryLine)
        if hasAPIC { apic.setExternal(interrupts.hasInterrupt) }
    }

    // MARK: Interrupts

    /// Sets a device's line at both kinds of controller.
    mutating func setLine(_ line: Int, _ isHigh: Bool) {
        interrupts.setLine(line, isHigh)
        if hasAPIC { apic.setLine(line, isHigh) }
    }

    /// Whether anything can come of a request on a line.
    func isEnabled(_ line: Int) -> Bool {
        if hasAPIC, apic.isEnabled(line) { return true }
        return passesExternal && interrupts.isEnabled(line)
    }

    /// Whether a vector waits for the CPU.
    var hasInterrupt: Bool {
        if hasAPIC, apic.local.hasInterrupt { return true }
        return passesExternal && interrupts.hasInterrupt
    }

    /// Whether the 8259 pair's interrupts reach the CPU.
    private var passesExternal: Bool { !hasAPIC || apic.passesExternal }

    /// The CPU takes an interrupt: its vector. The local APIC's own go first; where neither has
    /// one any more, the spurious vector of whoever would have been asked.
    mutating func acknowledge() -> UInt8 {
        if hasAPIC, apic.local.hasInterrupt || !passesExternal {
            return apic.local.acknowledge()
        }
        return interrupts.acknowledge()
    }

    // MARK: Ports

    /// Reads a byte of a port that `slot` says whose it is.
    mutating func read(_ slot: DeviceSet.Slot, _ port: UInt16) -> UInt8 {
        switch slot {
        case .interruptController: return interrupts.read(port)
        case .interruptLevels: return interrupts.readLevels(port)
        case .timer: return timer.read(UInt8(port & 3))
        case .systemControlB:
            return systemControlB | (timer.refreshToggle ? 0x10 : 0)
                | (timer.speakerOutput ? 0x20 : 0)
        case .systemControlA: return systemControlA | (keyboard.isA20Open ? 2 : 0)
        case .clock: return port & 1 == 0 ? 0xFF : clock.read()
        case .keyboardData:
            defer { endKeyboardRequest() }
            return keyboard.readData()
        case .keyboardCommand: return keyboard.readStatus()
        case .powerManagement: return power.read(UInt8(port & 63))
        case .powerCommand: return power.readCommand(UInt8(port & 1))
        case .pciData: return pci.read(UInt8(port & 3))
        case .firmwareSelector: return 0
        case .firmwareData: return firmware.readData()
        case .firmwareAddress: return firmware.readAddress(port &- 0x514)
        case .latch: return latches[Int(port & 0xFF)]
        default: return 0xFF
        }
    }

    /// The byte that asked is gone: the line falls, and rises again for one that waited behind it.
    private mutating func endKeyboardRequest() {
        setLine(Line.keyboard, false)
        setLine(Line.auxiliary, false)
    }

    /// Writes a byte to a port that `slot` says whose it is.
    mutating func write(_ slot: DeviceSet.Slot, _ port: UInt16, _ value: UInt8) -> DeviceOutcome {
        switch slot {
        case .interruptController: interrupts.write(port, value)
        case .interruptLevels: interrupts.writeLevels(port, value)
        case .timer:
            holdsTimerLine = false
            timer.write(UInt8(port & 3), value)
        case .systemControlB:
            systemControlB = value & 0x0F
            timer.speakerGate = value & 1 != 0
        case .systemControlA:
            let rises = value & ~systemControlA & 1 != 0
            systemControlA = value & ~2
            keyboard.isA20Open = value & 2 != 0
            if rises { return .reset }
        case .clock: if port & 1 == 0 { clock.select(value) } else { clock.write(value) }
        case .keyboardData: if keyboard.writeData(value) { return .reset }
        case .keyboardCommand: if keyboard.writeCommand(value) { return .reset }
        case .powerManagement:
            if power.write(UInt8(port & 63), value) { return .powerOff }
        case .powerCommand: power.writeCommand(UInt8(port & 1), value)
        case .pciData: pci.write(UInt8(port & 3), value)
        case .firmwareAddress:
            if firmware.writeAddress(port &- 0x514, value) { return .directMemory }
        case .latch: latches[Int(port & 0xFF)] = value
        default: break
        }
        return .none
    }
}
