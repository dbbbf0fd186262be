/// How a machine is to move.
public enum ResumeAction: Equatable, Sendable {
    /// Forward until something stops it.
    case `continue`
    /// One instruction forward.
    case step
    /// Forward while RIP, as a linear address, is in the range; at least one instruction.
    case stepWhileIn(Range<UInt64>)
    /// Back until something stops it.
    case reverseContinue
    /// One instruction back.
    case reverseStep

    /// Whether time runs back.
    public var isReverse: Bool { self == .reverseContinue || self == .reverseStep }
}

/// Why a machine stopped.
public enum StopReason: Equatable, Sendable {
    /// It stepped as asked.
    case step
    /// It stands at a breakpoint of this kind.
    case breakpoint(Breakpoint.Kind)
    /// Memory that is watched was touched: the watchpoint's kind, and the first watched byte that
    /// was touched.
    case watchpoint(Breakpoint.Kind, address: UInt64)
    /// The recording has nothing before.
    case historyBegin
    /// The recording has nothing after, or the live run has ended.
    case historyEnd
    /// The interrupt flag was raised.
    case interrupted
    /// The replay does not do what the recording did; the text says what, in one line.
    case divergence(String)
}

/// A stop: why, on which vCPU, and what else a person should know.
public struct StopEvent: Equatable, Sendable {
    /// Why it stopped.
    public var reason: StopReason
    /// The vCPU that stopped.
    public var thread: DebugThread.ID
    /// Shown on the debugger's console before the stop; empty: nothing.
    public var note: String

    /// Makes a stop.
    public init(_ reason: StopReason, thread: DebugThread.ID = 1, note: String = "") {
        self.reason = reason
        self.thread = thread
        self.note = note
    }
}
