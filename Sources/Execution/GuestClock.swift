internal import KVM

/// Which clock a live guest's devices and rewritten RDTSCs see.
public enum ClockKind: Equatable, Sendable {
    /// The host's: time passes as outside.
    case host
    /// A clock that advances by so many nanoseconds at each exit, and jumps over idle time: the
    /// same inputs then give the same run.
    case virtual(nanosecondsPerExit: UInt64)

    /// What an exit costs on the virtual clock unless told otherwise: about what it costs here.
    public static let usualNanosecondsPerExit: UInt64 = 10_000

    /// As a trace's properties and people spell it.
    public var name: String {
        switch self {
        case .host: "host"
        case .virtual(let step): "virtual=\(step)"
        }
    }
}

/// The clock of a live guest: nanoseconds since its first instruction.
struct GuestClock: Sendable {
    private let kind: ClockKind
    private let start: UInt64
    /// The time at the last ``tick()``.
    private(set) var nanoseconds: UInt64 = 0

    /// IA32_TSC_ADJUST: the sum of what the guest added to its counter (Intel SDM vol. 3, 19.17.3).
    var timeStampAdjust: UInt64 = 0

    /// The counter's rate, in kHz: 1 GHz makes it the clock itself.
    static let timeStampKilohertz: UInt64 = 1_000_000

    /// The time-stamp counter at the last ``tick()``.
    var timeStamp: UInt64 { nanoseconds &+ timeStampAdjust }

    /// When the counter reaches a value, in nanoseconds since the machine started; now where it is
    /// beyond it.
    func time(of value: UInt64) -> UInt64 {
        guard value > timeStamp else { return nanoseconds }
        let (time, isNever) = nanoseconds.addingReportingOverflow(value - timeStamp)
        return isNever ? .max : time
    }

    /// The guest writes its counter.
    mutating func setTimeStamp(_ value: UInt64) {
        tick()
        timeStampAdjust = value &- nanoseconds
    }

    init(_ kind: ClockKind) {
        self.kind = kind
        start = HostThread.monotonicNanoseconds()
    }

    /// An exit was made.
    @inline(__always)
    mutating func tick() {
        switch kind {
        case .host: nanoseconds = HostThread.monotonicNanoseconds() &- start
        case .virtual(let step): nanoseconds &+= step
        }
    }

    /// Idle time passes until `deadline`: a virtual clock jumps there. Returns how long to sleep
    /// on the host.
    mutating func idle(until deadline: UInt64) -> UInt64 {
        tick()
        switch kind {
        case .host: return deadline > nanoseconds ? deadline - nanoseconds : 0
        case .virtual:
            nanoseconds = max(nanoseconds, deadline)
            return 0
        }
    }

    /// Whether idle time has to be waited out on the host.
    var isHost: Bool { kind == .host }
}
