internal import Trace

/// What a world stream says of one exit, while a live world is run again by it.
///
/// Each function takes what is next if it is of its kind; where it is not, the stream does not fit
/// what the devices do, and ``problem`` says so once and for all.
struct WorldScript: Sendable {
    private var events: [WorldEvent] = []
    private var next = 0
    /// Why the stream does not fit; nil: it does so far.
    private(set) var problem: String?

    /// The next exit has come. What is left of the one before but for kicks should not be.
    mutating func load(_ newEvents: [WorldEvent]) {
        if next < events.count {
            fail("the world stream has a \(events[next].kind) that the devices did not ask for")
        }
        events = newEvents
        next = 0
    }

    /// The world stream does not fit.
    mutating func fail(_ what: String) { if problem == nil { problem = what } }

    private var upcoming: WorldEvent? { next < events.count ? events[next] : nil }

    /// The time of an access, in microseconds.
    mutating func takeClock() -> UInt64? {
        guard case .clock(let time)? = upcoming else { return nil }
        next += 1
        return time
    }

    /// The time of input to an idle guest, in microseconds, if that comes before a deadline.
    mutating func takeWake(beforeNanoseconds deadline: UInt64?) -> UInt64? {
        guard case .wake(let time)? = upcoming else { return nil }
        if let deadline, time.multipliedFullWidth(by: 1000) >= (0, deadline) { return nil }
        next += 1
        return time
    }

    /// The time of a kick, in microseconds.
    mutating func takeKick() -> UInt64? {
        guard case .kick(let time)? = upcoming else { return nil }
        next += 1
        return time
    }

    /// An interrupt was taken between two exits.
    mutating func takeAcknowledge() {
        guard case .acknowledge? = upcoming else {
            fail("the world stream knows of no interrupt taken between these two exits")
            return
        }
        next += 1
    }

    /// What the serial port takes now.
    mutating func takeInput() -> [UInt8] {
        var bytes: [UInt8] = []
        while case .input(let more)? = upcoming {
            bytes += more
            next += 1
        }
        return bytes
    }
}
