internal import Glibc
internal import Guest
internal import KVM

/// One place of the whole machine, CPU and memory, to come back to.
///
/// Memory is kept as a second copy in which only written pages are renewed: the first costs a copy
/// of all pages that hold something, every later one and every return the pages written since.
struct Checkpoint: ~Copyable {
    private var cpu: CPUCheckpoint
    private let copy: GuestMemory
    private let reader: DirtyPages.Reader

    /// Takes one; the CPU must be settled and writes tracked.
    init(_ machine: inout GuestMachine) throws(ExecutionError) {
        guard let reader = machine.writes?.addReader() else {
            preconditionFailure("a checkpoint of memory whose writes nobody tracks")
        }
        try machine.collectWrites()
        _ = machine.writes?.take(reader)
        let memory = try Self.emptyCopy(of: machine.memory)
        // SAFETY: both memories have the same regions, and the page is in one of them.
        unsafe machine.memory.forEachNonZeroPage { number, bytes in
            guard let slot = memory.pageSlots.slot(ofPage: number), let source = bytes.baseAddress
            else { return }
            unsafe memory.host(slot: slot)?.copyMemory(from: source, byteCount: bytes.count)
        }
        let cpu = try kvm { () throws(KVMError) in try machine.cpu.checkpoint() }
        self.reader = reader
        copy = memory
        self.cpu = cpu
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
    mutating func renew(_ machine: inout GuestMachine) throws(ExecutionError) {
        try machine.collectWrites()
        for slot in machine.writes?.take(reader) ?? [] {
            // SAFETY: both memories have the same slots, of 4096 bytes each.
            guard let source = unsafe machine.memory.host(slot: slot) else { continue }
            unsafe copy.host(slot: slot)?.copyMemory(from: source, byteCount: 4096)
        }
        cpu = try kvm { () throws(KVMError) in try machine.cpu.checkpoint() }
    }

    /// Puts the machine back; the CPU must be settled, with no breakpoint or step armed.
    func restore(_ machine: inout GuestMachine) throws(ExecutionError) {
        try machine.collectWrites()
        for slot in machine.writes?.take(reader) ?? [] {
            // SAFETY: as above.
            guard let source = unsafe copy.host(slot: slot),
                let target = unsafe machine.memory.host(slot: slot),
                let address = machine.memory.pageSlots.address(ofSlot: slot)
            else { continue }
            unsafe target.copyMemory(from: source, byteCount: 4096)
            machine.memory.markWritten(address, count: 4096)
        }
        // The other readers must hear of it, and this one not.
        try machine.collectWrites()
        _ = machine.writes?.take(reader)
        do throws(KVMError) { try machine.cpu.restore(cpu) } catch { throw .kvm(error) }
    }
}
