public import KVM
internal import Machine
public import Trace

extension GuestCPU {
    /// What a completion needs beside registers.
    public mutating func extendedState() throws(KVMError) -> ExtendedState {
        try whileSettled { cpu throws(KVMError) in
            var area: [UInt8] = []
            try cpu.readXSave(into: &area)
            func number(_ at: UInt32, _ count: Int) -> UInt32 {
                (0..<count).reversed().reduce(0) {
                    let index = Int(at) + $1
                    return $0 << 8 | (index < area.count ? UInt32(area[index]) : 0)
                }
            }
            let mask = number(XSaveLayout.mxcsrMask, 4)
            let xcr0 = try cpu.extendedControlRegisters().first { $0.index == 0 }
            return ExtendedState(
                mxcsr: number(XSaveLayout.mxcsr, 4),
                mxcsrMask: mask == 0 ? XSaveLayout.usualMXCSRMask : mask,
                x87Status: UInt16(truncatingIfNeeded: number(XSaveLayout.x87Status, 2)),
                xcr0: xcr0?.value ?? 1)
        }
    }

    /// Changes the CPU as a completion says, but for RAM.
    public mutating func apply(_ changes: [Change]) throws(KVMError) {
        let events = try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            // Registers first: KVM drops a pending exception when they are written.
            try Self.applyRegisters(changes, &cpu)
            try Self.applyExtendedState(changes, &cpu)
            var events = try cpu.events()
            let before = events
            for change in changes {
                switch change {
                case .msr(let index, let value):
                    guard try cpu.writeMSRs([MSRValue(index: index, value: value)]).isEmpty else {
                        throw .invalidArgument("a completion that sets MSR \(index)")
                    }
                case .event(.exception, let vector, let errorCode):
                    events.exceptionInjected = true
                    events.exceptionVector = vector
                    events.exceptionHasErrorCode = errorCode != nil
                    events.exceptionErrorCode = errorCode ?? 0
                case .event(let kind, _, _):
                    throw .invalidArgument("a completion that injects an event of kind \(kind)")
                case .debugWord, .extendedControl, .noMemory:
                    throw .invalidArgument("a completion that changes debug or control registers")
                case .register, .systemWord, .extendedState, .memory: break
                }
            }
            if events.interruptShadow != 0 {
                events.interruptShadow = 0
                events.flags |= VCPUEvents.validShadow
            }
            if events != before { try cpu.setEvents(events) }
            return events
        }
        try noteInjection(events)
    }

    private static func applyRegisters(
        _ changes: [Change], _ cpu: inout SettledCPU
    ) throws(KVMError) {
        var registers = try cpu.registers()
        var system = try cpu.systemRegisters()
        let systemBefore = system
        for change in changes {
            switch change {
            case .register(let register, let value): registers[register] = value
            case .systemWord(let index, let value): system.words[Int(index)] = value
            case .event, .msr, .extendedState, .memory, .debugWord, .extendedControl, .noMemory:
                break
            }
        }
        if system != systemBefore { try cpu.setSystemRegisters(system) }
        // Always, so that an exception that KVM holds ready for the instruction goes away.
        try cpu.setRegisters(registers)
    }

    private static func applyExtendedState(
        _ changes: [Change], _ cpu: inout SettledCPU
    ) throws(KVMError) {
        var area: [UInt8] = []
        for change in changes {
            guard case .extendedState(let offset, let bytes) = change else { continue }
            if area.isEmpty { try cpu.readXSave(into: &area) }
            let (end, overflows) = Int(offset).addingReportingOverflow(bytes.count)
            guard !overflows, end <= area.count, area.count > Int(XSaveLayout.stateBits) else {
                throw .invalidArgument("a completion that changes byte \(offset) of the XSAVE area")
            }
            area.replaceSubrange(Int(offset)..<end, with: bytes)
            // KVM takes x87 and SSE from the area only where it is said to hold them.
            if offset < XSaveLayout.legacyEnd { area[Int(XSaveLayout.stateBits)] |= 3 }
        }
        if !area.isEmpty { try cpu.setXSave(area) }
    }
}
