/// Time and interrupts, which a PC has; on a bare machine nothing here happens.
extension DeviceSet {
    /// Moves the devices on to a time, in nanoseconds since the machine started, and lets them see
    /// what the host's console has sent. A time that has passed changes nothing else. What the
    /// guest does from now on happens at this time.
    public mutating func advance(to nanoseconds: UInt64) {
        guard machine.isPC else { return }
        pc.advance(to: nanoseconds)
        updateInterrupts()
    }

    /// When a device asks for an interrupt by itself next, in nanoseconds since the machine
    /// started; later than the last ``advance(to:)``. Nil where none will: what is masked in the
    /// interrupt controllers does not count, nor does input from the host.
    public var nextDeadline: UInt64? { machine.isPC ? pc.nextDeadline : nil }

    /// Whether input from the host may yet raise an interrupt by itself: some may come, and the
    /// guest has masked its interrupt neither in the serial port nor in the controllers. Input
    /// that is known from the start does not count: the port has taken what it has room for.
    public var canInputInterrupt: Bool {
        machine.isPC && input.mayGrow && serial.announcesReceived
            && pc.isEnabled(PC.Line.serial)
    }

    /// Whether an interrupt waits for the CPU: the level of INTR, as of the last access or
    /// ``advance(to:)``.
    public var hasInterrupt: Bool { machine.isPC && pc.hasInterrupt }

    /// Takes the interrupt that waits (the INTA cycles) and gives its vector; nil on a machine
    /// without interrupt controllers. With nothing waiting, the spurious vector, as a PC has it.
    public mutating func acknowledgeInterrupt() -> UInt8? {
        guard machine.isPC else { return nil }
        return pc.acknowledge()
    }

    /// Serves the request behind ``DeviceOutcome/directMemory``.
    ///
    /// Throws what the memory throws; the request is then lost.
    public mutating func transfer<Memory: DirectMemory & ~Copyable>(
        with memory: inout Memory
    ) throws(Memory.Failure) {
        try pc.firmware.transfer(with: &memory)
    }

    /// Queues a byte of a key's set-2 code as from the keyboard. False where it is not taken: the
    /// keyboard is off or full, or there is none.
    public mutating func pressKey(_ code: UInt8) -> Bool {
        guard machine.isPC else { return false }
        defer { updateInterrupts() }
        return pc.keyboard.press(code)
    }

    /// Brings the interrupt controllers' inputs up to date with the devices.
    mutating func updateInterrupts() {
        guard machine.isPC else { return }
        pc.updateLines(serial: serial.interruptLine(&input))
    }
}
