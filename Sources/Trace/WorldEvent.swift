/// Something that the live world took from outside, beside what the guest got of it (FORMAT.md,
/// "World stream"): what it takes to run device models again.
///
/// Times are the device clock's, in microseconds: no device is shown finer ones by the host's clock.
public enum WorldEvent: Equatable, Sendable {
    /// The devices were brought up to this time before they answered the exit.
    case clock(microseconds: UInt64)
    /// While the guest idled, input arrived at this time.
    case wake(microseconds: UInt64)
    /// Between this exit and the next, a kick brought the devices up to this time.
    case kick(microseconds: UInt64)
    /// The interrupt that waited after the kicks so far was taken there.
    case acknowledge
    /// The serial port took these bytes, in what the event before says, or else at the exit.
    case input([UInt8])

    /// Which kind of event it is.
    public var kind: Kind {
        switch self {
        case .clock: .clock
        case .wake: .wake
        case .kick: .kick
        case .acknowledge: .acknowledge
        case .input: .input
        }
    }

    /// What an event is; the raw value is its row's first byte.
    public enum Kind: UInt8, CaseIterable, Sendable {
        /// ``WorldEvent/clock(microseconds:)``
        case clock = 64
        /// ``WorldEvent/wake(microseconds:)``
        case wake
        /// ``WorldEvent/kick(microseconds:)``
        case kick
        /// ``WorldEvent/acknowledge``
        case acknowledge
        /// ``WorldEvent/input(_:)``
        case input

        /// The event carries a time.
        var hasTime: Bool { rawValue <= Self.kick.rawValue }
    }
}

/// The rows of world events as they lie in a side file: kind, then u64 microseconds; nothing; or u16 n
/// and n bytes.
enum WorldRow {
    /// The longest row.
    static let maximumBytes = 3 + Limits.worldInputBytes

    /// Whether a frame's bytes are a world event's and no event's row.
    @inline(__always)
    static func isOne(_ row: UnsafeRawBufferPointer) -> Bool {
        guard let base = row.baseAddress, row.count > 0 else { return false }
        // SAFETY: one byte is there.
        return unsafe base.get(UInt8.self, at: 0) & 0x7F >= WorldEvent.Kind.clock.rawValue
    }

    /// Writes a row of a kind with a time, or of one without.
    @inline(__always)
    static func put(
        _ kind: WorldEvent.Kind, microseconds: UInt64, into to: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row.
        unsafe to.put(kind.rawValue, at: 0)
        guard kind.hasTime else { return 1 }
        unsafe to.put(microseconds, at: 1)
        return 9
    }

    /// Writes a row of input, `Limits.worldInputBytes` bytes at most.
    static func put(input: UnsafeRawBufferPointer, into to: UnsafeMutableRawPointer) -> Int {
        precondition(input.count <= Limits.worldInputBytes)
        // SAFETY: the caller has room for a row.
        unsafe to.put(WorldEvent.Kind.input.rawValue, at: 0)
        unsafe to.put(UInt16(input.count), at: 1)
        if let source = input.baseAddress {
            unsafe (to + 3).copyMemory(from: source, byteCount: input.count)
        }
        return 3 + input.count
    }

    /// Reads a row.
    static func read(_ row: UnsafeRawBufferPointer) throws(Malformed) -> WorldEvent {
        // SAFETY: the reader checks every bound.
        var reader = unsafe ByteReader(row, "a world event")
        let first: UInt8 = try reader.integer()
        guard let kind = WorldEvent.Kind(rawValue: first) else {
            throw Malformed("a world event of unknown kind \(first)")
        }
        let event: WorldEvent
        switch kind {
        case .clock: event = .clock(microseconds: try reader.integer())
        case .wake: event = .wake(microseconds: try reader.integer())
        case .kick: event = .kick(microseconds: try reader.integer())
        case .acknowledge: event = .acknowledge
        case .input:
            let count = Int(try reader.integer(UInt16.self))
            guard count <= Limits.worldInputBytes else {
                throw Malformed("\(count) bytes of input in one world event")
            }
            event = .input(unsafe Array(try reader.bytes(count)))
        }
        guard reader.isAtEnd else { throw Malformed("a world event has bytes too many") }
        return event
    }
}
