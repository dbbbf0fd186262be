public import Machine

extension DeviceSet {
    /// OUT or OUTS: `bytes` holds count × `size` bytes (`size` 1, 2 or 4), one element after the
    /// other. The first element that asks for more than to go on ends it.
    public mutating func portOut(
        _ port: UInt16, size: Int, _ bytes: UnsafeRawBufferPointer
    ) -> DeviceOutcome {
        guard size > 0 else { return .none }
        var offset = 0
        while offset <= bytes.count - size {
            var value: UInt32 = 0
            for index in 0..<min(size, 4) {
                // SAFETY: offset + index < bytes.count by the loop's condition; indexing checks.
                value |= unsafe UInt32(bytes[offset + index]) << UInt32(index * 8)
            }
            let outcome = write(port, size, value)
            guard outcome == .none else { return outcome }
            offset += size
        }
        return .none
    }

    /// IN or INS: fills `bytes`, count × `size` bytes (`size` 1, 2 or 4), one element after the
    /// other.
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) {
        guard size > 0 else { return }
        var offset = 0
        while offset <= bytes.count - size {
            let value = read(port, size)
            for index in 0..<min(size, 4) {
                // SAFETY: offset + index < bytes.count by the loop's condition; indexing checks.
                unsafe bytes[offset + index] = UInt8(
                    truncatingIfNeeded: value >> UInt32(index * 8))
            }
            offset += size
        }
    }

    /// A write of 1–8 bytes to memory that is no RAM.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, _ bytes: UnsafeRawBufferPointer
    ) -> DeviceOutcome {
        // SAFETY: the buffer is the caller's, alive through the call.
        if unsafe writeAPIC(address.rawValue, bytes) { return .none }
        var isClaimed = false
        for index in 0..<bytes.count {
            let place = memoryRanges.find(address.rawValue &+ UInt64(index))
            guard place.slot != .unclaimed else { continue }
            isClaimed = true
            // SAFETY: index < bytes.count; indexing checks.
            let outcome = writeByte(
                place.slot, UInt16(truncatingIfNeeded: place.offset), unsafe bytes[index])
            guard outcome == .none else { return outcome }
        }
        if !isClaimed { unclaimed.count(.memory, address.rawValue, isWrite: true) }
        updateInterrupts()
        return .none
    }

    /// A read of 1–8 bytes from memory that is no RAM.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) {
        // SAFETY: the buffer is the caller's, alive through the call.
        if unsafe readAPIC(address.rawValue, into: bytes) { return }
        var isClaimed = false
        for index in 0..<bytes.count {
            let place = memoryRanges.find(address.rawValue &+ UInt64(index))
            // SAFETY: index < bytes.count; indexing checks.
            if place.slot == .unclaimed {
                unsafe bytes[index] = 0xFF
                continue
            }
            isClaimed = true
            unsafe bytes[index] = readByte(
                place.slot, UInt16(truncatingIfNeeded: place.offset))
        }
        if !isClaimed { unclaimed.count(.memory, address.rawValue, isWrite: false) }
        updateInterrupts()
    }

    /// One port write of 1, 2 or 4 bytes. Devices are 8 bits wide but for isa-debug-exit, the
    /// address of PCI configuration and the selector of fw_cfg: a wider access reaches the ports
    /// one after the other, as an ISA bus splits it.
    private mutating func write(_ port: UInt16, _ size: Int, _ value: UInt32) -> DeviceOutcome {
        defer { updateInterrupts() }
        switch (slot(port), size) {
        case (.debugExit, _): return .debugExit(status: value &<< 1 | 1)
        case (.pciAddress, 4):
            pc.pci.writeAddress(value)
            return .none
        case (.firmwareSelector, 2):
            pc.firmware.select(UInt16(truncatingIfNeeded: value))
            return .none
        default: break
        }
        guard isSplit(port, size) else {
            unclaimed.count(.port, UInt64(port), isWrite: true)
            return .none
        }
        for index in 0..<size {
            let at = port &+ UInt16(truncatingIfNeeded: index)
            let byte = UInt8(truncatingIfNeeded: value >> UInt32(index * 8))
            let slot = slot(at)
            if slot == .unclaimed {
                unclaimed.count(.port, UInt64(at), isWrite: true)
                continue
            }
            let outcome = writeByte(slot, offset(at, slot), byte)
            guard outcome == .none else { return outcome }
        }
        return .none
    }

    /// One port read of 1, 2 or 4 bytes.
    private mutating func read(_ port: UInt16, _ size: Int) -> UInt32 {
        defer { updateInterrupts() }
        if size == 4 && slot(port) == .pciAddress { return pc.pci.addressRegister }
        guard isSplit(port, size) else {
            unclaimed.count(.port, UInt64(port), isWrite: false)
            return .max
        }
        var value: UInt32 = 0
        for index in 0..<min(size, 4) {
            let at = port &+ UInt16(truncatingIfNeeded: index)
            let slot = slot(at)
            var byte: UInt8 = 0xFF
            if slot == .unclaimed {
                unclaimed.count(.port, UInt64(at), isWrite: false)
            } else {
                byte = readByte(slot, offset(at, slot))
            }
            value |= UInt32(byte) << UInt32(index * 8)
        }
        return value
    }

    /// Whether any byte of an access is a device's. One that no device claims is counted whole.
    /// Four bytes at 0xCF8 are PCI configuration, which reaches no port behind it.
    private func isSplit(_ port: UInt16, _ size: Int) -> Bool {
        if size == 1 { return slot(port) != .unclaimed }
        guard size <= 4, !(port == 0xCF8 && size == 4) else { return false }
        for index in 0..<size where slot(port &+ UInt16(truncatingIfNeeded: index)) != .unclaimed {
            return true
        }
        return false
    }

    /// What tells a device's ports apart: the offset of the serial port's, which is in memory
    /// too; the number of all others.
    private func offset(_ port: UInt16, _ slot: Slot) -> UInt16 {
        slot == .serial ? port &- Self.serialBase : port
    }

    private mutating func writeByte(
        _ slot: Slot, _ offset: UInt16, _ value: UInt8
    ) -> DeviceOutcome {
        switch slot {
        case .serial:
            // A byte that is sent ends the request for one; it is asked for anew at once.
            if offset == 0, machine.isPC { pc.setLine(PC.Line.serial, false) }
            serial.write(UInt8(truncatingIfNeeded: offset), value, to: &serialOutput)
        case .debugConsole:
            if debugGoesToSerial { serialOutput.append(value) } else { debugOutput.append(value) }
        case .debugExit: return .debugExit(status: UInt32(value) << 1 | 1)
        case .resetControl:
            // Reset control register of Intel's PIIX (82371): bit 2 resets, bit 1 says how hard.
            resetType = value & 2
            if value & 4 != 0 { return .reset }
        case .keyboardController:
            // Command 0xFE pulses the output line that is the CPU's reset (Intel 8042 on a PC/AT).
            if value == 0xFE { return .reset }
        case .unclaimed: break
        case .pciData:
            _ = pc.write(slot, offset, value)
            placePowerManagement()
        default: return pc.write(slot, offset, value)
        }
        return .none
    }

    private mutating func readByte(_ slot: Slot, _ offset: UInt16) -> UInt8 {
        switch slot {
        case .serial:
            let offset = UInt8(truncatingIfNeeded: offset)
            if offset == UART16550.Offset.lineStatus { serialOutput.guestPolled() }
            return serial.read(offset, from: &input)
        case .debugConsole: return 0xE9  // what Bochs' and QEMU's answer, so that guests find it
        case .debugExit: return 0
        case .resetControl: return resetType
        case .keyboardController: return 0x04  // self-test passed, ready for commands, no data
        case .unclaimed: return 0xFF
        default: return pc.read(slot, offset)
        }
    }
}
