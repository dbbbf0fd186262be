internal import Glibc
internal import Guest
internal import KVM
internal import Machine

/// What ring 3 is run to at full speed.
struct Ring3Goal: Equatable, Sendable {
    /// Instructions, each before it is executed.
    var addresses: [UInt64] = []
    /// Memory, before an instruction that touches it; nil: none. An instruction at one of the addresses
    /// is a stop already, and no touch besides.
    var shield: Shield?
    /// Where ring 3 is left.
    var isEnd = false

    static let end = Ring3Goal(isEnd: true)

    /// Whether there is nothing that ring 3 is stopped at.
    var isEmpty: Bool { addresses.isEmpty && shield == nil }

    /// What of memory stops an instruction at an address.
    func shield(at address: UInt64) -> Shield? { addresses.contains(address) ? nil : shield }

    /// Whether a stop is one of these.
    func includes(_ hit: Ring3Hit) -> Bool {
        switch hit {
        case .stop(let address): addresses.contains(address)
        case .touch(let address): shield(at: address) != nil
        case .left: isEnd
        case .passed, .interrupted, .lost: false
        }
    }
}

/// Touches of a goal's shield that a run does not stop at.
struct TouchPassing {
    /// How many at most.
    var limit: UInt64
    /// What the memory is to hold, if it matters: the run stops behind a touch that changes it.
    var watched: [Watchpoint] = []
    var contents: [[UInt8]] = []
    /// How many were passed.
    private(set) var count: UInt64 = 0

    static let none = TouchPassing(limit: 0)

    init(limit: UInt64, _ watched: [Watchpoint] = [], _ contents: [[UInt8]] = []) {
        self.limit = limit
        self.watched = watched
        self.contents = contents
    }

    /// Whether one more may be passed, which then counts.
    mutating func takesOne() -> Bool {
        guard count < limit else { return false }
        count += 1
        return true
    }

    /// Whether what is watched has changed.
    func isChanged(_ memory: borrowing GuestMemory) -> Bool {
        for (watchpoint, bytes) in zip(watched, contents) {
            // SAFETY: the bytes are read at once, and lie in RAM.
            guard let host = unsafe memory.host(watchpoint.address, count: bytes.count) else {
                continue
            }
            if unsafe memcmp(host, bytes, bytes.count) != 0 { return true }
        }
        return false
    }
}

/// What a run to the next of some goals came to.
enum Ring3Hit {
    /// An instruction is next.
    case stop(UInt64)
    /// The instruction that is next, at this address, touches memory that is shielded.
    case touch(UInt64)
    /// The goal at which it stood, or the touch that it passed last, is behind, and no other is next:
    /// where that was asked for, or what is watched changed.
    case passed
    /// Ring 3 is left; nothing was done about it.
    case left(Ring3Stops.Stop)
    case interrupted
    /// Something else came to what is shielded: the machine is of no use until it is restored.
    case lost
}
