internal import KVM
public import Machine
public import Trace

/// Who listens to a run: nobody, the recorder, or the verifier of a replay.
///
/// Called on the vCPU thread, in the order in which things happen. Pointers are valid during the
/// call. Returning false ends the run.
public protocol RunListener: ~Copyable {
    /// Whether anybody listens: else exits are not prepared for it, and the vCPU need not keep
    /// system registers at hand.
    static var isListening: Bool { get }

    /// A numbered exit.
    ///
    /// - Parameters:
    ///   - detail: reason, and what the guest asked or sent.
    ///   - flags: what else is to be known of it.
    ///   - rewind: bytes from the start of the causing instruction to RIP.
    ///   - entered: host time-stamp counter before KVM_RUN.
    ///   - returned: the same after it.
    mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool

    /// What the world gave back for the exit before.
    mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool

    /// The instruction of the exit before was completed; these are the changes.
    mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool

    /// A device puts bytes in RAM at the exit before.
    mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool

    /// An interrupt is about to be injected at the exit before.
    mutating func interruption(_ interruption: Interruption) throws(ExecutionError) -> Bool

    /// The world took something from outside, beside what the guest gets of it.
    mutating func arrival(_ event: WorldEvent) throws(ExecutionError)
}

extension RunListener where Self: ~Copyable {
    /// The host's time-stamp counter, as an exit is told with it; 0 where nobody listens.
    @inline(__always)
    static var timestamp: UInt64 { isListening ? HostThread.timestamp() : 0 }
}

/// Nobody listens: `vmtape run`.
public struct NoListener: RunListener {
    /// Nobody.
    @inline(__always)
    public static var isListening: Bool { false }

    /// Makes a listener that ignores everything.
    public init() {}

    /// Ignores the exit.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool { true }

    /// Ignores the answer.
    @inline(__always)
    public mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool { true }

    /// Ignores the completion.
    public mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool { true }

    /// Ignores the write.
    public mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool { true }

    /// Ignores the interrupt.
    public mutating func interruption(
        _ interruption: Interruption
    ) throws(ExecutionError) -> Bool { true }

    /// Ignores what arrived.
    public mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {}
}
