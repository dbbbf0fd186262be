public import Guest
internal import KVM

/// One place of the whole machine, CPU and memory, to come back to.
///
/// Memory is kept as a second copy in which only written pages are renewed: the first costs a copy
/// of all pages that hold something, every later one and every return the pages written since.
struct Checkpoint: ~Copyable {
    private var state: CPUCheckpoint
    private let copy: GuestMemory
    private let reader: DirtyPages.Reader

    /// Takes one; the CPU must be settled and writes tracked.
    init(_ cpu: inout GuestCPU, _ memory: borrowing GuestMemory) throws(ExecutionError) {
        guard let reader = cpu.writes?.addReader() else {
            preconditionFailure("a checkpoint of memory whose writes nobody tracks")
        }
        try kvm { () throws(KVMError) in try cpu.collectWrites(memory) }
        _ = cpu.writes?.take(reader)
        let copy = try Self.emptyCopy(of: memory)
        // SAFETY: both memories have the same regions, and the page is in one of them.
        unsafe memory.forEachNonZeroPage { number, bytes in
            guard let slot = copy.pageSlots.slot(ofPage: number), let source = bytes.baseAddress
            else { return }
            unsafe copy.host(slot: slot)?.copyMemory(from: source, byteCount: bytes.count)
        }
        state = try kvm { () throws(KVMError) in try cpu.checkpoint() }
        self.reader = reader
        self.copy = copy
    }

    private static func emptyCopy(
        of memory: borrowing GuestMemory
    ) throws(ExecutionError) -> GuestMemory {
        let rom = memory.regions.first { $0.isReadOnly }?.lengthInBytes ?? 0
        let layout = memory.layout
        return try guest { () throws(GuestError) in
            try GuestMemory(layout: layout, romLengthInBytes: rom)
        }
    }

    /// Takes the place of the one before; the CPU must be settled.
    mutating func renew(
        _ cpu: inout GuestCPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        try kvm { () throws(KVMError) in try cpu.collectWrites(memory) }
        for slot in cpu.writes?.take(reader) ?? [] {
            // SAFETY: both memories have the same slots, of 4096 bytes each.
            guard let source = unsafe memory.host(slot: slot) else { continue }
            unsafe copy.host(slot: slot)?.copyMemory(from: source, byteCount: 4096)
        }
        state = try kvm { () throws(KVMError) in try cpu.checkpoint() }
    }

    /// Puts the machine back; the CPU must be settled, with no breakpoint or step armed.
    func restore(_ cpu: inout GuestCPU, _ memory: borrowing GuestMemory) throws(ExecutionError) {
        try kvm { () throws(KVMError) in try cpu.collectWrites(memory) }
        for slot in cpu.writes?.take(reader) ?? [] {
            // SAFETY: as above.
            guard let source = unsafe copy.host(slot: slot),
                let target = unsafe memory.host(slot: slot),
                let address = memory.pageSlots.address(ofSlot: slot)
            else { continue }
            unsafe target.copyMemory(from: source, byteCount: 4096)
            memory.markWritten(address, count: 4096)
        }
        // The other readers must hear of it, and this one not.
        try kvm { () throws(KVMError) in try cpu.collectWrites(memory) }
        _ = cpu.writes?.take(reader)
        do throws(KVMError) { try cpu.restore(state) } catch { throw .kvm(error) }
    }
}

extension GuestCPU {
    /// Keeps the machine as it stands; the CPU must be settled.
    public mutating func keepPlace(_ memory: borrowing GuestMemory) throws(ExecutionError) {
        guard var checkpoint = kept.take() else {
            try kvm { () throws(KVMError) in try trackWrites(memory) }
            kept = try Checkpoint(&self, memory)
            return
        }
        try checkpoint.renew(&self, memory)
        kept = consume checkpoint
    }

    /// Puts the machine back to where it was kept.
    public mutating func returnToPlace(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool {
        guard let checkpoint = kept.take() else { return false }
        try abandon()
        try kvm { () throws(KVMError) in try setGuestDebug(.off) }
        try checkpoint.restore(&self, memory)
        kept = consume checkpoint
        return true
    }
}
