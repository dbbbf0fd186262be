internal import CKVM
public import Machine

/// A vCPU of which nothing is pending: all of its state may be read and written.
///
/// ``begin()`` makes it a ``PendingCPU``. Use it on one thread, the one that runs the guest: that
/// which calls ``begin()`` is the one that kicks reach.
@safe
public struct SettledCPU: ~Copyable {
    var core: CPUCore

    // SAFETY (whole type): every request is given a buffer of the size that the kernel reads or
    // writes (asserted in ckvm.h), alive for the length of the call.

    init(core: consuming CPUCore) { self.core = core }

    /// Starts running; the guest moves at the first ``PendingCPU/run()``. Costs nothing.
    public consuming func begin() -> PendingCPU {
        unsafe ckvm_kick_bind_thread(core.mapping.kick)
        return PendingCPU(core: core)
    }

    // MARK: Registers

    /// General registers (KVM_GET_REGS).
    public func registers() throws(KVMError) -> GeneralRegisters {
        var value = GeneralRegisters()
        try KVMError.check(unsafe ckvm_get_regs(core.descriptor.number, &value), "KVM_GET_REGS")
        return value
    }

    /// Writes general registers (KVM_SET_REGS); the run page shows them too.
    public mutating func setRegisters(_ value: GeneralRegisters) throws(KVMError) {
        var value = value
        try KVMError.check(unsafe ckvm_set_regs(core.descriptor.number, &value), "KVM_SET_REGS")
        unsafe core.page.registers.pointee = value
    }

    /// Segment and control registers (KVM_GET_SREGS).
    public func systemRegisters() throws(KVMError) -> SystemRegisters {
        var value = SystemRegisters()
        try KVMError.check(unsafe ckvm_get_sregs(core.descriptor.number, &value), "KVM_GET_SREGS")
        return value
    }

    /// Writes segment and control registers (KVM_SET_SREGS); the run page shows them too. A queued
    /// interrupt is in the bitmap: write back what was read.
    public mutating func setSystemRegisters(_ value: SystemRegisters) throws(KVMError) {
        var value = value
        try KVMError.check(unsafe ckvm_set_sregs(core.descriptor.number, &value), "KVM_SET_SREGS")
        unsafe core.page.systemRegisters.pointee = value
        setPageCR8(value[.cr8])
    }

    /// Without an interrupt controller in the kernel, every run takes CR8 from the run page: left
    /// alone, it would undo what was just written.
    private func setPageCR8(_ value: UInt64) { unsafe ckvm_set_cr8(core.page.run, value) }

    /// Segment and control registers with the PDPTEs (KVM_GET_SREGS2).
    public func systemRegisters2() throws(KVMError) -> SystemRegisters2 {
        var value = SystemRegisters2()
        try KVMError.check(
            unsafe ckvm_get_sregs2(core.descriptor.number, &value), "KVM_GET_SREGS2")
        return value
    }

    /// Writes segment and control registers with the PDPTEs (KVM_SET_SREGS2).
    public mutating func setSystemRegisters2(_ value: SystemRegisters2) throws(KVMError) {
        var value = value
        try KVMError.check(
            unsafe ckvm_set_sregs2(core.descriptor.number, &value), "KVM_SET_SREGS2")
        setPageCR8(value.words[SystemRegisters.ControlName.cr8.rawValue])
    }

    /// Pending exceptions, interrupts, NMIs and shadows (KVM_GET_VCPU_EVENTS).
    public func events() throws(KVMError) -> VCPUEvents {
        var value = VCPUEvents()
        try KVMError.check(
            unsafe ckvm_get_vcpu_events(core.descriptor.number, &value), "KVM_GET_VCPU_EVENTS")
        return value
    }

    /// Writes pending events (KVM_SET_VCPU_EVENTS).
    public mutating func setEvents(_ value: VCPUEvents) throws(KVMError) {
        var value = value
        try KVMError.check(
            unsafe ckvm_set_vcpu_events(core.descriptor.number, &value), "KVM_SET_VCPU_EVENTS")
    }

    /// The guest's debug registers (KVM_GET_DEBUGREGS).
    public func debugRegisters() throws(KVMError) -> DebugRegisters {
        var value = DebugRegisters()
        try KVMError.check(
            unsafe ckvm_get_debugregs(core.descriptor.number, &value), "KVM_GET_DEBUGREGS")
        return value
    }

    /// Writes the guest's debug registers (KVM_SET_DEBUGREGS).
    public mutating func setDebugRegisters(_ value: DebugRegisters) throws(KVMError) {
        var value = value
        try KVMError.check(
            unsafe ckvm_set_debugregs(core.descriptor.number, &value), "KVM_SET_DEBUGREGS")
    }

