internal import KVM
internal import Synchronization
internal import Trace

/// The host's time-stamp counter as a clock for observed times.
public enum HostClock {
    private static let frequency = Mutex<UInt64>(0)

    /// The counter's rate and its value now.
    static func timeBase() -> TimeBase {
        TimeBase(ticksPerSecond: ticksPerSecond(), origin: HostThread.timestamp())
    }

    /// Ticks a second, measured once per process against CLOCK_MONOTONIC over two milliseconds:
    /// exact to about 1 in 10,000, which is finer than the trace's quantisation.
    static func ticksPerSecond() -> UInt64 {
        frequency.withLock { known in
            if known != 0 { return known }
            let startTicks = HostThread.timestamp()
            let start = HostThread.monotonicNanoseconds()
            var now = start
            while now - start < 2_000_000 { now = HostThread.monotonicNanoseconds() }
            let ticks = HostThread.timestamp() - startTicks
            known = max(1, ticks * 1_000_000_000 / max(1, now - start))
            return known
        }
    }
}
