public import Machine

/// One decoded instruction, as text and as facts.
public struct Instruction: Equatable, Sendable {
    /// Where its first byte is. Branch targets in ``text`` count from here.
    public var address: GuestVirtualAddress
    /// Its bytes, prefixes included: 1–15 of them. One byte where ``kind`` is ``Kind/bad``.
    public var bytes: [UInt8]
    /// The instruction in the syntax that was asked for; `(bad)` where there is none.
    public var text: String
    /// The mnemonic alone, in lower case; empty where ``kind`` is ``Kind/bad``.
    public var mnemonic: String
    /// What sort of instruction it is, as far as vmtape tells them apart.
    public var kind: Kind
    /// Whether it has a REP, REPE or REPNE prefix that takes effect.
    public var isRepeated: Bool
    /// What it does to a port; nil where ``kind`` is not one of the four port kinds.
    public var portAccess: PortAccess?
    /// Where a direct branch goes, or the address of a RIP-relative operand.
    public var target: GuestVirtualAddress?

    /// Its length in bytes.
    public var length: Int { bytes.count }

    /// A sort of instruction; the raw value is the name shown to people.
    public enum Kind: String, CaseIterable, Sendable {
        /// IN: one access, the port in DX or in the instruction.
        case portIn = "in"
        /// OUT: one access, the port in DX or in the instruction.
        case portOut = "out"
        /// INS: a port into memory, the port in DX.
        case portInString = "ins"
        /// OUTS: memory to a port, the port in DX.
        case portOutString = "outs"
        case hlt, cpuid, rdtsc, rdtscp, rdrand, rdseed, rdpmc, rdmsr, wrmsr
        case int3, int, iret, syscall, sysret, call, ret, jmp
        /// Any other instruction.
        case other
        /// No instruction: the bytes are none, or end before it does.
        case bad
    }
}

/// What an IN, OUT, INS or OUTS does.
public struct PortAccess: Equatable, Sendable {
    /// Whether the CPU reads or writes the port.
    public var direction: Direction
    /// Bytes per access: 1, 2 or 4.
    public var sizeInBytes: Int
    /// The port that the instruction names; nil where DX does.
    public var port: UInt8?
    /// Whether the bytes come from or go to memory.
    public var isString: Bool

    /// Which way the bytes go.
    public enum Direction: String, Sendable {
        /// From the port to the CPU.
        case input = "in"
        /// From the CPU to the port.
        case output = "out"
    }

    /// Makes a description of an access.
    public init(direction: Direction, sizeInBytes: Int, port: UInt8?, isString: Bool) {
        self.direction = direction
        self.sizeInBytes = sizeInBytes
        self.port = port
        self.isString = isString
    }
}
