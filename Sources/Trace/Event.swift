public import Machine

/// What kind of event a row holds; the raw value is the row's first byte without its bit 7.
public enum EventKind: UInt8, CaseIterable, Sendable {
    /// The initial state of a vCPU.
    case start = 1
    /// A numbered exit.
    case exit = 2
    /// What the world gave back for the exit before it.
    case answer = 3
    /// What the runner did in the CPU's place.
    case completion = 4
    /// An interrupt, NMI or exception that was injected.
    case interruption = 5
    /// Bytes that a device put in RAM.
    case deviceWrite = 6
    /// The end of the run.
    case end = 7
}

/// An event as it was read.
///
/// `Range<Int>` values are places in the bytes the event was read from: the rows of a
/// ``DecodedBlock``, or a ``TapeRow``. Registers are not in here: see ``EventCursor``.
public enum Event: Equatable, Sendable {
    /// The vCPU's initial registers, which the cursor shows.
    case start
    /// A numbered exit; the cursor shows its registers.
    case exit(ExitEvent)
    /// What the world gave back for the exit before it.
    case answer(AnswerForm, data: Range<Int>)
    /// What the runner did in the CPU's place: see ``RowReader/changes(in:)``.
    case completion(changes: Range<Int>)
    /// What was injected; where it stood in mid-flight, ``EventCursor/interruption`` tells. (A landmark is
    /// too large to be carried by every event.)
    case interruption(
        InterruptionKind, vector: UInt8, errorCode: UInt32?, isInMidFlight: Bool)
    /// Bytes that a device put in RAM.
    case deviceWrite(address: GuestPhysicalAddress, data: Range<Int>)
    /// The end of the run; the cursor shows the final registers.
    case end(EndEvent)

    /// Which kind of event it is.
    public var kind: EventKind {
        switch self {
        case .start: .start
        case .exit: .exit
        case .answer: .answer
        case .completion: .completion
        case .interruption: .interruption
        case .deviceWrite: .deviceWrite
        case .end: .end
        }
    }
}

/// A numbered exit as it was read.
public struct ExitEvent: Equatable, Sendable {
    /// Reason and data; ranges are places in the bytes the event was read from.
    public var detail: ExitDetail<Range<Int>>
    /// Flags of the exit.
    public var flags: ExitFlags
    /// RIP minus the address of the instruction that caused the exit, in bytes.
    public var rewind: UInt8
    /// Bit n: register n (``Register``) differs from the snapshot before.
    public var changedRegisters: UInt32
    /// Bit n: word n of ``SystemRegisters`` differs from the snapshot before.
    public var changedSystemWords: UInt64
    /// RIP as KVM reported it.
    public var rip: UInt64

    /// The exit's reason.
    public var reason: ExitReason { detail.reason }
    /// The address of the instruction that caused the exit (an offset in CS).
    public var instructionAddress: UInt64 { rip &- UInt64(rewind) }
}

/// What an answer's bytes are.
public struct AnswerForm: RawRepresentable, Hashable, Sendable {
    /// The number in the row.
    public var rawValue: UInt8

    /// Makes a form of its number; every number is a valid one.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The bytes of an IN or INS: size × count of the exit, at most 4096.
    public static let io = AnswerForm(rawValue: 1)
    /// The bytes of an MMIO read: the exit's length.
    public static let mmio = AnswerForm(rawValue: 2)
    /// An MSR access: a u8 (0 done, 1 the guest gets #GP) and the u64 value of a RDMSR.
    public static let msr = AnswerForm(rawValue: 3)
    /// A hypercall: the u64 return value.
    public static let hypercall = AnswerForm(rawValue: 4)
    /// A rewritten RDTSC: the u64 counter.
    public static let timeStamp = AnswerForm(rawValue: 5)
    /// A rewritten CPUID: EAX, EBX, ECX, EDX as u32.
    public static let cpuid = AnswerForm(rawValue: 6)
    /// Anything else.
    public static let other = AnswerForm(rawValue: 255)
}

