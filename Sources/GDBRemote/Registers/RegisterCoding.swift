internal import Machine

/// Registers to the protocol's bytes, little-endian, and back.
enum RegisterCoding {
    /// The bytes of one register; nil: it is not known.
    static func bytes(
        of register: RegisterDescription, in registers: TargetRegisters
    ) -> [UInt8]? {
        if case .floatingPoint(let offset, let count) = register.source {
            guard let state = registers.floatingPoint else { return nil }
            let bytes = state[offset..<offset + count]
            return bytes + [UInt8](repeating: 0, count: register.size - bytes.count)
        }
        guard let value = value(of: register.source, in: registers) else { return nil }
        return littleEndian(value, count: register.size)
    }

    /// All registers in the text of a `g` packet: `xx` for bytes that are not known.
    static func allAsText(_ registers: TargetRegisters, _ layout: RegisterLayout) -> [UInt8] {
        var text: [UInt8] = []
        for register in layout.registers {
            text += self.text(of: register, in: registers)
        }
        return text
    }

    /// One register in the text of a packet.
    static func text(
        of register: RegisterDescription, in registers: TargetRegisters
    ) -> [UInt8] {
        bytes(of: register, in: registers).map { HexText.bytes($0) }
            ?? [UInt8](repeating: UInt8(ascii: "x"), count: register.size * 2)
    }

    private static func value(
        of source: RegisterDescription.Source, in registers: TargetRegisters
    ) -> UInt64? {
        let system = registers.system
        return switch source {
        case .general(let register): registers.general[register]
        case .linearInstructionPointer: linearInstructionPointer(registers)
        case .instructionPointer: registers.general.rip
        case .flags: registers.general.rflags & 0xFFFF_FFFF
        case .selector(let name): system.map { UInt64($0[name].selector) }
        case .base(let name): system.map { $0[name].base }
        case .kernelGSBase: registers.kernelGSBase
        case .control(let name): system.map { $0[name] }
        case .globalTableBase: system.map(\.gdt.base)
        case .globalTableLimit: system.map { UInt64($0.gdt.limit) }
        case .interruptTableBase: system.map(\.idt.base)
        case .interruptTableLimit: system.map { UInt64($0.idt.limit) }
        case .tagWord: registers.floatingPoint.map { UInt64(TagWord.full($0)) }
        case .floatingPoint: nil
        }
    }

    /// RIP in the linear address space, as a debugger wants it.
    static func linearInstructionPointer(_ registers: TargetRegisters) -> UInt64 {
        let rip = registers.general.rip
        return registers.system?.linearAddress(ofCode: rip).rawValue ?? rip
    }

    private static func littleEndian(_ value: UInt64, count: Int) -> [UInt8] {
        (0..<count).map { $0 < 8 ? UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) : 0 }
    }

    // MARK: Writing

    /// Puts the bytes of a register in place.
    ///
    /// - Throws: ``DebugError`` where it cannot be written, or is not known.
    static func set(
        _ register: RegisterDescription, to bytes: [UInt8], in registers: inout TargetRegisters
    ) throws(DebugError) {
        guard bytes.count == register.size else {
            throw DebugError(
                "\(register.name) has \(register.size) bytes, and \(bytes.count) were given")
        }
        guard self.bytes(of: register, in: registers) != nil else {
            throw DebugError("\(register.name) is not known here, and cannot be set")
        }
        if try setFloatingPoint(register.source, to: bytes, in: &registers) { return }
        var value: UInt64 = 0
        for byte in bytes.prefix(8).reversed() { value = value << 8 | UInt64(byte) }
        switch register.source {
        case .general(let name): registers.general[name] = value
        case .linearInstructionPointer: setLinearInstructionPointer(value, in: &registers)
        case .instructionPointer: registers.general.rip = value
        case .flags:
            registers.general.rflags =
                registers.general.rflags & ~0xFFFF_FFFF | value & 0xFFFF_FFFF
        case .base(.fs): registers.system?[.fs].base = value
        case .base(.gs): registers.system?[.gs].base = value
        case .kernelGSBase: registers.kernelGSBase = value
        case .control(let name): registers.system?[name] = value
        default:
            // The hidden part of a segment comes from a descriptor, which an instruction loads.
            throw DebugError("\(register.name) cannot be set from a debugger")
        }
    }

    private static func setLinearInstructionPointer(
        _ value: UInt64, in registers: inout TargetRegisters
    ) {
        guard let system = registers.system, system.mode != .long else {
            registers.general.rip = value
            return
        }
        registers.general.rip = (value &- system[.cs].base) & 0xFFFF_FFFF
    }

    private static func setFloatingPoint(
        _ source: RegisterDescription.Source, to bytes: [UInt8], in registers: inout TargetRegisters
    ) throws(DebugError) -> Bool {
        switch source {
        case .floatingPoint(let offset, let count):
            registers.floatingPoint?[offset..<offset + count] = Array(bytes.prefix(count))
        case .tagWord:
            let word = UInt16(bytes[0]) | UInt16(bytes[1]) << 8
            registers.floatingPoint?[4..<5] = [TagWord.abridged(word)]
        default: return false
        }
        return true
    }

    /// Puts the bytes of a `G` packet in place: the registers that it changes.
    ///
    /// - Throws: ``DebugError`` where one of those cannot be written.
    static func setAll(
        _ bytes: [UInt8], in registers: inout TargetRegisters, _ layout: RegisterLayout
    ) throws(DebugError) {
        guard bytes.count == layout.size else {
            throw DebugError(
                "all registers have \(layout.size) bytes, and \(bytes.count) were given")
        }
        let before = registers
        var offset = 0
        for register in layout.registers {
            let new = Array(bytes[offset..<offset + register.size])
            offset += register.size
            // Unknown ones came back as zeros, at best.
            guard let old = self.bytes(of: register, in: before), new != old else { continue }
            try set(register, to: new, in: &registers)
        }
    }
}
