/// A debugger's conversation without a connection: bytes in, bytes out. For tests and fuzzing, and
/// for whoever has a transport of his own.
public struct Conversation: ~Copyable {
    private var session = Session()
    private var deframer = Deframer()

    /// How it ended; nil: it goes on.
    public private(set) var ending: SessionEnding?

    /// A debugger that has said nothing yet.
    public init() {}

    /// Takes bytes of the debugger's, does what they ask for, and gives the answer's bytes.
    ///
    /// What comes after the end is ignored. ^C has no effect: nothing runs when it is read.
    ///
    /// - Parameter interrupt: given to the target as it is; never lowered.
    public mutating func receive<Target: DebugTarget & ~Copyable>(
        _ bytes: some Sequence<UInt8>, _ target: inout Target, until interrupt: InterruptFlag
    ) -> [UInt8] {
        for byte in bytes where ending == nil {
            guard let event = deframer.take(byte) else { continue }
            switch session.take(event, &target) {
            case .wait: break
            case .work(let work): session.perform(work, &target, until: interrupt)
            case .end(let ending): self.ending = ending
            }
        }
        defer { session.output.removeAll() }
        return session.output
    }

    /// Takes the debugger's breakpoints out of the target.
    public mutating func close<Target: DebugTarget & ~Copyable>(_ target: inout Target) {
        session.close(&target)
        if ending == nil { ending = session.judged(.disconnected) }
    }
}
