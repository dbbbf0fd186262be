public import Machine

/// What can be asked with `monitor` beyond what the debugger itself can do.
public enum MonitorCommand: Equatable, Sendable {
    /// `when [exact]`: the position. Deep in ring 3 only `exact` counts how many steps it is.
    case when(isExact: Bool)
    /// `goto POSITION`, `goto begin`, `goto end`: move there.
    case goTo(Destination)
    /// `exits [RANGE]`: list exits; nil: those around the position.
    case exits(ClosedRange<UInt64>?)
    /// `exit N`: all about one exit.
    case exit(UInt64)
    /// `next io [PORT]`: forward to just after the next exit of port I/O; nil: any port.
    case nextIO(port: UInt16?)
    /// `prev io [PORT]`: back likewise.
    case previousIO(port: UInt16?)
    /// `checkpoint`: keep the machine as it is here, so that coming back is quick.
    case checkpoint
    /// `last-write ADDRESS[,LENGTH]`: back to the instruction that last wrote there. The length is
    /// 1 to ``Limits/watchedBytes`` and does not wrap round the end of memory.
    case lastWrite(address: UInt64, length: UInt64)
    /// `disassemble [ADDRESS] [COUNT]`: instructions as the CPU's mode reads them; nil: from RIP.
    case disassemble(address: UInt64?, count: UInt64)
    /// `registers`: all of them, those included that the debugger has no name for.
    case registers
    /// `info`: what trace this is.
    case info
}

/// What a target says to a ``MonitorCommand``.
public struct MonitorReply: Equatable, Sendable {
    /// Shown as it is; lines end with a newline, the last one may lack it.
    public var text: String
    /// Whether the machine stands elsewhere now, so that what the debugger remembers of it is old.
    public var didMove: Bool

    /// Makes an answer.
    public init(_ text: String, didMove: Bool = false) {
        self.text = text
        self.didMove = didMove
    }
}
