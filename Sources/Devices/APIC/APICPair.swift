internal import Machine

/// The local APIC and the I/O APIC, and how a PC's lines reach them: as the MP table and the MADT
/// that guests are given say.
struct APICPair: Sendable {
    var local = LocalAPIC()
    private var io = IOAPIC82093()

    /// Sets the level of an ISA line, 0–15.
    mutating func setLine(_ line: Int, _ isHigh: Bool) {
        io.setLine(PCLayout.pin(line), isHigh, &local)
    }

    /// The level of the 8259 pair's INTR.
    mutating func setExternal(_ isHigh: Bool) {
        local.setLine0(isHigh)
        io.setLine(PCLayout.externalPin, isHigh, &local)
    }

    /// Whether a request on a line would reach the CPU through the I/O APIC.
    func isEnabled(_ line: Int) -> Bool { io.isEnabled(PCLayout.pin(line), local) }

    /// Whether the 8259 pair's interrupts reach the CPU: through LINT0 or through pin 0.
    var passesExternal: Bool { local.passesExternal || io.passesExternal(local) }

    /// Whether an address is a register of either.
    func claims(_ address: UInt64) -> Bool {
        local.isOn && address & ~0xFFF == local.page || address & ~0xFFF == PCLayout.ioAPIC
    }

    /// Reads 1–8 bytes as a number. Registers are 32 bits at multiples of 16; what lies between
    /// them reads as zero.
    mutating func read(_ address: UInt64, count: Int) -> UInt64 {
        let offset = address & 0xFFF
        let inner = offset & 15
        guard inner < 4 else { return 0 }
        let register: UInt32
        if local.isOn, address & ~0xFFF == local.page {
            register = local.read(UInt16(offset & 0xFF0))
        } else {
            register = io.read(offset & 0xFF0)
        }
        let value = UInt64(register >> UInt32(inner * 8))
        return count < 8 ? value & (1 << UInt64(count * 8) - 1) : value
    }

    /// Writes 1–8 bytes. A local APIC takes 32 bits at a multiple of 16 and nothing else (Intel SDM
    /// vol. 3, 12.4.1); of a wider write it sees the low half.
    mutating func write(_ address: UInt64, count: Int, _ value: UInt64) {
        let offset = address & 0xFFF
        let register = UInt32(truncatingIfNeeded: value)
        guard local.isOn, address & ~0xFFF == local.page else {
            // IOREGSEL has 8 bits; IOWIN takes 32 and nothing else (82093AA data sheet, 3.1).
            if offset == 0 || count >= 4 { io.write(offset, register, &local) }
            return
        }
        guard offset & 15 == 0, count >= 4 else { return }
        let isEnabled = local.isEnabled
        if let ended = local.write(UInt16(offset), register) { io.endInterrupt(ended, &local) }
        // Levels that found the APIC disabled, or not addressed, ask again.
        if offset == 0x20 || offset >= 0xD0 && offset <= 0xF0 || local.isEnabled != isEnabled {
            io.serveAll(&local)
        }
    }

    /// Whether the task priority holds anything back, now or when it comes.
    var isHoldingBack: Bool {
        local.taskPriority >= 0x10 && (local.isHoldingBack || io.isHeldBack(by: local))
    }

    /// What the CPU holds of the local APIC: CR8 and IA32_APIC_BASE.
    /// False: it is what it was.
    mutating func synchronise(taskPriorityClass: UInt64, base: UInt64) -> Bool {
        guard taskPriorityClass != local.taskPriorityClass || base != local.base else {
            return false
        }
        local.setTaskPriorityClass(taskPriorityClass)
        local.setBase(base)
        io.serveAll(&local)
        return true
    }
}

/// The APICs, which only ``MachineKind/pcAPIC`` has; on other machines nothing here happens.
extension DeviceSet {
    /// Tells the local APIC what the CPU itself holds of it, as of an exit.
    ///
    /// - Parameters:
    ///   - taskPriorityClass: CR8 (Intel SDM vol. 3, 12.8.6.1).
    ///   - base: IA32_APIC_BASE.
    /// - Returns: whether that changed anything.
    @discardableResult
    public mutating func synchroniseAPIC(taskPriorityClass: UInt64, base: UInt64) -> Bool {
        guard machine.hasAPIC else { return false }
        return pc.apic.synchronise(taskPriorityClass: taskPriorityClass, base: base)
    }

    /// Whether an address is one of an APIC's registers now.
    func isAPIC(_ address: UInt64) -> Bool {
        machine.hasAPIC && pc.apic.claims(address)
    }

    /// Whether the CPU's task priority holds an interrupt back, or one that may come. The guest can
    /// lower it by CR8 without an exit, so that somebody must look from time to time.
    public var isHoldingBack: Bool { machine.hasAPIC && pc.apic.isHoldingBack }

    /// IA32_TSC_DEADLINE as it reads; 0 where nothing is armed, or the timer has another mode.
    public var timerDeadline: UInt64 { pc.apic.local.timer.deadline }

    /// A write to IA32_TSC_DEADLINE; ignored where the timer has another mode, and 0 disarms.
    ///
    /// - Parameters:
    ///   - stamp: the value of the time-stamp counter at which the timer is to expire.
    ///   - nanoseconds: when that is, since the machine started.
    public mutating func setTimerDeadline(_ stamp: UInt64, at nanoseconds: UInt64) {
        guard machine.hasAPIC else { return }
        let now = pc.now
        pc.apic.local.setDeadline(stamp, at: nanoseconds, now: now)
        updateInterrupts()
    }

    /// Whether a non-maskable interrupt waits for the CPU.
    public var hasNonMaskableInterrupt: Bool {
        machine.hasAPIC && pc.apic.local.hasNonMaskable
    }

    /// The CPU takes the non-maskable interrupt.
    public mutating func acknowledgeNonMaskableInterrupt() {
        pc.apic.local.acknowledgeNonMaskable()
    }

    /// A read of an APIC's registers; false: the address is not theirs.
    mutating func readAPIC(_ address: UInt64, into bytes: UnsafeMutableRawBufferPointer) -> Bool {
        guard isAPIC(address) else { return false }
        let value = pc.apic.read(address, count: bytes.count)
        for index in 0..<min(bytes.count, 8) {
            // SAFETY: index < bytes.count; indexing checks.
            unsafe bytes[index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        }
        updateInterrupts()
        return true
    }

    /// A write of an APIC's registers; false: the address is not theirs.
    mutating func writeAPIC(_ address: UInt64, _ bytes: UnsafeRawBufferPointer) -> Bool {
        guard isAPIC(address) else { return false }
        var value: UInt64 = 0
        for index in 0..<min(bytes.count, 8) {
            // SAFETY: index < bytes.count; indexing checks.
            value |= unsafe UInt64(bytes[index]) << UInt64(index * 8)
        }
        pc.apic.write(address, count: bytes.count, value)
        updateInterrupts()
        return true
    }
}
