internal import Disassembly
internal import Guest
internal import Machine
internal import Trace

/// What a completion needs of the CPU beside registers.
public struct ExtendedState: Equatable, Sendable {
    /// The control and status register of SSE.
    public var mxcsr: UInt32
    /// Which bits of it may be set.
    public var mxcsrMask: UInt32
    /// The status word of the x87.
    public var x87Status: UInt16
    /// Extended control register 0.
    public var xcr0: UInt64

    /// Makes a state.
    public init(mxcsr: UInt32, mxcsrMask: UInt32, x87Status: UInt16, xcr0: UInt64) {
        self.mxcsr = mxcsr
        self.mxcsrMask = mxcsrMask
        self.x87Status = x87Status
        self.xcr0 = xcr0
    }
}

/// An instruction of ring 0 that KVM could not emulate and vmtape can carry out.
///
/// What it does is told as a list of changes, which the loop applies; nothing is changed here.
/// Where the instruction would fault, or its operand is not in RAM, there is no list.
struct InstructionCompletion {
    private enum Operation: Equatable {
        case bits(BitInstruction)
        case int3, ud2, mulx, cmpxchg16b, stac, clac, fwait, ldmxcsr, stmxcsr, xgetbv
        /// Nothing to be seen: fences and the like.
        case nothing
        /// As a read of one byte, of which nothing is to be seen.
        case cacheLine

        init?(_ mnemonic: String) {
            switch mnemonic {
            case "int3": self = .int3
            case "ud2": self = .ud2
            case "mulx": self = .mulx
            case "cmpxchg16b": self = .cmpxchg16b
            case "stac": self = .stac
            case "clac": self = .clac
            case "fwait": self = .fwait
            case "ldmxcsr": self = .ldmxcsr
            case "stmxcsr": self = .stmxcsr
            case "xgetbv": self = .xgetbv
            case "lfence", "mfence", "sfence", "endbr32", "endbr64", "cldemote": self = .nothing
            case "clflush", "clflushopt", "clwb": self = .cacheLine
            default:
                guard let bits = BitInstruction(rawValue: mnemonic) else { return nil }
                self = .bits(bits)
            }
        }
    }

    /// Vectors of exceptions that instructions raise by design.
    private enum Vector {
        static let breakpoint: UInt8 = 3
        static let invalidOpcode: UInt8 = 6
    }

    private let instruction: DecodedInstruction
    private let operation: Operation

    /// Recognises an instruction; nil where vmtape cannot carry it out.
    ///
    /// - Parameter bytes: code from the instruction on.
    init?(_ bytes: [UInt8], system: SystemRegisters) {
        guard system.cpl == 0, let decoded = Disassembler(for: system).decodeOperands(bytes),
            let operation = Operation(decoded.mnemonic)
        else { return nil }
        if system.mode == .real {
            if operation == .mulx { return nil }
            if case .bits(let bits) = operation, bits.isVEX { return nil }
        }
        instruction = decoded
        self.operation = operation
    }

    /// Whether ``changes(registers:system:extended:memory:)`` wants the extended state.
    var needsExtendedState: Bool {
        switch operation {
        case .fwait, .ldmxcsr, .stmxcsr, .xgetbv: true
        default: false
        }
    }

    /// What the instruction does.
    ///
    /// - Parameter registers: with RIP at the instruction.
    /// - Returns: nil where it would fault, reaches for something that is no RAM, or is stepped.
    func changes(
        registers before: GeneralRegisters, system: SystemRegisters, extended: ExtendedState?,
        memory: borrowing GuestMemory
    ) -> [Change]? {
        // A step's trap after it would be ours to raise.
        guard before.rflags & FlagBits.trap == 0 else { return nil }
        var work = Work(instruction: instruction, before: before, system: system)
        guard carryOut(&work, extended, memory) else { return nil }
        return work.allChanges()
    }

    private func carryOut(
        _ work: inout Work, _ extended: ExtendedState?, _ memory: borrowing GuestMemory
    ) -> Bool {
        switch operation {
        case .nothing: return true
        case .int3:
            work.event = .event(.exception, vector: Vector.breakpoint, errorCode: nil)
            return true
        case .ud2:
            // A fault: RIP stays, and RF is set in what is pushed (Intel SDM vol. 3, 18.3.1.1).
            work.after.rip = work.before.rip
            work.after.rflags |= FlagBits.resume
            work.event = .event(.exception, vector: Vector.invalidOpcode, errorCode: nil)
            return true
        case .stac:
            work.after.rflags |= FlagBits.alignment
            return true
        case .clac:
            work.after.rflags &= ~FlagBits.alignment
            return true
        case .cacheLine: return work.touch(0, memory)
        case .bits(let bits): return carryOut(bits, &work, memory)
        case .mulx:
            guard let factor = work.read(2, memory) else { return false }
            let width = work.width(2)
            let other = work.before[.rdx] & (width == 32 ? 0xFFFF_FFFF : .max)
            let product = other.multipliedFullWidth(by: factor)
            let high = width == 32 ? product.low >> 32 : product.high
            let low = width == 32 ? product.low & 0xFFFF_FFFF : product.low
            // The low half first: where both go to one register, the high half stays.
            return work.write(1, low, memory) && work.write(0, high, memory)
        case .cmpxchg16b: return work.compareAndExchange(memory)
        case .fwait:
            // #NM, or #MF.
            let isWatched = work.system[.cr0] & (1 << 1 | 1 << 3) == 1 << 1 | 1 << 3
            guard !isWatched, let extended else { return false }
            return extended.x87Status & 0x80 == 0
        case .ldmxcsr:
            guard let extended, work.canUseSSE, let value = work.read(0, memory),
                UInt32(truncatingIfNeeded: value) & ~extended.mxcsrMask == 0
            else { return false }
            let bytes = (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
            work.others.append(.extendedState(offset: XSaveLayout.mxcsr, bytes))
            return true
        case .stmxcsr:
            guard let extended, work.canUseSSE else { return false }
            return work.write(0, UInt64(extended.mxcsr), memory)
        case .xgetbv:
            guard let extended, work.system[.cr4] & (1 << 18) != 0,
                work.before[.rcx] & 0xFFFF_FFFF == 0
            else { return false }
            work.after[.rax] = extended.xcr0 & 0xFFFF_FFFF
            work.after[.rdx] = extended.xcr0 >> 32
            return true
        }
    }

    private func carryOut(
        _ bits: BitInstruction, _ work: inout Work, _ memory: borrowing GuestMemory
    ) -> Bool {
        guard instruction.operands.count == bits.operandCount else { return false }
        let first = bits.readsDestination ? 0 : 1
        guard let a = work.read(first, memory) else { return false }
        var b: UInt64 = 0
        if first + 1 < bits.operandCount {
            guard let second = work.read(first + 1, memory) else { return false }
            b = second
        }
        let width = work.width(bits == .crc32 ? 1 : 0)
        let result = bits.compute(a, b, width: width, flags: &work.after.rflags)
        return work.write(0, result, memory)
    }
}

/// Where things are in an XSAVE area (Intel SDM vol. 1, 13.4).
enum XSaveLayout {
    static let x87Status: UInt32 = 2
    static let mxcsr: UInt32 = 24
    static let mxcsrMask: UInt32 = 28
    /// The end of what x87 and SSE have in it.
    static let legacyEnd: UInt32 = 512
    /// Which components hold something else than their initial state.
    static let stateBits: UInt32 = 512
    /// The mask where an area shows 0 (Intel SDM vol. 1, 11.6.6).
    static let usualMXCSRMask: UInt32 = 0xFFBF
}
