internal import Disassembly
internal import KVM
public import Machine
internal import Trace

/// What came of a run.
public struct RunReport: Sendable {
    /// How it ended.
    public var outcome: LoopOutcome
    /// Numbered exits.
    public var exitCount: UInt64
    /// Time from the first instruction to the last exit.
    public var nanoseconds: UInt64
    /// Of that, what the vCPU thread was on a CPU, guest included; 0 where it was not measured.
    public var nanosecondsOnCPU: UInt64 = 0
    /// Registers at the end.
    public var registers: GeneralRegisters
    /// System registers at the end.
    public var systemRegisters: SystemRegisters
    /// What the CPU could not go on with; nil where it stopped in good order.
    public var fault: CPUFault?
    /// What interrupts in mid-flight took.
    public var midFlight = MidFlightCounts()

    /// The ending as a trace records it.
    public var ending: Ending {
        switch outcome {
        case .ended(let ending): ending
        case .exitLimit: Ending(.exitLimit)
        case .stopped(let reason, let isInMidFlight):
            switch reason {
            case .user: Ending(.interrupted, isInMidFlight: isInMidFlight)
            case .timeLimit: Ending(.timeLimit, isInMidFlight: isInMidFlight)
            case .sizeLimit: Ending(.sizeLimit, isInMidFlight: isInMidFlight)
            }
        case .endOfTape, .endedByListener: Ending(.runnerError)
        }
    }
}

/// Why the CPU cannot go on: what a person needs to see of an internal error, a triple fault or an
/// exit nobody can answer.
public struct CPUFault: Sendable {
    /// One line: what happened.
    public var summary: String
    /// Address of the instruction, where one is at fault.
    public var instructionAddress: GuestVirtualAddress?
    /// Its bytes as KVM delivered them or as memory holds them; empty where neither is known.
    public var instructionBytes: [UInt8]
    /// Its disassembly.
    public var disassembly: String?

    /// Makes sense of the exit that ended a run; nil for one that is no fault.
    ///
    /// - Parameter readCode: guest memory at a linear address.
    init?(
        _ exit: Exit?, registers: GeneralRegisters, system: SystemRegisters,
        readCode: (GuestVirtualAddress) -> [UInt8]
    ) {
        guard let exit else { return nil }
        let rip = system.linearAddress(ofCode: registers.rip)
        instructionAddress = rip
        instructionBytes = []
        switch exit {
        case .internalError(let error):
            instructionBytes = error.instructionBytes
            summary =
                switch error.suberror {
                case 1: "KVM cannot emulate an instruction of the guest"
                case 2: "KVM met simultaneous exceptions"
                case 3: "KVM could not deliver an event to the guest"
                case 4: "KVM met a hardware exit it does not know"
                default: "KVM reports internal error \(error.suberror)"
                }
        case .shutdown: summary = "triple fault: the guest's CPU shut down"
        case .failEntry(let hardwareReason, _):
            summary =
                "the hardware refused to enter the guest (reason 0x"
                + String(hardwareReason, radix: 16) + "): its registers are not a valid state"
        case .io, .mmio, .hlt, .rdmsr, .wrmsr, .systemEvent: return nil
        default:
            summary =
                "KVM_EXIT \(exit.reason.name) (\(exit.reason.rawValue)), "
                + "which vmtape cannot answer"
        }
        if instructionBytes.isEmpty { instructionBytes = readCode(rip) }
        guard
            let instruction = Disassembler(for: system).decode(instructionBytes, at: rip)
        else { return }
        disassembly = instruction.text
        instructionBytes = Array(instructionBytes.prefix(instruction.length))
    }
}
