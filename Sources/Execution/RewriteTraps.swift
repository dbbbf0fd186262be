internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Which OUTs stand for an instruction that reads the outside world without an exit (DESIGN 3).
///
/// RDTSC (0F 31) and CPUID (0F A2) are rewritten to `out imm8, al` (E6 ib): two bytes for two. The
/// ports are chosen so that the image has no such OUT of its own.
public struct RewriteTraps: Equatable, Sendable {
    /// What an OUT stands for.
    enum Instruction: Sendable {
        case timeStamp
        case cpuid
    }

    /// The port of a rewritten RDTSC; nil: none is rewritten.
    var timeStampPort: UInt8?
    /// The port of a rewritten CPUID; nil: none is rewritten.
    var cpuidPort: UInt8?

    /// Nothing is rewritten.
    public init() {}

    /// Whether the port alone does not rule it out.
    @inline(__always)
    func mayBe(_ io: PortIO) -> Bool {
        guard io.port < 256, io.size == 1, io.count == 1 else { return false }
        let port = UInt8(truncatingIfNeeded: io.port)
        return port == timeStampPort || port == cpuidPort
    }

    /// What the OUT at an address stands for; nil where the guest itself meant the port, by DX.
    ///
    /// The bytes decide and not a list of places: code that the guest copies (alternatives) takes
    /// the trap along.
    func instruction(
        at rip: UInt64, _ io: PortIO, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> Instruction? {
        let port = UInt8(truncatingIfNeeded: io.port)
        let start = system.linearAddress(ofCode: rip).rawValue
        // Byte by byte, without the array that PageWalk.read makes: guests read the TSC in loops.
        guard Self.byte(at: start, system, memory) == Self.outOpcode,
            Self.byte(at: start &+ 1, system, memory) == port
        else { return nil }
        return port == timeStampPort ? .timeStamp : .cpuid
    }

    private static func byte(
        at linear: UInt64, _ system: SystemRegisters, _ memory: borrowing GuestMemory
    ) -> UInt8? {
        guard
            let place = PageWalk.translate(
                GuestVirtualAddress(linear), system: system, memory: memory),
            let host = unsafe memory.host(place.address, count: 1)
        else { return nil }
        // SAFETY: the host pointer covers the one byte.
        return unsafe host.load(as: UInt8.self)
    }

    /// The port that stands for the instruction 0F `second`; nil where it is not rewritten.
    func port(forSecondByte second: UInt8) -> UInt8? {
        switch second {
        case Self.secondOfRDTSC: timeStampPort
        case Self.secondOfCPUID: cpuidPort
        default: nil
        }
    }

    /// The first byte of RDTSC (0F 31) and CPUID (0F A2) (Intel SDM vol. 2).
    static let escape: UInt8 = 0x0F
    static let secondOfRDTSC: UInt8 = 0x31
    static let secondOfCPUID: UInt8 = 0xA2
    /// OUT imm8, AL (Intel SDM vol. 2, OUT).
    static let outOpcode: UInt8 = 0xE6
}

extension RewriteTraps {
    /// The traps that a trace's machine has.
    init(_ machine: MachineDescription) {
        func port(_ key: String) -> UInt8? {
            machine.properties.first { $0.key == key }.flatMap { UInt8($0.value) }
        }
        timeStampPort = port(Self.timeStampProperty)
        cpuidPort = port(Self.cpuidProperty)
    }

    /// How a trace keeps them, as properties of the machine.
    var properties: [Property] {
        var properties: [Property] = []
        if let timeStampPort {
            properties.append(Property(Self.timeStampProperty, "\(timeStampPort)"))
        }
        if let cpuidPort { properties.append(Property(Self.cpuidProperty, "\(cpuidPort)")) }
        return properties
    }

    private static let timeStampProperty = "rewrite.rdtsc-port"
    private static let cpuidProperty = "rewrite.cpuid-port"
}
