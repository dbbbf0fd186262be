internal import CKVM
public import Machine

/// How a memory slot behaves.
public struct MemorySlotFlags: OptionSet, Sendable {
    /// The `KVM_MEM_*` bits.
    public var rawValue: UInt32
    /// Makes flags of bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// KVM_MEM_LOG_DIRTY_PAGES: the guest's writes show in the dirty log.
    public static let logDirtyPages = MemorySlotFlags(rawValue: 1)
    /// KVM_MEM_READONLY: the guest's writes exit as MMIO.
    public static let readOnly = MemorySlotFlags(rawValue: 2)
}

/// A virtual machine: memory slots and what holds for all its CPUs. It has no interrupt
/// controller and no timer in the kernel: those run on host time and out of sight.
public struct VirtualMachine: ~Copyable {
    let descriptor: FileDescriptor
    let runPageBytes: Int
    /// Pages of each slot in use, so that a dirty log's size can be checked.
    private var slotPages: [(slot: UInt32, pages: Int)] = []

    init(_ descriptor: consuming FileDescriptor, runPageBytes: Int) {
        self.descriptor = descriptor
        self.runPageBytes = runPageBytes
    }

    /// A further handle on the same machine (dup), which knows the slots there are now.
    public func duplicate() throws(KVMError) -> VirtualMachine {
        var copy = VirtualMachine(
            try FileDescriptor(ckvm_duplicate(descriptor.number), "dup"),
            runPageBytes: runPageBytes)
        copy.slotPages = slotPages
        return copy
    }

    /// The value of a capability for this VM (KVM_CHECK_EXTENSION on the VM).
    public func check(_ capability: Capability) -> Int {
        max(0, ckvm_check_extension(descriptor.number, UInt(capability.rawValue)))
    }

    /// Turns a capability on (KVM_ENABLE_CAP).
    public func enable(
        _ capability: Capability, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0, _ d: UInt64 = 0
    ) throws(KVMError) {
        try KVMError.check(
            ckvm_enable_capability(descriptor.number, capability.rawValue, a, b, c, d),
            "KVM_ENABLE_CAP")
    }

    /// Puts memory of this process into the guest (KVM_SET_USER_MEMORY_REGION), or changes the
    /// flags of a slot.
    ///
    /// - Parameters:
    ///   - slot: The slot's number, from 0.
    ///   - address: Where the guest sees it; page-aligned.
    ///   - memory: Page-aligned, a multiple of 4096 bytes. The caller keeps it mapped until the
    ///     slot is removed or the machine and its CPUs are gone.
    @unsafe
    public mutating func setMemory(
        slot: UInt32, at address: GuestPhysicalAddress, memory: UnsafeMutableRawBufferPointer,
        flags: MemorySlotFlags = []
    ) throws(KVMError) {
        guard let base = memory.baseAddress, memory.count > 0, memory.count % 4096 == 0 else {
            throw .invalidArgument(
                "memory slot \(slot): \(memory.count) bytes are not a whole number of pages")
        }
        // SAFETY: the kernel checks the range; keeping it mapped is the caller's promise.
        let result = unsafe ckvm_set_memory(
            descriptor.number, slot, flags.rawValue, address.rawValue, UInt64(memory.count), base)
        try KVMError.check(result, "KVM_SET_USER_MEMORY_REGION")
        slotPages.removeAll { $0.slot == slot }
        slotPages.append((slot, memory.count / 4096))
    }

    /// A slot that nobody uses, and where in a PC's address space there is never memory: the I/O
    /// APIC's page.
    private static let passingSlot: UInt32 = 500
    private static let passingAddress: UInt64 = 0xFEC0_0000

    /// Has KVM forget what it knows of the guest's page tables (a memory slot that is made and
    /// deleted: KVM_SET_USER_MEMORY_REGION). To be called where they may have been changed from here,
    /// which KVM does not see, while no CPU runs.
    public func forgetTranslations() throws(KVMError) {
        let page = try ScratchMemory(byteCount: 4096)
        // SAFETY: the page outlives its slot, which is gone when this returns.
        for size in [4096, 0] as [UInt64] {
            let result = unsafe ckvm_set_memory(
                descriptor.number, Self.passingSlot, 0, Self.passingAddress, size,
                page.bytes.baseAddress)
            try KVMError.check(result, "KVM_SET_USER_MEMORY_REGION")
        }
    }