/// One thing the runner changed in the CPU's place.
public enum Change: Equatable, Sendable {
    /// A general-purpose register, RIP or RFLAGS got this value.
    case register(Register, UInt64)
    /// A word of ``SystemRegisters`` (0 to 38) got this value.
    case systemWord(UInt8, UInt64)
    /// An event was injected through `kvm_vcpu_events`.
    case event(InterruptionKind, vector: UInt8, errorCode: UInt32?)
    /// A model-specific register got this value.
    case msr(index: UInt32, UInt64)
    /// Bytes of the XSAVE area changed, at this offset in it.
    case extendedState(offset: UInt32, [UInt8])
    /// Bytes of RAM changed.
    case memory(GuestPhysicalAddress, [UInt8])
    /// A word of `kvm_debugregs` (0 to 15) got this value: DR0–DR3, DR6, DR7 and KVM's flags.
    case debugWord(UInt8, UInt64)
    /// An extended control register got this value; 0 is XCR0.
    case extendedControl(index: UInt32, UInt64)
    /// All of RAM became zero.
    case noMemory
}

/// What kind of interruption was injected; the raw value is the interruption type of VMX
/// (Intel SDM vol. 3, table 25-17).
public enum InterruptionKind: UInt8, Sendable {
    /// An external interrupt.
    case external = 0
    /// A non-maskable interrupt.
    case nmi = 2
    /// An exception.
    case exception = 3
}

/// Something that was injected.
public struct Interruption: Equatable, Sendable {
    /// Its kind.
    public var kind: InterruptionKind
    /// Its vector, 0 to 255.
    public var vector: UInt8
    /// The error code of an exception that has one.
    public var errorCode: UInt32?
    /// Where in mid-flight; nil when it stands at the exit before it.
    public var landmark: Landmark?

    /// Makes an interruption.
    public init(
        _ kind: InterruptionKind, vector: UInt8, errorCode: UInt32? = nil,
        landmark: Landmark? = nil
    ) {
        self.kind = kind
        self.vector = vector
        self.errorCode = errorCode
        self.landmark = landmark
    }
}

/// A position between two exits, known by the state of the whole machine.
public struct Landmark: Equatable, Sendable {
    /// General-purpose registers, RIP and RFLAGS there.
    public var registers: GeneralRegisters
    /// Digest of the whole state.
    public var state: Digest128
    /// The host's progress counter there, where it has one.
    public var progress: UInt64?
    /// Instructions since the exit before, where they were counted.
    public var instructions: UInt64?
    /// What tells why a place is not the landmark's; nil in traces of earlier versions.
    public var parts: LandmarkParts?
    /// No replay would find the place: the trace holds the machine as it was there.
    public var stored: StoredPlace?

    /// Makes a landmark.
    public init(
        registers: GeneralRegisters, state: Digest128, progress: UInt64? = nil,
        instructions: UInt64? = nil, parts: LandmarkParts? = nil
    ) {
        self.registers = registers
        self.state = state
        self.progress = progress
        self.instructions = instructions
        self.parts = parts
    }
}

/// How the machine is stored as it was at a landmark.
public struct StoredPlace: Equatable, Sendable {
    /// So many completions that follow the interruption put the machine there, from where it was at
    /// the row before.
    public var rowCount: UInt16
    /// CR8 there: devices that are run again must know it before they are asked for the interrupt.
    public var taskPriorityClass: UInt8

    /// Makes one of its values.
    public init(rowCount: UInt16, taskPriorityClass: UInt8) {
        self.rowCount = rowCount
        self.taskPriorityClass = taskPriorityClass
    }
}

/// What a landmark's state is made of beside registers: a replay that does not find the landmark
/// tells by it what differs.
public struct LandmarkParts: Equatable, Sendable {
    /// How many pages are told at most: those of the lowest numbers.
    public static let pageLimit = 64

    /// The low half of the digest of the CPU's other state.
    public var processor: UInt64
    /// The low half of the digest of RAM.
    public var memory: UInt64
    /// The pages that hold something else than at the landmark before, by ascending number; of hash
    /// 0 where all zero now. Nil at the first landmark, where nobody knows.
    public var pages: [MemoryDigest.Page]?

