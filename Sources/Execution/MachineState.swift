internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Everything that decides what the guest does next, as landmarks compare it: registers, the CPU's
/// other state, and RAM.
struct MachineState {
    var registers: GeneralRegisters
    /// The digest of the CPU's other state.
    var processor: Digest128
    /// The digest of RAM.
    var memory: Digest128

    /// The machine as it stands; the CPU must be settled.
    init<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(KVMError) {
        try self.init(&cpu, memory: cpu.memoryDigest(memory))
    }

    /// The same, the digest of RAM being known.
    init<CPU: Processor & ~Copyable>(_ cpu: inout CPU, memory: Digest128) throws(KVMError) {
        // SAFETY: the page's registers do not change before the next run.
        registers = unsafe cpu.registersPointer.pointee
        processor = try cpu.stateDigest()
        self.memory = memory
    }

    /// What is known already.
    init(registers: GeneralRegisters, processor: Digest128, memory: Digest128) {
        self.registers = registers
        self.processor = processor
        self.memory = memory
    }

    /// The digest of the whole (FORMAT.md).
    var digest: Digest128 {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(32 + Register.allCases.count * 8)
        for register in Register.allCases {
            var value = registers[register]
            if register == .rflags { value &= ~LandmarkSearch.maskedFlags }
            bytes.append(word: value)
        }
        for half in [processor.low, processor.high, memory.low, memory.high] {
            bytes.append(word: half)
        }
        return Digest128(of: bytes)
    }

    /// The landmark that stands here.
    func landmark(progress: UInt64?, changedPages: [MemoryDigest.Page]?) -> Landmark {
        Landmark(
            registers: registers, state: digest, progress: progress,
            parts: LandmarkParts(
                processor: processor.low, memory: memory.low, pages: changedPages))
    }
}

extension [UInt8] {
    /// A number, little-endian.
    mutating func append(word: UInt64) {
        for shift in 0..<8 {
            append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8)))
        }
    }
}