    /// Moves the dirty log of a slot into a bitmap and clears it (KVM_GET_DIRTY_LOG).
    ///
    /// - Parameter bitmap: One bit a page, lowest bit of the first word first; at least
    ///   `(pages + 63) / 64` words. Writes of this process are not in it.
    public func readDirtyLog(
        slot: UInt32, into bitmap: inout MutableSpan<UInt64>
    ) throws(KVMError) {
        guard let pages = slotPages.first(where: { $0.slot == slot })?.pages else {
            throw .invalidArgument("memory slot \(slot) is not in use")
        }
        let words = (pages + 63) / 64
        guard bitmap.count >= words else {
            throw .bufferTooSmall(
                "the dirty log of slot \(slot)", needed: words * 8, given: bitmap.count * 8)
        }
        let number = descriptor.number
        let result = unsafe bitmap.withUnsafeMutableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            // SAFETY: the kernel writes `words` words, for which there is room.
            return unsafe ckvm_get_dirty_log(number, slot, base)
        }
        try KVMError.check(result, "KVM_GET_DIRTY_LOG")
    }

    /// Where VMX keeps three pages for real mode (KVM_SET_TSS_ADDR); guest-physical, below 4 GiB,
    /// outside all slots.
    public func setTSSAddress(_ address: GuestPhysicalAddress) throws(KVMError) {
        try KVMError.check(
            ckvm_set_tss_address(descriptor.number, address.rawValue), "KVM_SET_TSS_ADDR")
    }

    /// Where VMX keeps a page table for real mode (KVM_SET_IDENTITY_MAP_ADDR); before any vCPU.
    public func setIdentityMapAddress(_ address: GuestPhysicalAddress) throws(KVMError) {
        try KVMError.check(
            ckvm_set_identity_map_address(descriptor.number, address.rawValue),
            "KVM_SET_IDENTITY_MAP_ADDR")
    }

    /// Makes a CPU in the state after reset (KVM_CREATE_VCPU).
    ///
    /// - Parameter synchronisation: What is on the run page after every exit. KVM copies it there
    ///   by itself (KVM_CAP_SYNC_REGS); where the kernel cannot, it is fetched by requests, exit by
    ///   exit. What is not asked for costs nothing and is not there.
    public func createCPU(
        id: UInt32 = 0, synchronisation: SynchronisedRegisters = .all
    ) throws(KVMError) -> SettledCPU {
        try createCPU(
            id: id, synchronisation: synchronisation,
            possible: SynchronisedRegisters(rawValue: UInt64(check(.syncRegisters))))
    }

    /// The same, as on a kernel that can synchronise only what is possible.
    func createCPU(
        id: UInt32, synchronisation: SynchronisedRegisters, possible: SynchronisedRegisters
    ) throws(KVMError) -> SettledCPU {
        let descriptor = try FileDescriptor(
            ckvm_create_vcpu(self.descriptor.number, id), "KVM_CREATE_VCPU")
        let xsaveBytes = check(.xsave2)
        return SettledCPU(
            core: try CPUCore(
                descriptor, runPageBytes: runPageBytes, wanted: synchronisation,
                possible: possible, xsaveBytes: max(4096, xsaveBytes), hasXSAVE2: xsaveBytes > 0))
    }

    /// The statistics of the VM (KVM_GET_STATS_FD).
    public func statistics() throws(KVMError) -> Statistics {
        try Statistics(
            FileDescriptor(ckvm_get_stats_fd(descriptor.number), "KVM_GET_STATS_FD"))
    }
}

/// What KVM copies to the run page at every exit (KVM_CAP_SYNC_REGS).
public struct SynchronisedRegisters: OptionSet, Sendable {
    /// The `KVM_SYNC_X86_*` bits.
    public var rawValue: UInt64
    /// Makes a set of bits.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// KVM_SYNC_X86_REGS.
    public static let general = SynchronisedRegisters(rawValue: 1)
    /// KVM_SYNC_X86_SREGS.
    public static let system = SynchronisedRegisters(rawValue: 2)
    /// KVM_SYNC_X86_EVENTS.
    public static let events = SynchronisedRegisters(rawValue: 4)
    /// All of them.
    public static let all: SynchronisedRegisters = [.general, .system, .events]
}
