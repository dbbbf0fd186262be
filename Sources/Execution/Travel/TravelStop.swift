public import Machine

/// Why a move through a recorded run came to rest.
public enum TravelStop: Sendable {
    /// Where it was to go: the position asked for, or the nearest that can be stood at after it.
    case arrived
    /// The instruction at a breakpoint is next.
    case breakpoint(GuestVirtualAddress)
    /// Watched bytes changed: going forward by what was executed last, going back by what is next.
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

/// A change of watched bytes.
public struct WatchHit: Equatable, Sendable {
    /// The watchpoint.
    public var watchpoint: Watchpoint
    /// The bytes before the change, in the order of time.
    public var old: [UInt8]
    /// The bytes after it.
    public var new: [UInt8]
}

/// Bytes of memory whose changes stop a move.
///
/// It is a place in physical memory: that which a linear address means where the machine stands
/// when it is set. Changes are those by the guest, by devices and by the runner alike; a write of
/// what is there already is none.
public struct Watchpoint: Hashable, Sendable {
    /// The first byte.
    public var address: GuestPhysicalAddress
    /// How many bytes: 1 to 4096.
    public var count: Int

    /// Makes one; nil for a count that is out of bounds, or an address near the end of all.
    public init?(_ address: GuestPhysicalAddress, count: Int) {
        guard (1...4096).contains(count), address.rawValue <= .max - 4096 else { return nil }
        self.address = address
        self.count = count
    }
}
