internal import Synchronization

/// The word through which a debugger's ^C reaches a machine that runs.
///
/// Raised by the thread that watches the connection: at ^C, and when the debugger is gone.
public final class InterruptFlag: Sendable {
    private let word = Atomic<Bool>(false)
    private let kick: @Sendable () -> Void

    /// Makes a lowered flag.
    ///
    /// - Parameter kick: called each time the flag is raised, on another thread than the machine's:
    ///   must get a vCPU out of KVM_RUN, and must not wait.
    public init(kick: @escaping @Sendable () -> Void = {}) { self.kick = kick }

    /// Whether the machine is to stop. One relaxed load.
    @inline(__always)
    public var isRaised: Bool { word.load(ordering: .relaxed) }

    /// Asks the machine to stop.
    public func raise() {
        word.store(true, ordering: .releasing)
        kick()
    }

    /// Forgets what was asked.
    public func lower() { word.store(false, ordering: .releasing) }
}
