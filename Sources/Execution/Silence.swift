/// What becomes of a guest on a virtual clock that, without an exit, waits for an interrupt: that clock
/// moves at exits only, and interrupts come there, so the guest would wait for ever.
public enum StallPolicy: String, Sendable, CaseIterable {
    /// The run ends, as stalled.
    case end
    /// Time passes all the same, by kicks, and the interrupt comes in mid-flight. The recording
    /// replays exactly; another recording of the same guest may differ.
    case kick
}

/// How long a guest under a virtual clock has made no exit.
struct Silence: Sendable {
    let policy: StallPolicy

    /// Instructions without an exit, where the host counts them, after which a guest that waits for
    /// the clock is stalled: some 10 s where ring 0 is emulated.
    static let longestInstructions: UInt64 = 10_000_000
    /// The same on the host's clock, where it does not.
    static let longestNanoseconds: UInt64 = 20_000_000_000
    /// Between two looks at it.
    static let lookNanoseconds: UInt64 = 250_000_000
    /// After so long without an exit time passes by kicks, if it is to.
    static let kickNanoseconds: UInt64 = 5_000_000

    private var exitCount: UInt64 = .max
    private var progress: UInt64?
    private var since: UInt64 = 0

    init(_ policy: StallPolicy) { self.policy = policy }

    /// A kick came: whether the guest has been silent since an earlier one.
    mutating func notes(exitCount: UInt64, progress: UInt64?, now: UInt64) -> Bool {
        guard exitCount == self.exitCount else {
            self.exitCount = exitCount
            self.progress = progress
            since = now
            return false
        }
        return true
    }

    /// Whether a silent guest has been so too long.
    func isTooLong(progress now: UInt64?, now time: UInt64) -> Bool {
        // In ring 3 the counter may stand still.
        if let now, let progress, now > progress {
            return now - progress >= Self.longestInstructions
        }
        return time &- since >= Self.longestNanoseconds
    }
}
