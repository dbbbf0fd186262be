internal import Disassembly
internal import Guest
internal import KVM
internal import Machine

/// Finds how many bytes before RIP the instruction starts that caused an exit.
///
/// Remembers what it found by RIP, so that a loop decodes its instructions once: a fixed table,
/// nothing allocated per exit. It is filled in the order of the exits alone, so recorder and
/// replayer find the same.
struct InstructionFinder: ~Copyable {
    fileprivate struct Entry: Sendable {
        var rip: UInt64 = .max
        var key: UInt64 = .max
        var rewind: UInt8 = 0
    }

    /// Which exits report RIP after the instruction, by ring (KVM-FACTS; probed).
    private let inRing0: AfterFlags
    private let inRing3: AfterFlags
    private let inRealMode: AfterFlags
    private var entries = [Entry](repeating: Entry(), count: 1024)
    /// Changes with the entries.
    private var generation: UInt64 = 0

    /// What was found so far; what it takes in memory is shared until something is found.
    struct Memory: Sendable {
        fileprivate var entries: [Entry]
        /// Equal for equal contents within one run.
        var generation: UInt64
        /// What the entries take, in bytes.
        var byteCount: Int { entries.count * MemoryLayout<Entry>.stride }
    }

    /// What was found so far: it belongs to a place in the run, since code changes.
    var memory: Memory {
        get { Memory(entries: entries, generation: generation) }
        set {
            entries = newValue.entries
            generation = newValue.generation
        }
    }

    /// The probed phases as flags: a phase that could not be probed counts as "at".
    private struct AfterFlags {
        let out: Bool
        let outs: Bool
        let input: Bool
        let ins: Bool
        let memoryWrite: Bool
        let memoryRead: Bool
        let hlt: Bool

        init(_ phases: RIPPhases) {
            out = phases.outDX == .after || phases.outImmediate == .after
            outs = phases.repOuts == .after
            input = phases.input == .after
            ins = phases.repIns == .after
            memoryWrite = phases.mmioWrite == .after
            memoryRead = phases.mmioRead == .after
            hlt = phases.hlt == .after
        }
    }

    init(_ behaviour: HostBehaviour) {
        inRing0 = AfterFlags(behaviour.ring0)
        inRing3 = AfterFlags(behaviour.ring3)
        inRealMode = AfterFlags(behaviour.real)
    }

    @inline(__always)
    private func flags(_ system: UnsafePointer<SystemRegisters>) -> AfterFlags {
        // SAFETY: the caller's pointer is valid during the call.
        if unsafe system.pointee.isRealMode { return inRealMode }
        return unsafe system.pointee.cpl == 3 ? inRing3 : inRing0
    }

    /// For a port access.
    @inline(__always)
    mutating func rewind(
        portAccess direction: PortAccess.Direction, port: UInt16, size: Int, count: Int,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        memory: borrowing GuestMemory
    ) -> UInt8 {
        let flags = unsafe flags(system)
        let isAfter: Bool
        if direction == .output {
            isAfter = count > 1 ? flags.outs : flags.out
        } else {
            isAfter = count > 1 ? flags.ins : flags.input
        }
        guard isAfter else { return 0 }
        let isString: Bool? = count > 1 ? true : nil
        // SAFETY: the caller's pointers are valid during the call.
        return unsafe find(
            .portAccess(
                direction, sizeInBytes: size, port: port,
                dx: UInt16(truncatingIfNeeded: registers.pointee[.rdx]), isString: isString),
            key: UInt64(port) << 8 | UInt64(size) << 1 | (count > 1 ? 1 : 0),
            rip: registers.pointee.rip, system: system, memory: memory)
    }

    /// For an access to device memory.
    @inline(__always)
    mutating func rewind(
        memoryAccess isWrite: Bool, length: Int, registers: UnsafePointer<GeneralRegisters>,
        system: UnsafePointer<SystemRegisters>, memory: borrowing GuestMemory
    ) -> UInt8 {
        let flags = unsafe flags(system)
        guard isWrite ? flags.memoryWrite : flags.memoryRead else { return 0 }
        // SAFETY: the caller's pointers are valid during the call.
        return unsafe find(
            isWrite ? .memoryWrite(sizeInBytes: length) : .any,
            key: 1 << 32 | UInt64(length) << 1 | (isWrite ? 1 : 0),
            rip: registers.pointee.rip, system: system, memory: memory)
    }

    /// For HLT, which is one byte.
    func rewindOfHLT(system: UnsafePointer<SystemRegisters>) -> UInt8 {
        // SAFETY: the caller's pointer is valid during the call.
        unsafe flags(system).hlt ? 1 : 0
    }

    private mutating func find(
        _ cause: CausingInstruction, key: UInt64, rip: UInt64,
        system: UnsafePointer<SystemRegisters>, memory: borrowing GuestMemory
    ) -> UInt8 {
        let slot = Int(truncatingIfNeeded: (rip ^ rip >> 10 ^ key &* 0x9E37) & 1023)
        if entries[slot].rip == rip, entries[slot].key == key { return entries[slot].rewind }
        // SAFETY: the caller's pointer is valid during the call.
        let rewind = unsafe decode(cause, rip: rip, system: system.pointee, memory: memory)
        entries[slot] = Entry(rip: rip, key: key, rewind: rewind)
        generation &+= 1
        return rewind
    }

    /// One byte where nothing that fits can be found: inside the instruction at least, which is
    /// what a symbol or a source line needs.
    @inline(never)
    private func decode(
        _ cause: CausingInstruction, rip: UInt64, system: SystemRegisters,
        memory: borrowing GuestMemory
    ) -> UInt8 {
        let linear = system.linearAddress(ofCode: rip).rawValue
        // Back from RIP to what can be read: the page before may not be mapped.
        let inPage = Int(linear & 0xFFF)
        var bytes: [UInt8] = []
        let history = Disassembler.usefulHistory
        if inPage < history {
            bytes = PageWalk.read(
                GuestVirtualAddress(linear &- UInt64(history)), count: history - inPage,
                system: system, memory: memory)
            if bytes.count < history - inPage { bytes = [] }
        }
        let near = min(inPage, history)
        bytes += PageWalk.read(
            GuestVirtualAddress(linear &- UInt64(near)), count: near, system: system,
            memory: memory)
        let length = Disassembler(for: system).lengthOfInstruction(endingIn: bytes, cause: cause)
        return UInt8(length ?? 1)
    }
}
