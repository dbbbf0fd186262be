internal import Execution
internal import Synchronization

/// Ctrl-A X on the console, which may come before there is a session to end.
final class LeaveRequest: Sendable {
    private let state: Mutex<(isAsked: Bool, stop: StopRequest?)> = Mutex((false, nil))

    /// The user leaves.
    func request() {
        state.withLock { state in
            state.isAsked = true
            state.stop?.request(.user)
        }
    }

    /// From now on, and for what was asked before, this ends.
    func connect(_ stop: StopRequest) {
        state.withLock { state in
            state.stop = stop
            if state.isAsked { stop.request(.user) }
        }
    }
}
