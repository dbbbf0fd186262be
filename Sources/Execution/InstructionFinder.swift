internal import Disassembly
internal import Guest
public import Machine

/// Where KVM's RIP stands in an exit, by kind: at the instruction, or after it (KVM-FACTS). Probed.
public struct RIPPhases: Equatable, Sendable {
    /// OUT reports the address of the next instruction.
    public var isAfterOut = false
    /// OUTS of a count above 1, or with REP.
    public var isAfterOuts = false
    /// IN.
    public var isAfterIn = false
    /// INS.
    public var isAfterIns = false
    /// A write to device memory.
    public var isAfterMMIOWrite = false
    /// A read of device memory.
    public var isAfterMMIORead = false
    /// HLT.
    public var isAfterHLT = false

    /// RIP at the instruction everywhere.
    public init() {}
}

/// Finds how many bytes before RIP the instruction starts that caused an exit.
///
/// Remembers what it found by RIP, so that a loop decodes its instructions once: a fixed table,
/// nothing allocated per exit. It is filled in the order of the exits alone, so recorder and
/// replayer find the same.
struct InstructionFinder: ~Copyable {
    private struct Entry {
        var rip: UInt64 = .max
        var key: UInt64 = .max
        var rewind: UInt8 = 0
    }

    private let phases: RIPPhases
    private var entries = [Entry](repeating: Entry(), count: 1024)
    private var code = [UInt8](repeating: 0, count: Disassembler.usefulHistory)

    init(_ phases: RIPPhases) { self.phases = phases }

    /// For a port access.
    @inline(__always)
    mutating func rewind(
        portAccess direction: PortAccess.Direction, port: UInt16, size: Int, count: Int,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        memory: borrowing GuestMemory
    ) -> UInt8 {
        let isAfter: Bool
        if direction == .output {
            isAfter = count > 1 ? phases.isAfterOuts : phases.isAfterOut
        } else {
            isAfter = count > 1 ? phases.isAfterIns : phases.isAfterIn
        }
        guard isAfter else { return 0 }
        let isString: Bool? = count > 1 ? true : nil
        // SAFETY: the caller's pointers are valid during the call.
        let registers = unsafe registers.pointee
        return unsafe find(
            .portAccess(
                direction, sizeInBytes: size, port: port,
                dx: UInt16(truncatingIfNeeded: registers[.rdx]), isString: isString),
            key: UInt64(port) << 8 | UInt64(size) << 1 | (count > 1 ? 1 : 0),
            rip: registers.rip, system: system, memory: memory)
    }

    /// For an access to device memory.
    @inline(__always)
    mutating func rewind(
        memoryAccess isWrite: Bool, length: Int, registers: UnsafePointer<GeneralRegisters>,
        system: UnsafePointer<SystemRegisters>, memory: borrowing GuestMemory
    ) -> UInt8 {
        guard isWrite ? phases.isAfterMMIOWrite : phases.isAfterMMIORead else { return 0 }
        // SAFETY: the caller's pointers are valid during the call.
        return unsafe find(
            isWrite ? .memoryWrite(sizeInBytes: length) : .any,
            key: 1 << 32 | UInt64(length) << 1 | (isWrite ? 1 : 0),
            rip: registers.pointee.rip, system: system, memory: memory)
    }

    /// For HLT, which is one byte.
    func rewindOfHLT() -> UInt8 { phases.isAfterHLT ? 1 : 0 }

    private mutating func find(
        _ cause: CausingInstruction, key: UInt64, rip: UInt64,
        system: UnsafePointer<SystemRegisters>, memory: borrowing GuestMemory
    ) -> UInt8 {
        let slot = Int(truncatingIfNeeded: (rip ^ rip >> 10 ^ key &* 0x9E37) & 1023)
        if entries[slot].rip == rip, entries[slot].key == key { return entries[slot].rewind }
        // SAFETY: the caller's pointer is valid during the call.
        let rewind = unsafe decode(cause, rip: rip, system: system.pointee, memory: memory)
        entries[slot] = Entry(rip: rip, key: key, rewind: rewind)
        return rewind
    }

    /// One byte where nothing that fits can be found: inside the instruction at least, which is
    /// what a symbol or a source line needs.
    @inline(never)
    private func decode(
        _ cause: CausingInstruction, rip: UInt64, system: SystemRegisters,
        memory: borrowing GuestMemory
    ) -> UInt8 {
        let linear = PageWalk.linearRIP(rip, system: system).rawValue
        // Back from RIP to what can be read: the page before may not be mapped.
        let inPage = Int(linear & 0xFFF)
        var bytes: [UInt8] = []
        if inPage < code.count {
            bytes = PageWalk.read(
                GuestVirtualAddress(linear &- UInt64(code.count)), count: code.count - inPage,
                system: system, memory: memory)
            if bytes.count < code.count - inPage { bytes = [] }
        }
        let near = min(inPage, code.count)
        bytes += PageWalk.read(
            GuestVirtualAddress(linear &- UInt64(near)), count: near, system: system,
            memory: memory)
        let length = Disassembler(for: system).lengthOfInstruction(endingIn: bytes, cause: cause)
        return UInt8(length ?? 1)
    }
}