    /// Whether it runs or is halted (KVM_GET_MP_STATE).
    public func mpState() throws(KVMError) -> MPState {
        let value = try KVMError.check(
            ckvm_get_mp_state(core.descriptor.number), "KVM_GET_MP_STATE")
        return MPState(rawValue: UInt32(truncatingIfNeeded: value))
    }

    /// Makes it run or halts it (KVM_SET_MP_STATE). First of all when restoring.
    public mutating func setMPState(_ value: MPState) throws(KVMError) {
        try KVMError.check(
            ckvm_set_mp_state(core.descriptor.number, value.rawValue), "KVM_SET_MP_STATE")
    }

    // MARK: Extended state

    /// The size of the XSAVE area in bytes (KVM_CAP_XSAVE2, else 4096).
    public var xsaveByteCount: Int { core.xsaveBytes }

    /// The XSAVE area: x87, SSE, AVX and later (KVM_GET_XSAVE2, else KVM_GET_XSAVE). The buffer
    /// is resized to ``xsaveByteCount`` and can be used again.
    public func readXSave(into area: inout [UInt8]) throws(KVMError) {
        if area.count != core.xsaveBytes { area = [UInt8](repeating: 0, count: core.xsaveBytes) }
        let number = core.descriptor.number
        let has2 = core.hasXSAVE2
        let result = unsafe area.withUnsafeMutableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return has2 ? unsafe ckvm_get_xsave2(number, base) : unsafe ckvm_get_xsave(number, base)
        }
        try KVMError.check(result, "KVM_GET_XSAVE2")
    }

    /// Writes the XSAVE area (KVM_SET_XSAVE), of the size that was read.
    public mutating func setXSave(_ area: [UInt8]) throws(KVMError) {
        guard area.count >= core.xsaveBytes else {
            throw .bufferTooSmall("XSAVE area", needed: core.xsaveBytes, given: area.count)
        }
        let number = core.descriptor.number
        let result = unsafe area.withUnsafeBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return unsafe ckvm_set_xsave(number, base)
        }
        try KVMError.check(result, "KVM_SET_XSAVE")
    }

    /// Extended control registers (KVM_GET_XCRS): XCR0, on today's CPUs.
    public func extendedControlRegisters() throws(KVMError) -> [ExtendedControlRegister] {
        var list = KernelList(capacity: 16, headerBytes: 8, entryBytes: 16)
        // struct kvm_xcrs ends in 16 words of padding.
        list.bytes += [UInt8](repeating: 0, count: 128)
        let number = core.descriptor.number
        let result = unsafe list.bytes.withUnsafeMutableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return unsafe ckvm_get_xcrs(number, base)
        }
        try KVMError.check(result, "KVM_GET_XCRS")
        return (0..<min(16, list.count)).map {
            ExtendedControlRegister(index: list.word32($0, at: 0), value: list.word64($0, at: 8))
        }
    }

    /// Writes extended control registers (KVM_SET_XCRS); at most 16.
    public mutating func setExtendedControlRegisters(
        _ values: [ExtendedControlRegister]
    ) throws(KVMError) {
        guard values.count <= 16 else {
            throw .invalidArgument("\(values.count) extended control registers, and KVM takes 16")
        }
        var list = KernelList(capacity: 16, headerBytes: 8, entryBytes: 16)
        list.bytes += [UInt8](repeating: 0, count: 128)
        list.count = values.count
        for (row, value) in values.enumerated() {
            list.set(row, at: 0, value.index)
            list.set(row, at: 8, value.value)
        }
        let number = core.descriptor.number
        let result = unsafe list.bytes.withUnsafeBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return unsafe ckvm_set_xcrs(number, base)
        }
        try KVMError.check(result, "KVM_SET_XCRS")
    }

    // MARK: MSRs and CPUID

    /// Reads MSRs (KVM_GET_MSRS), in the order asked for; those KVM refuses are left out.
    public func readMSRs(_ indices: [UInt32]) throws(KVMError) -> [MSRValue] {
        var values: [MSRValue] = []
        var rest = indices[...]
        while !rest.isEmpty {
            let part = rest.prefix(256)
            var list = Self.msrList(part.map { MSRValue(index: $0, value: 0) })
            let number = core.descriptor.number
            let result = unsafe list.bytes.withUnsafeMutableBytes { bytes -> Int in
                guard let base = bytes.baseAddress else { return 0 }
                return unsafe ckvm_get_msrs(number, base)
            }
            let done = min(part.count, try KVMError.check(result, "KVM_GET_MSRS"))
            for row in 0..<done {
                values.append(
                    MSRValue(index: list.word32(row, at: 0), value: list.word64(row, at: 8)))
            }
            // KVM stops at the first it refuses.
            rest = rest.dropFirst(done < part.count ? done + 1 : done)
        }
        return values
    }

    /// Writes MSRs (KVM_SET_MSRS) in order.
    ///
    /// - Returns: The MSRs that KVM refused; the others are written.
    @discardableResult
    public mutating func writeMSRs(_ values: [MSRValue]) throws(KVMError) -> [UInt32] {
        var refused: [UInt32] = []
        var rest = values[...]
        while !rest.isEmpty {
            let part = Array(rest.prefix(256))
            let list = Self.msrList(part)
            let number = core.descriptor.number
            let result = unsafe list.bytes.withUnsafeBytes { bytes -> Int in
                guard let base = bytes.baseAddress else { return 0 }
                return unsafe ckvm_set_msrs(number, base)
            }
            let done = min(part.count, try KVMError.check(result, "KVM_SET_MSRS"))
            if done < part.count { refused.append(part[done].index) }
            rest = rest.dropFirst(done < part.count ? done + 1 : done)
        }
        return refused
    }

    private static func msrList(_ values: [MSRValue]) -> KernelList {
        var list = KernelList(
            capacity: values.count, headerBytes: Int(CKVM_MSRS_HEADER_BYTES),
            entryBytes: 16)
        for (row, value) in values.enumerated() {
            list.set(row, at: 0, value.index)
            list.set(row, at: 8, value.value)
        }
        return list
    }

    /// Sets what CPUID shows (KVM_SET_CPUID2), before the first run. Some hosts add bits:
    /// read the table back.
    public mutating func setCPUID(_ entries: [CPUIDEntry]) throws(KVMError) {
        var list = KernelList(
            capacity: entries.count, headerBytes: Int(CKVM_CPUID_HEADER_BYTES),
            entryBytes: 40)
        for (row, entry) in entries.enumerated() {
            list.set(row, at: 0, entry.function)
            list.set(row, at: 4, entry.index)
            list.set(row, at: 8, UInt32(entry.isIndexSignificant ? 1 : 0))
            list.set(row, at: 12, entry.eax)
            list.set(row, at: 16, entry.ebx)
            list.set(row, at: 20, entry.ecx)
            list.set(row, at: 24, entry.edx)
        }
        let number = core.descriptor.number
        let result = unsafe list.bytes.withUnsafeBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return unsafe ckvm_set_cpuid2(number, base)
        }
        try KVMError.check(result, "KVM_SET_CPUID2")
    }

    /// What KVM took for the CPUID table (KVM_GET_CPUID2), in its order.
    public func cpuid() throws(KVMError) -> [CPUIDEntry] {
        let number = core.descriptor.number
        return try unsafe readCPUIDTable("KVM_GET_CPUID2") { list in
            unsafe ckvm_get_cpuid2(number, list)
        }
    }

    // MARK: Interruption and debugging

    /// Queues an external interrupt (KVM_INTERRUPT). Only while ``isReadyForInterrupt``.
    public mutating func interrupt(vector: UInt8) throws(KVMError) {
        try KVMError.check(
            ckvm_interrupt(core.descriptor.number, UInt32(vector)), "KVM_INTERRUPT")
    }

    /// Queues an NMI (KVM_NMI).
    public mutating func nmi() throws(KVMError) {
        try KVMError.check(ckvm_nmi(core.descriptor.number), "KVM_NMI")
    }

    /// Whether KVM would take an interrupt now, as of the last run.
    public var isReadyForInterrupt: Bool {
        unsafe ckvm_ready_for_interrupt_injection(core.page.run) != 0
    }

    /// Arms breakpoints and stepping in the guest's place, or takes them back
    /// (KVM_SET_GUEST_DEBUG). Stops come as ``Exit/debug(_:)``.
    public mutating func setGuestDebug(_ debug: GuestDebug) throws(KVMError) {
        try core.setGuestDebug(debug)
    }

    /// The guest's TSC frequency in kHz (KVM_GET_TSC_KHZ).
    public func tscKilohertz() throws(KVMError) -> Int {
        try KVMError.check(ckvm_get_tsc_khz(core.descriptor.number), "KVM_GET_TSC_KHZ")
    }

    /// The statistics of the vCPU (KVM_GET_STATS_FD).
    public func statistics() throws(KVMError) -> Statistics {
        try Statistics(
            FileDescriptor(ckvm_get_stats_fd(core.descriptor.number), "KVM_GET_STATS_FD"))
    }

    // MARK: Kicks

    /// A handle that makes this vCPU return, for other threads.
    public var kicker: Kicker { Kicker(mapping: core.mapping) }

    /// A timer that kicks this vCPU; made on the thread that runs it.
    public func makeKickTimer() throws(KVMError) -> KickTimer { try KickTimer(core.mapping) }

    /// Withdraws a kick, so that runs go on; whether there was one.
    @discardableResult
    public mutating func acknowledgeKick() -> Bool { core.acknowledgeKick() }
}
