/// Which registers a dump shows.
public enum ShownRegisters: String, CaseIterable, Sendable {
    /// No registers.
    case none
    /// Those that differ from the exit before.
    case changed
    /// The general registers at every exit, and the system registers that differ.
    case all
}

/// What a dump shows of each exit.
public struct DumpOptions: Sendable {
    /// Registers.
    public var registers: ShownRegisters
    /// The instruction that caused the exit, from this code; nil for none.
    public var code: CodeBytes?
    /// Host times, where the trace has them.
    public var showsTime: Bool

    /// Makes options.
    public init(
        registers: ShownRegisters = .none, code: CodeBytes? = nil, showsTime: Bool = true
    ) {
        self.registers = registers
        self.code = code
        self.showsTime = showsTime
    }
}
