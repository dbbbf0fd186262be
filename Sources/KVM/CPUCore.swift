internal import CKVM
internal import Machine

/// What a settled and a pending vCPU have in common; moves from one to the other.
@safe
struct CPUCore: ~Copyable {
    let descriptor: FileDescriptor
    let mapping: RunPageMapping
    /// The mapping's page, kept here so that the hot path follows no reference.
    let page: RunPage
    /// What KVM copies to the run page by itself.
    let synchronised: SynchronisedRegisters
    /// What was asked for and KVM does not copy: fetched by requests at every exit.
    let fetched: SynchronisedRegisters
    /// Every exit puts segment and control registers on the page.
    let keepsSystemRegisters: Bool
    /// The size of the XSAVE area in bytes, at least 4096.
    let xsaveBytes: Int
    let hasXSAVE2: Bool

    init(
        _ descriptor: consuming FileDescriptor, runPageBytes: Int,
        wanted: SynchronisedRegisters, possible: SynchronisedRegisters, xsaveBytes: Int,
        hasXSAVE2: Bool
    ) throws(KVMError) {
        try KVMError.check(ckvm_kick_install(), "installing the kick signal")
        mapping = try RunPageMapping(vcpu: descriptor, byteCount: runPageBytes)
        // SAFETY: `mapping` lives as long as self.
        unsafe page = mapping.page
        self.descriptor = descriptor
        synchronised = wanted.intersection(possible)
        fetched = wanted.subtracting(possible)
        keepsSystemRegisters = wanted.contains(.system)
        self.xsaveBytes = xsaveBytes
        self.hasXSAVE2 = hasXSAVE2
        unsafe ckvm_set_sync_valid(page.run, synchronised.rawValue)
    }

    /// Puts on the page what was asked for and KVM does not synchronise.
    @inline(never)
    func fetch() throws(KVMError) {
        // SAFETY: the areas of the page have the sizes that the kernel writes.
        if fetched.contains(.general) {
            try KVMError.check(
                unsafe ckvm_get_regs(descriptor.number, page.registers), "KVM_GET_REGS")
        }
        if fetched.contains(.system) {
            try KVMError.check(
                unsafe ckvm_get_sregs(descriptor.number, page.systemRegisters), "KVM_GET_SREGS")
        }
        if fetched.contains(.events) {
            try KVMError.check(
                unsafe ckvm_get_vcpu_events(descriptor.number, page.events), "KVM_GET_VCPU_EVENTS")
        }
    }

    /// KVM_SET_GUEST_DEBUG.
    func setGuestDebug(_ debug: GuestDebug) throws(KVMError) {
        var registers: InlineArray<8, UInt64> = debug.debugRegisters
        let number = descriptor.number
        let control = debug.control
        // SAFETY: the kernel reads eight words.
        let result = unsafe withUnsafeBytes(of: &registers) { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return unsafe ckvm_set_guest_debug(
                number, control, base.assumingMemoryBound(to: UInt64.self))
        }
        try KVMError.check(result, "KVM_SET_GUEST_DEBUG")
    }

    func acknowledgeKick() -> Bool {
        // SAFETY: the mapping keeps what the kick acts on.
        unsafe ckvm_kick_acknowledge(mapping.kick) != 0
    }
}
