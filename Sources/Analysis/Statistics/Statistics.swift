public import Trace

/// What was counted over a run.
public struct Statistics: Equatable, Sendable {
    /// One row of the table.
    public struct Row: Equatable, Sendable {
        /// What the row counts: `io`, `0x3f8 out`, `main+0x12`.
        public var label: String
        /// Exits.
        public var count: UInt64
        /// Exits whose time is known.
        public var timedCount: UInt64
        /// The sum of their times, in nanoseconds.
        public var nanoseconds: UInt64
        /// The shortest and longest time.
        public var minimum: UInt64
        /// The longest time, in nanoseconds.
        public var maximum: UInt64
        /// The standard error of the average, as a fraction of it; nil below two times.
        public var relativeError: Double?
        /// Exits per bucket, where that was asked for.
        public var buckets: [UInt64]

        /// The average time, in nanoseconds.
        public var average: Double? {
            timedCount == 0 ? nil : Double(nanoseconds) / Double(timedCount)
        }
    }

    /// Accesses to a port or page that no device of the machine claims.
    public struct Unclaimed: Equatable, Sendable {
        /// The port, or the guest-physical address of the page.
        public var address: UInt64
        /// A page of memory and not a port.
        public var isMemory: Bool
        /// How often it was read.
        public var reads: UInt64
        /// How often it was written.
        public var writes: UInt64
    }

    /// Injected interruptions of one kind and vector.
    public struct Interruptions: Equatable, Sendable {
        /// `interrupt 0x20`, `NMI`, `exception 14`.
        public var label: String
        /// How many.
        public var count: UInt64
        /// How many of them in mid-flight, between two exits.
        public var inMidFlight: UInt64
        /// How many of those at a place that the trace holds, since no replay would find it.
        public var stored: UInt64 = 0
    }

    /// What was asked for; the bucket width is the one that was used in the end.
    public var options: StatisticsOptions
    /// The rows, those that count most first.
    public var rows: [Row]
    /// Exits in all.
    public var exitCount: UInt64
    /// Host time from the start to the last exit, in nanoseconds; nil without timing.
    public var durationNanoseconds: UInt64?
    /// Host time in the guest, in nanoseconds.
    public var guestNanoseconds: UInt64
    /// Host time outside the guest, in nanoseconds.
    public var vmmNanoseconds: UInt64
    /// Answers that the world gave.
    public var answerCount: UInt64
    /// Instructions that the runner completed in the CPU's place.
    public var completionCount: UInt64
    /// Exits that stand for an instruction which vmtape rewrote.
    public var rewrittenCount: UInt64
    /// Instructions that vmtape rewrote when they were about to be executed.
    public var rewritingCount: UInt64
    /// Injected interruptions, by kind and vector.
    public var interruptions: [Interruptions]
    /// Writes of devices to RAM.
    public var deviceWriteCount: UInt64
    /// The bytes of these writes.
    public var deviceWriteBytes: UInt64
    /// What devices took from outside.
    public var world: WorldSize
    /// Ports and pages that nobody claims, in ascending order, ports first.
    public var unclaimed: [Unclaimed]
    /// Accesses to unclaimed ports and pages that found no place in ``unclaimed``.
    public var unclaimedElsewhere: UInt64
    /// What could not be read, one line each.
    public var damages: [String]
}
