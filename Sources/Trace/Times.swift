/// When an exit was entered and left, in ticks of the host's counter.
struct Stamps: Equatable {
    /// When KVM_RUN was called.
    var entered: UInt64
    /// When it returned with the exit.
    var returned: UInt64
    /// When the KVM_RUN before it returned.
    var previousReturned: UInt64
}

/// The counter that stamps are read from.
public struct TimeBase: Equatable, Sendable {
    /// Ticks of the counter in a second; not zero.
    public var ticksPerSecond: UInt64
    /// The counter when the recording began.
    public var origin: UInt64

    /// Makes a time base.
    public init(ticksPerSecond: UInt64, origin: UInt64) {
        self.ticksPerSecond = ticksPerSecond
        self.origin = origin
    }

    /// The time between two stamps; zero if they are out of order.
    func nanoseconds(from: UInt64, to: UInt64) -> UInt64 {
        guard to > from, ticksPerSecond > 0 else { return 0 }
        let nanoseconds = Double(to - from) * 1e9 / Double(ticksPerSecond)
        return nanoseconds < 9e18 ? UInt64(nanoseconds) : 9_000_000_000_000_000_000
    }
}

/// How long one exit took.
public struct ExitTime: Equatable, Sendable {
    /// From the start of the recording to the exit's return to the runner, in nanoseconds.
    public var returnedNanoseconds: UInt64
    /// In the guest (and in KVM), before the exit, in nanoseconds.
    public var guestNanoseconds: UInt64
    /// Outside, between the exit before and the entry of this one, in nanoseconds.
    public var hostNanoseconds: UInt64
}

/// A time in one byte: 3 bits of mantissa, 5 of exponent, in units of 2 ns, at most 6 % off.
///
/// What a code is too high or too low by is made good by the next one, so that sums stay right.
struct TimeQuantiser {
    enum Which { case guest, host }

    /// Says that the time is in the column of long times.
    static let escape: UInt8 = 255

    private var guestError: Int64 = 0
    private var hostError: Int64 = 0

    /// The time that a code stands for, in nanoseconds.
    static func nanoseconds(_ code: UInt8) -> UInt64 {
        let exponent = UInt64(code >> 3)
        let mantissa = UInt64(code & 7)
        return exponent == 0 ? mantissa * 2 : (8 + mantissa) << exponent
    }

    /// The code nearest to a time; `escape` where none is near.
    static func code(_ nanoseconds: UInt64) -> UInt8 {
        if nanoseconds >= Self.nanoseconds(254) { return escape }
        if nanoseconds < 16 { return UInt8((nanoseconds + 1) / 2) }
        let exponent = UInt64(63 - nanoseconds.leadingZeroBitCount) - 3
        let half: UInt64 = exponent == 0 ? 0 : 1 << (exponent - 1)
        let mantissa = (nanoseconds + half) >> exponent
        return UInt8(exponent << 3) + UInt8(mantissa - 8)
    }

    mutating func add(
        _ nanoseconds: UInt64, _ which: Which, to column: inout ByteBuffer,
        long: inout ByteBuffer
    ) {
        let error = which == .guest ? guestError : hostError
        let wanted = max(0, Int64(clamping: nanoseconds) &+ error)
        let code = Self.code(UInt64(wanted))
        column.append(code)
        var left: Int64 = 0
        if code == Self.escape {
            long.append(varint: UInt64(wanted))
        } else {
            left = Int64(clamping: nanoseconds) &+ error &- Int64(Self.nanoseconds(code))
        }
        if which == .guest { guestError = left } else { hostError = left }
    }
}
