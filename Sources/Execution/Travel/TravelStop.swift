public import Machine

/// Why a move through a recorded run came to rest.
public enum TravelStop: Sendable {
    /// Where it was to go: the position asked for, or the nearest that can be stood at after it.
    case arrived
    /// The instruction at a breakpoint is next.
    case breakpoint(GuestVirtualAddress)
    /// Watched bytes were touched: going forward by what was executed last, going back by what is
    /// next.
    case watchpoint(WatchHit)
    /// The run begins here.
    case historyBegin
    /// The run ends here.
    case historyEnd
    /// Somebody asked for it.
    case interrupted
    /// The replay is not the recording any more. Going back leads to where it still was.
    case diverged(ReplayDivergence)
}

/// A touch of watched bytes.
public struct WatchHit: Equatable, Sendable {
    /// The watchpoint.
    public var watchpoint: Watchpoint
    /// The first byte of it that was touched.
    public var address: GuestPhysicalAddress
    /// The bytes before, in the order of time.
    public var old: [UInt8]
    /// The bytes after.
    public var new: [UInt8]
    /// The exit that was taken between the two: what was done at it may have touched them, and not the
    /// guest's instruction by itself. Nil: none was.
    public var exit: UInt64?
}

/// Bytes of memory that stop a move when they are touched.
///
/// It is a place in physical memory: that which a linear address means where the machine stands
/// when it is set.
public struct Watchpoint: Hashable, Sendable {
    /// What counts as touching them.
    public enum Kind: Hashable, Sendable {
        /// Changes, by the guest, by devices and by the runner alike; a write of what is there
        /// already is none.
        case change
        /// Reads by the guest's instructions, and by the events that it takes. What fetches
        /// instructions, walks page tables or loads a segment's descriptor is none, and what devices
        /// read the trace does not tell.
        case read
        /// Those reads, changes, and writes by the guest of what is there already.
        case access
    }

    /// The first byte.
    public var address: GuestPhysicalAddress
    /// How many bytes: 1 to 4096.
    public var count: Int
    /// What counts.
    public var kind: Kind

    /// Makes one; nil for a count that is out of bounds, or an address near the end of all.
    public init?(_ address: GuestPhysicalAddress, count: Int, kind: Kind = .change) {
        guard (1...4096).contains(count), address.rawValue <= .max - 4096 else { return nil }
        self.address = address
        self.count = count
        self.kind = kind
    }
}
