internal import KVM
internal import Machine

/// All of a vCPU's state that KVM gives and takes back, at a place where nothing is pending.
struct CPUCheckpoint: Sendable {
    var mpState: MPState
    var registers: GeneralRegisters
    var system: SystemRegisters2
    var extended: [UInt8]
    var extendedControl: [ExtendedControlRegister]
    var debug: DebugRegisters
    var events: VCPUEvents
    var msrs: [MSRValue]
    /// The count of instructions, where the host has one.
    var progress: UInt64?

    /// What it takes in memory, in bytes.
    var byteCount: Int {
        MemoryLayout<CPUCheckpoint>.size + extended.count + 16 * (msrs.count + 1)
    }
}

extension GuestCPU {
    /// MSRs that tell time (DESIGN 3): a guest that goes back in its history does not take the host's
    /// clock along, and setting them would move what other reads of it see.
    private static let timeMSRs: Set<UInt32> = [
        0x10, 0x11, 0x12, 0x3B, 0xE7, 0xE8, 0x6E0, 0x4B56_4D00, 0x4B56_4D01,
    ]

    /// The CPU as it stands, which must be settled.
    mutating func checkpoint() throws(KVMError) -> CPUCheckpoint {
        try findSettableMSRs()
        let progress = try progress()
        let indices = savedMSRs
        let withheld = try withheldEvents()
        return try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            var extended: [UInt8] = []
            try cpu.readXSave(into: &extended)
            var events = try cpu.events()
            if let withheld { events = withheld }
            return CPUCheckpoint(
                mpState: try cpu.mpState(), registers: try cpu.registers(),
                system: try cpu.systemRegisters2(), extended: extended,
                extendedControl: try cpu.extendedControlRegisters(),
                debug: try cpu.debugRegisters(),
                events: events,
                msrs: try cpu.readMSRs(indices), progress: progress)
        }
    }

    /// Puts the CPU back; it must be settled, and no breakpoint or step armed.
    mutating func restore(_ checkpoint: borrowing CPUCheckpoint) throws(KVMError) {
        let saved = copy checkpoint
        try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            // mp_state first (DESIGN 4); registers before events, which they clear.
            try cpu.setMPState(saved.mpState)
            try cpu.setSystemRegisters2(saved.system)
            try cpu.setRegisters(saved.registers)
            try cpu.setExtendedControlRegisters(saved.extendedControl)
            try cpu.setXSave(saved.extended)
            try cpu.setDebugRegisters(saved.debug)
            let refused = try cpu.writeMSRs(saved.msrs)
            guard refused.isEmpty else {
                throw .malformed("MSR \(refused[0]), which could be set before, cannot be now")
            }
            try cpu.setEvents(saved.events)
        }
        // Memory went back too, and the page tables in it.
        try machine.forgetTranslations()
        try refreshPage()
        if let before = saved.progress, let now = try progress() {
            progressOffset &+= before &- now
        }
        try noteInjection(saved.events)
    }

    /// Finds the saved MSRs that can be set, by setting each to what it is.
    private mutating func findSettableMSRs() throws(KVMError) {
        guard !areSavedMSRsSettable else { return }
        let indices = savedMSRs.filter { !Self.timeMSRs.contains($0) }
        savedMSRs = try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            let values = try cpu.readMSRs(indices)
            let refused = Set(try cpu.writeMSRs(values))
            return values.map(\.index).filter { !refused.contains($0) }
        }
        areSavedMSRsSettable = true
    }
}
