public import Machine
public import Trace

/// One numbered exit with all that belongs to it: its registers, what the guest sent, and what
/// happened before the next exit.
///
/// A value that a ``FrameReader`` fills anew for each exit; it refers to no block, so it may be kept.
public struct ExitFrame: Sendable {
    /// The exit's number, from 0.
    public internal(set) var number: UInt64 = 0
    /// The vCPU that exited.
    public internal(set) var vCPU: UInt8 = 0
    /// What the exit was. Ranges in it have lost their block: ``sent`` holds the bytes.
    public internal(set) var detail = ExitDetail<Range<Int>>.other(.unknown, data: 0..<0)
    /// Flags of the exit.
    public internal(set) var flags: ExitFlags = []
    /// RIP minus the address of the instruction that caused the exit, in bytes.
    public internal(set) var rewind: UInt8 = 0
    /// Bit n: register n (``Register``) differs from the exit before.
    public internal(set) var changedRegisters: UInt32 = 0
    /// Bit n: word n of ``SystemRegisters`` differs from the exit before.
    public internal(set) var changedSystemWords: UInt64 = 0
    /// The 18 general registers as KVM reported them.
    public internal(set) var registers = GeneralRegisters()
    /// The system registers.
    public internal(set) var system = SystemRegisters()
    /// ``SystemRegisters/mode`` and ``SystemRegisters/cpl`` of ``system``.
    public internal(set) var mode = CPUMode.real
    /// Current privilege level, 0 to 3.
    public internal(set) var cpl: UInt8 = 0
    /// What the guest sent: bytes of an OUT, an MMIO write, a WRMSR's value.
    public internal(set) var sent = ExitData()
    /// What the world gave back, where it answered.
    public internal(set) var answer = ExitData()
    /// What the bytes of ``answer`` are; nil without an answer.
    public internal(set) var answerForm: AnswerForm?
    /// Everything else that happened before the next exit, in order.
    public internal(set) var events: [FrameEvent] = []
    /// Bit n is set where an event of place n is among ``events`` or answers: the order of the
    /// filter's names (answer, completion, interruption, device write, end).
    var eventMask: UInt8 = 0
    /// Host times; nil in a trace without timing.
    public internal(set) var time: FrameTime?

    /// Makes an empty frame for a reader to fill.
    public init() {}

    /// The address of the instruction that caused the exit: an offset in CS.
    public var instructionAddress: UInt64 { registers.rip &- UInt64(rewind) }

    /// The exit's reason.
    public var reason: ExitReason { detail.reason }

    /// The linear address of the instruction that caused the exit.
    public var linearAddress: UInt64 {
        let base = system.words[SystemRegisters.SegmentName.cs.rawValue * 3]
        return mode.linearAddress(ofCode: instructionAddress, base: base).rawValue
    }

    /// Whether vmtape rewrote the instruction that was about to be executed here; the completion
    /// among ``events`` has the bytes.
    public var isRewriting: Bool {
        guard flags.contains(.rewrittenInstruction), case .debug = detail else { return false }
        return true
    }

    /// The bytes that went to or came from the guest: ``sent``, and ``answer`` where the exit
    /// asked for bytes.
    public var data: ExitData { detail.isOutput || answerForm == nil ? sent : answer }
}

/// Something that happened between an exit and the next one.
public enum FrameEvent: Equatable, Sendable {
    /// What the runner did in the CPU's place.
    case completion([Change])
    /// What was injected.
    case interruption(Interruption)
    /// The machine at the place of the interruption before, which is stored.
    case stored([Change])
    /// Bytes that a device put in RAM.
    case deviceWrite(address: GuestPhysicalAddress, bytes: [UInt8])
    /// The end of the run, with the final registers.
    case end(EndEvent, GeneralRegisters)
}

/// When an exit happened, in nanoseconds of host time.
public struct FrameTime: Equatable, Sendable {
    /// From the start of the recording to this exit.
    public var sinceStart: UInt64
    /// In the guest, before this exit.
    public var guest: UInt64
    /// In the runner, from this exit until the guest went on.
    public var vmm: UInt64

    /// Makes a time.
    public init(sinceStart: UInt64, guest: UInt64, vmm: UInt64) {
        self.sinceStart = sinceStart
        self.guest = guest
        self.vmm = vmm
    }
}
