internal import Synchronization

/// How far a replay is; may be read from any thread.
public final class ReplayProgress: Sendable {
    private let exits = Atomic<UInt64>(0)

    /// Exits that were compared and found equal.
    public var exitCount: UInt64 { exits.load(ordering: .relaxed) }

    @inline(__always)
    func set(_ count: UInt64) { exits.store(count, ordering: .relaxed) }
}
