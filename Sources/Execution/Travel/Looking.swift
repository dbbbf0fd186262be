internal import Guest
public import KVM
public import Machine
public import Trace

/// What can be seen of the machine where it stands. Nothing of it changes the machine.
extension TimeMachine {
    /// General registers.
    public var registers: GeneralRegisters { machine.currentRegisters }

    /// Segment and control registers.
    public var systemRegisters: SystemRegisters { machine.currentSystemRegisters }

    /// The XSAVE area: x87, SSE, AVX and later, in the layout of the Intel SDM vol. 1, 13.4.
    public mutating func extendedState() throws(ExecutionError) -> [UInt8] {
        try kvm { () throws(KVMError) in
            try machine.cpu.whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
                var area: [UInt8] = []
                try cpu.readXSave(into: &area)
                return area
            }
        }
    }

    /// Some MSRs, in the order asked for; those that KVM refuses are left out.
    public mutating func msrs(_ indices: [UInt32]) throws(ExecutionError) -> [MSRValue] {
        try kvm { () throws(KVMError) in
            try machine.cpu.whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
                try cpu.readMSRs(indices)
            }
        }
    }

    /// Where the guest's page tables put a linear address now; nil where nowhere.
    public func physicalAddress(_ address: GuestVirtualAddress) -> GuestPhysicalAddress? {
        PageWalk.translate(address, system: systemRegisters, memory: machine.memory)?.address
    }

    /// Guest memory at a linear address, up to the first byte that is not mapped; instructions that
    /// were rewritten are shown as they were.
    public func memory(at address: GuestVirtualAddress, count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        let system = systemRegisters
        while bytes.count < count {
            let at = GuestVirtualAddress(address.rawValue &+ UInt64(bytes.count))
            guard
                let place = PageWalk.translate(at, system: system, memory: machine.memory)
            else { break }
            let part = memory(
                at: place.address, count: min(place.contiguousBytes, count - bytes.count))
            guard !part.isEmpty else { break }
            bytes += part
        }
        return bytes
    }

    /// Guest memory at a physical address, up to the first byte that is none; instructions that were
    /// rewritten are shown as they were.
    public func memory(at address: GuestPhysicalAddress, count: Int) -> [UInt8] {
        guard count > 0 else { return [] }
        var bytes: [UInt8] = []
        for region in machine.memory.regions
        where address.rawValue >= region.base.rawValue
            && address.rawValue - region.base.rawValue < region.lengthInBytes
        {
            let left = region.lengthInBytes - (address.rawValue - region.base.rawValue)
            let length = Int(min(left, UInt64(count)))
            do throws(GuestError) {
                bytes = try machine.memory.read(address, count: length)
            } catch { return [] }
        }
        OriginalBytes(rewrittenSites).restore(&bytes, at: address)
        return bytes
    }

    /// Instructions that were rewritten before the run began, and on the way.
    var rewrittenSites: [RewrittenSite] { reader.header.rewrittenSites + loop.rewrittenSites }

    /// The digest of all of RAM, as a trace's end has it.
    public mutating func memoryDigest() throws(ExecutionError) -> Digest128 {
        try machine.memoryDigest()
    }

    /// The digest of everything that decides what the guest does next: registers, the CPU's other
    /// state, and RAM.
    public mutating func stateDigest() throws(ExecutionError) -> Digest128 {
        let memory = try machine.memoryDigest()
        return try kvm { () throws(KVMError) in
            try MachineState(&machine.cpu, memory: memory).digest
        }
    }

    /// The next instruction's linear address.
    public var instructionAddress: GuestVirtualAddress { linearRIP }

    /// What is known of the run so far, and what it takes.
    public var keyframeSummary: KeyframeSummary {
        KeyframeSummary(
            count: keyframes.frames.count, byteCount: keyframes.byteCount,
            byteLimit: options.keyframeBytes, spacingNanoseconds: keyframes.spacing,
            last: keyframes.frames[keyframes.frames.count - 1].position)
    }
}

/// How many keyframes there are, and what they take.
public struct KeyframeSummary: Equatable, Sendable {
    /// Keyframes, the beginning among them.
    public var count: Int
    /// What they take in memory, in bytes.
    public var byteCount: Int
    /// What they may take.
    public var byteLimit: Int
    /// How close they are made, in nanoseconds of the guest's running.
    public var spacingNanoseconds: UInt64
    /// The last one.
    public var last: Position
}
