public import KVM
public import Machine

/// A vCPU as the loop drives it: KVM's in earnest, a scripted one in tests.
///
/// The requirements are those of ``KVM/PendingCPU``, whose documentation they share.
public protocol Processor: ~Copyable {
    /// Runs the guest until it exits or is interrupted.
    mutating func run() throws(KVMError) -> RunResult
    /// The same, with the exits that come by the million apart from the others.
    mutating func run(other: inout Exit) throws(KVMError) -> RunStep
    /// The registers at the last exit; valid until the next run.
    var registersPointer: UnsafePointer<GeneralRegisters> { get }
    /// Segment and control registers at the last exit; valid until the next run.
    var systemRegistersPointer: UnsafePointer<SystemRegisters> { get }
    /// The bytes of the last port access, `size * count` of them.
    mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result
    /// The bytes of the last MMIO access as a little-endian number.
    var mmioValue: UInt64 { get set }
    /// Answers an MSR access.
    mutating func answerMSR(_ value: UInt64, fault: Bool)
    /// The payload of the last exit, whatever its reason.
    func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result
    /// Withdraws a kick; whether there was one.
    mutating func acknowledgeKick() -> Bool
}

extension PendingCPU: Processor {}

extension Processor where Self: ~Copyable {
    /// By ``run()``.
    public mutating func run(other: inout Exit) throws(KVMError) -> RunStep {
        switch try run() {
        case .interrupted: return .interrupted
        case .exit(.io(let io)): return .io(io)
        case .exit(.mmio(let mmio)): return .mmio(mmio)
        case .exit(let exit):
            other = exit
            return .other
        }
    }
}
