public import Guest
public import KVM
public import Threads
public import Trace

/// Why a run could not begin or go on. The description is one line for a person.
///
/// A divergence is not among these: it is a result (``ReplayDivergence``).
public enum ExecutionError: Error, CustomStringConvertible {
    /// The kernel refused something.
    case kvm(KVMError)
    /// The trace could not be written or read.
    case trace(TraceError)
    /// The guest's image or memory is at fault.
    case guest(GuestError)
    /// A thread beside the guest's could not be started.
    case thread(ThreadError)
    /// The trace cannot be replayed: what is missing or differs, and what to do.
    case cannotReplay(String)

    /// What is wrong, where, and what to do.
    public var description: String {
        switch self {
        case .kvm(let error): error.description
        case .trace(let error): error.description
        case .guest(let error): error.description
        case .thread(let error): error.description
        case .cannotReplay(let message): message
        }
    }
}

/// Runs something of KVM's and passes its error on as ours.
func kvm<Result: ~Copyable>(
    _ body: () throws(KVMError) -> Result
) throws(ExecutionError) -> Result {
    do throws(KVMError) { return try body() } catch { throw .kvm(error) }
}

/// Runs something of the trace's and passes its error on as ours.
@inline(__always)
func trace<Result: ~Copyable>(
    _ body: () throws(TraceError) -> Result
) throws(ExecutionError) -> Result {
    do throws(TraceError) { return try body() } catch { throw .trace(error) }
}

/// Runs something of the guest's loading and passes its error on as ours.
func guest<Result: ~Copyable>(
    _ body: () throws(GuestError) -> Result
) throws(ExecutionError) -> Result {
    do throws(GuestError) { return try body() } catch { throw .guest(error) }
}
