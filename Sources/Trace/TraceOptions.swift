import Synchronization

/// How a trace is written.
public struct TraceOptions: Equatable, Sendable {
    /// The counter that stamps come from; nil leaves every observed field out of the trace, so that
    /// equal runs give equal bytes.
    public var timing: TimeBase?
    /// An existing trace, or what an interrupted recording left, may be replaced.
    public var overwrites: Bool
    /// The trace gets a world stream: ``TraceWriter/world(_:microseconds:)``.
    public var hasWorldStream = false
    /// The file may not grow beyond this, in bytes: for tests of a full disk.
    var maximumFileBytes: UInt64 = .max
    /// Blocks between the vCPU thread and the writer thread: for tests of waiting.
    var ringSlots = 16

    /// Makes options.
    public init(timing: TimeBase? = nil, overwrites: Bool = false) {
        self.timing = timing
        self.overwrites = overwrites
    }
}

/// How far a recording is; may be read from any thread.
public final class TraceProgress: Sendable {
    private let exits = Atomic<UInt64>(0)
    private let bytes = Atomic<UInt64>(0)

    /// Exits that were encoded.
    public var exitCount: UInt64 { exits.load(ordering: .relaxed) }
    /// Bytes of the trace that were written.
    public var bytesWritten: UInt64 { bytes.load(ordering: .relaxed) }

    @inline(__always)
    func set(exits newValue: UInt64) { exits.store(newValue, ordering: .relaxed) }
    func set(bytes newValue: UInt64) { bytes.store(newValue, ordering: .relaxed) }
}

/// What was recorded.
public struct TraceSummary: Equatable, Sendable {
    /// Numbered exits.
    public var exitCount: UInt64
    /// Events of all kinds.
    public var eventCount: UInt64
    /// Length of the trace, in bytes.
    public var fileBytes: UInt64
    /// Bytes of the blocks of events, headers included: what the exits cost.
    public var eventBytes: UInt64
    /// The digests of the whole run.
    public var digests: RunningDigests
}
