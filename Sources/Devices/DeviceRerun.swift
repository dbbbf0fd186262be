/// What it takes to run the devices again as they ran before: which accesses look at the clock,
/// and what the serial port took from the host.
extension DeviceSet {
    /// Whether the answer to a port access, or what it does, may depend on the time. Devices need
    /// not be brought up to it for others.
    @inline(__always)
    public func dependsOnTime(port: UInt16, size: Int) -> Bool {
        if size == 1 { return Self.dependsOnTime(slot(port)) }
        for offset in 0..<min(size, 4)
        where Self.dependsOnTime(slot(port &+ UInt16(truncatingIfNeeded: offset))) {
            return true
        }
        return false
    }

    /// Whether an access to device memory may depend on the time.
    public func dependsOnTime(address: UInt64) -> Bool {
        Self.dependsOnTime(memoryRanges.find(address).slot) || isAPIC(address)
    }

    private static func dependsOnTime(_ slot: Slot) -> Bool {
        switch slot {
        case .unclaimed, .serial, .debugConsole, .debugExit, .resetControl, .latch, .pciAddress,
            .pciData, .firmwareSelector, .firmwareData, .firmwareAddress, .systemControlA:
            false
        default: true
        }
    }

    /// Keeps what the serial port takes from the host from now on, for ``takeTakenInput()``; it
    /// takes nothing but what was there at the last ``admitInput()``.
    public mutating func keepTakenInput() { input.keepTaken() }

    /// What the host has sent until now may be taken.
    @inline(__always)
    public mutating func admitInput() { input.admit() }

    /// Whether the serial port took something since ``takeTakenInput()``.
    @inline(__always)
    public var hasTakenInput: Bool { input.hasTaken }

    /// What the serial port took from the host since the last call.
    public mutating func takeTakenInput() -> [UInt8] { input.takeTaken() }

    /// Whether the serial port takes something at the next ``advance(to:)``.
    public var takesInputNow: Bool { machine.isPC && serial.takesInput && !input.isEmpty }

    /// Sends bytes to the serial port as the host would. For devices without a console.
    public mutating func feedInput(_ bytes: [UInt8]) { input.feed(bytes) }

    /// Connects another console's input; what was fed and not taken is gone.
    public mutating func connect(_ newInput: consuming ConsoleInput) { input = newInput }

    /// Whether what the guest prints is dropped.
    public var isMuted: Bool {
        get { serialOutput.isMuted }
        set {
            serialOutput.isMuted = newValue
            debugOutput.isMuted = newValue
        }
    }
}
