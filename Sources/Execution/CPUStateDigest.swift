public import KVM
internal import Machine
public import Trace

/// What of a CPU's state ring 3 cannot change, as digests have it.
public struct PrivilegedState: Sendable {
    /// XCRs, DR0 to DR3, DR6, DR7, NMI blocking and MSRs, in this order.
    let bytes: [UInt8]

    /// What was read of a CPU.
    public init(bytes: [UInt8]) { self.bytes = bytes }
}

/// Everything of a CPU but its general registers, as landmarks compare it.
extension GuestCPU {
    /// MSRs that a guest sets and that decide what it does; none that tells time or counts
    /// (Intel SDM vol. 4, table 2-2; AMD64 APM vol. 2, appendix A).
    private static let comparedMSRs: [UInt32] =
        [
            0x1B, 0x174, 0x175, 0x176, 0x1A0, 0x1D9, 0x250, 0x258, 0x259, 0x277, 0x2FF, 0xDA0,
            0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102,
            0xC000_0103,
        ] + Array(0x200...0x20F) + Array(0x268...0x26F)

    /// Bytes 464–511 of an XSAVE area are free for software, and the kernel uses them; XSTATE_BV,
    /// which follows, says which parts are in their initial state, and KVM gives those written out
    /// (Intel SDM vol. 1, 13.4), so that the contents alone say what is in them.
    private static let ignoredXSaveBytes = 464..<520

    /// The digest of system registers, XCRs, extended state, debug registers, NMI blocking and
    /// MSRs. The CPU must be settled.
    public mutating func stateDigest() throws(KVMError) -> Digest128 {
        try stateDigest(privilegedState(debugStatus: nil), interruptTableLimit: nil)
    }

    /// XCRs, debug registers, NMI blocking and MSRs. The CPU must be settled.
    ///
    /// - Parameter debugStatus: DR6 as the guest has it; nil: as the CPU has it.
    public mutating func privilegedState(
        debugStatus: UInt64?
    ) throws(KVMError) -> PrivilegedState {
        try findComparedMSRs()
        let indices = comparedMSRs
        return try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            var bytes: [UInt8] = []
            bytes.reserveCapacity(1024)
            for register in try cpu.extendedControlRegisters() {
                bytes.append(word: UInt64(register.index))
                bytes.append(word: register.value)
            }
            var debug = try cpu.debugRegisters()
            if let debugStatus { debug.dr6 = debugStatus }
            // DR0 to DR3, DR6, DR7.
            for index in 0..<6 { bytes.append(word: debug.words[index]) }
            bytes.append(try cpu.events().nmiMasked ? 1 : 0)
            // One by one where KVM refuses some would cost a request for each refused one, so
            // they are known after the first time.
            for value in try cpu.readMSRs(indices) {
                bytes.append(word: UInt64(value.index))
                bytes.append(word: value.value)
            }
            return PrivilegedState(bytes: bytes)
        }
    }

    /// The digest, of which the part is known that ring 3 cannot change.
    ///
    /// - Parameter interruptTableLimit: as the guest has it; nil: as the CPU has it.
    public mutating func stateDigest(
        _ privileged: PrivilegedState, interruptTableLimit: UInt16?
    ) throws(KVMError) -> Digest128 {
        // SAFETY: the page's registers do not change before the next run.
        var system = unsafe systemRegistersPointer.pointee
        if let interruptTableLimit { system.idt.limit = interruptTableLimit }
        return try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            var bytes: [UInt8] = []
            try cpu.readXSave(into: &bytes)
            for index in Self.ignoredXSaveBytes { bytes[index] = 0 }
            bytes.reserveCapacity(bytes.count + 2048)
            // Not the interrupt bitmap: what is pending rules a landmark out.
            for index in 0..<SystemRegisters.bitmapWord {
                bytes.append(word: system.words[index])
            }
            bytes += privileged.bytes
            return Digest128(of: bytes)
        }
    }

    /// The MSRs of the list that this host has.
    mutating func findComparedMSRs() throws(KVMError) {
        guard comparedMSRs.isEmpty else { return }
        comparedMSRs = try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            try cpu.readMSRs(Self.comparedMSRs).map(\.index)
        }
    }

    /// Whether nothing is pending or held back, and the guest's own breakpoints are off (ours
    /// would put them out of force). The CPU must be settled.
    public mutating func isQuiet() throws(KVMError) -> Bool {
        try findComparedMSRs()
        guard try withheldEvents() == nil else { return false }
        return try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            guard try !cpu.events().isAnythingPending else { return false }
            return try cpu.debugRegisters().dr7 & 0xFF == 0
        }
    }
}