    /// Makes them of their values; of more pages than the limit the first are kept.
    public init(processor: UInt64, memory: UInt64, pages: [MemoryDigest.Page]?) {
        self.processor = processor
        self.memory = memory
        self.pages = pages.map { Array($0.prefix(Self.pageLimit)) }
    }
}

/// Why a run ended; the raw value is the number in the row.
public struct EndReason: RawRepresentable, Hashable, Sendable {
    /// The number in the row.
    public var rawValue: UInt8

    /// Makes a reason of its number; every number is a valid one.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// HLT with nothing that could wake the CPU.
    public static let halted = EndReason(rawValue: 1)
    /// A triple fault.
    public static let shutdown = EndReason(rawValue: 2)
    /// The guest asked for a reset.
    public static let reset = EndReason(rawValue: 3)
    /// A write to the debug-exit device; the guest's status is known.
    public static let debugExit = EndReason(rawValue: 4)
    /// The guest powered the machine off.
    public static let powerOff = EndReason(rawValue: 5)
    /// The limit on exits was reached.
    public static let exitLimit = EndReason(rawValue: 6)
    /// The limit on time was reached.
    public static let timeLimit = EndReason(rawValue: 7)
    /// The limit on the trace's size was reached.
    public static let sizeLimit = EndReason(rawValue: 8)
    /// The user ended the run.
    public static let interrupted = EndReason(rawValue: 9)
    /// KVM gave up: KVM_EXIT_INTERNAL_ERROR.
    public static let internalError = EndReason(rawValue: 10)
    /// The hardware refused to enter the guest.
    public static let failEntry = EndReason(rawValue: 11)
    /// The runner could not go on.
    public static let runnerError = EndReason(rawValue: 12)
    /// An exit that the runner cannot handle.
    public static let unhandledExit = EndReason(rawValue: 13)
    /// The guest made no progress that its clock could see.
    public static let stalled = EndReason(rawValue: 14)

    private static let names: [String] = [
        "unknown", "halted", "shutdown", "reset", "debug_exit", "power_off", "exit_limit",
        "time_limit", "size_limit", "interrupted", "internal_error", "fail_entry",
        "runner_error", "unhandled_exit", "stalled",
    ]

    /// A stable name: `halted`, `debug_exit`; `end_N` for a number without one.
    public var name: String {
        rawValue != 0 && Int(rawValue) < Self.names.count
            ? Self.names[Int(rawValue)] : "end_\(rawValue)"
    }
}

/// The end of a run, as the recorder gives it.
public struct EndRecord: Equatable, Sendable {
    /// Why it ended.
    public var reason: EndReason
    /// The guest's own status, where it gave one.
    public var guestStatus: Int32?
    /// The run ended between two exits (it was kicked) and not at one.
    public var isInMidFlight: Bool
    /// Final general-purpose registers, RIP and RFLAGS.
    public var registers: GeneralRegisters
    /// Final system registers.
    public var system: SystemRegisters
    /// The vCPU that the registers are of.
    public var vCPU: UInt8

    /// Makes the end of a run.
    public init(
        reason: EndReason, guestStatus: Int32? = nil, isInMidFlight: Bool = false,
        registers: GeneralRegisters, system: SystemRegisters, vCPU: UInt8 = 0
    ) {
        self.reason = reason
        self.guestStatus = guestStatus
        self.isInMidFlight = isInMidFlight
        self.registers = registers
        self.system = system
        self.vCPU = vCPU
    }
}

/// The end of a run, as it was read.
public struct EndEvent: Equatable, Sendable {
    /// Why it ended.
    public var reason: EndReason
    /// The guest's own status, where it gave one.
    public var guestStatus: Int32?
    /// The run ended between two exits (it was kicked) and not at one.
    public var isInMidFlight: Bool
    /// The digest of RAM at the end, where it was taken.
    public var memory: Digest128?
}
