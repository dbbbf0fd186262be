internal import Synchronization

/// Why somebody outside of the guest wants the run to end.
public enum StopReason: UInt8, Sendable {
    /// Ctrl-C, SIGTERM, or Ctrl-A X on the raw console.
    case user = 1
    /// `--timeout` ran out.
    case timeLimit = 2
    /// `--max-size` was reached.
    case sizeLimit = 3
}

/// The one word through which other threads ask the loop to end.
///
/// The loop reads it at every exit, where ending is clean: the position is exit N on replay too.
/// A guest that does not exit is ended in mid-flight, and only after ``insist()``.
public final class StopRequest: Sendable {
    private let word = Atomic<UInt32>(0)
    private static let nowBit: UInt32 = 1 << 8

    /// Nothing is requested.
    public init() {}

    /// Asks for an end at the next exit. The first reason given is the one that is recorded.
    public func request(_ reason: StopReason) {
        _ = word.compareExchange(
            expected: 0, desired: UInt32(reason.rawValue), ordering: .releasing)
    }

    /// Asks for an end wherever the guest stands. The vCPU must be kicked after this.
    public func insist() {
        word.bitwiseOr(Self.nowBit, ordering: .releasing)
    }

    /// What is requested, nil when nothing is.
    @inline(__always)
    public var reason: StopReason? {
        let value = word.load(ordering: .relaxed)
        return value == 0 ? nil : StopReason(rawValue: UInt8(truncatingIfNeeded: value))
    }

    /// Whether the run is to end without waiting for an exit.
    public var isInsistent: Bool { word.load(ordering: .acquiring) & Self.nowBit != 0 }
}
