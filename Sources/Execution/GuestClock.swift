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

    /// The clock that ``name`` spells; nil where it is none.
    public init?(name: String) {
        if name == "host" {
            self = .host
            return
        }
        let parts = name.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, parts[0] == "virtual", let step = UInt64(parts[1]), step > 0 else {
            return nil
        }
        self = .virtual(nanosecondsPerExit: step)
    }
}

/// The clock of a live guest: nanoseconds since its first instruction.
struct GuestClock: Sendable {
    private let kind: ClockKind
    private var start: UInt64
    /// The time at the last ``tick()``.
    private(set) var nanoseconds: UInt64 = 0

    /// IA32_TSC_ADJUST: the sum of what the guest added to its counter (Intel SDM vol. 3, 19.17.3).
    var timeStampAdjust: UInt64 = 0

    /// The time that devices are shown. On the host's clock in whole microseconds: finer ones would
    /// tell a guest nothing, and take more room in a world stream.
    @inline(__always)
    var deviceNanoseconds: UInt64 {
        isHost ? nanoseconds - nanoseconds % 1000 : nanoseconds
    }

    /// The counter's rate, in kHz: 1 GHz makes it the clock itself.
    static let timeStampKilohertz: UInt64 = 1_000_000

    /// The time-stamp counter at the last ``tick()``.
    var timeStamp: UInt64 { nanoseconds &+ timeStampAdjust }

    /// When the counter reaches a value, in nanoseconds since the machine started; now where it is
    /// beyond it. By the devices' time, so that devices that are run again come to the same.
    func time(of value: UInt64) -> UInt64 {
        let now = deviceNanoseconds &+ timeStampAdjust
        guard value > now else { return deviceNanoseconds }
        let (time, isNever) = deviceNanoseconds.addingReportingOverflow(value - now)
        return isNever ? .max : time
    }

    /// The guest writes its counter; at the devices' time, as above.
    mutating func setTimeStamp(_ value: UInt64) { timeStampAdjust = value &- deviceNanoseconds }

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

    /// It is this late, as a recording says; or later, if that was known.
    mutating func set(_ time: UInt64) { nanoseconds = max(nanoseconds, time) }

    /// Goes on from here with the host's time.
    mutating func resume() { start = HostThread.monotonicNanoseconds() &- nanoseconds }

    /// Whether idle time has to be waited out on the host.
    var isHost: Bool { kind == .host }
}
