/// The local APIC's timer (Intel SDM vol. 3, 12.5.4): one-shot, periodic, or until the time-stamp
/// counter reaches a deadline. Its input clock has 1 GHz: a count at divisor 1 is a nanosecond.
struct APICTimer: Sendable {
    /// Bits 17 and 18 of its vector table entry.
    enum Mode: UInt8, Sendable {
        case oneShot, periodic, deadline
        /// Nothing runs.
        case reserved
    }

    /// What the timer does when it is started.
    private(set) var mode = Mode.oneShot
    /// The initial count register.
    private(set) var initialCount: UInt32 = 0
    /// The divide configuration register: bits 0, 1 and 3.
    private(set) var divideConfiguration: UInt32 = 0
    /// When it expires next, in nanoseconds since the machine started; nil: it does not run.
    private(set) var nextExpiry: UInt64?
    private var deadlineStamp: UInt64 = 0
    private var now: UInt64 = 0

    /// The divisor's binary logarithm: 0b1011 is 1, 0b0000 is 2, 0b1010 is 128.
    private var shift: UInt64 {
        let code = divideConfiguration >> 1 & 4 | divideConfiguration & 3
        return UInt64((code + 1) & 7)
    }

    /// The current count register. It steps after each full period of the divided clock.
    var currentCount: UInt32 {
        guard mode != .deadline, let nextExpiry, nextExpiry > now else { return 0 }
        return UInt32(truncatingIfNeeded: (nextExpiry - now + (1 << shift) - 1) >> shift)
    }

    /// IA32_TSC_DEADLINE: 0 where nothing is armed.
    var deadline: UInt64 { mode == .deadline ? deadlineStamp : 0 }

    /// Moves on to a time, which is not before the last one. True if the timer expired on the way.
    mutating func advance(to nanoseconds: UInt64) -> Bool {
        now = nanoseconds
        guard let expiry = nextExpiry, expiry <= now else { return false }
        switch mode {
        case .periodic where initialCount > 0:
            let period = UInt64(initialCount) << shift
            nextExpiry = expiry + (now - expiry) / period * period + period
        default:
            nextExpiry = nil
            deadlineStamp = 0
        }
        return true
    }

    /// A new mode. To or from the deadline stops the timer; between the others it runs on.
    mutating func setMode(_ new: Mode) {
        guard new != mode else { return }
        if new == .deadline || mode == .deadline || new == .reserved {
            nextExpiry = nil
            deadlineStamp = 0
            initialCount = 0
        }
        mode = new
    }

    /// A write to the initial count register: starts anew, or with 0 stops.
    mutating func start(_ count: UInt32) {
        guard mode == .oneShot || mode == .periodic else { return }
        initialCount = count
        nextExpiry = count == 0 ? nil : now &+ UInt64(count) << shift
    }

    /// A write to the divide configuration register. A count that runs goes on from where it is.
    mutating func setDivide(_ value: UInt32) {
        let count = currentCount
        divideConfiguration = value & 0b1011
        if mode != .deadline, count > 0 { nextExpiry = now &+ UInt64(count) << shift }
    }

    /// A write to IA32_TSC_DEADLINE; 0 disarms. Ignored in the other modes.
    ///
    /// - Parameters:
    ///   - stamp: what the register shows.
    ///   - nanoseconds: when that is, since the machine started; one that has passed expires at
    ///     once.
    mutating func setDeadline(_ stamp: UInt64, at nanoseconds: UInt64) {
        guard mode == .deadline else { return }
        deadlineStamp = stamp
        nextExpiry = stamp == 0 ? nil : nanoseconds
    }
}
