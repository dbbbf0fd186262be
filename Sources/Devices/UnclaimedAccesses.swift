/// Counts of accesses that no device answers, by port or page and direction. Bounded.
public struct UnclaimedAccesses: Sendable {
    /// Where an access goes.
    public enum Space: UInt8, Sendable {
        /// The port space; addresses are port numbers.
        case port = 0
        /// Memory; addresses are those of 4 KiB pages.
        case memory = 1
    }

    /// One row of the counts.
    public struct Entry: Equatable, Sendable {
        /// Ports or memory.
        public var space: Space
        /// The port, or the guest-physical address of the page.
        public var address: UInt64
        /// Whether the guest wrote.
        public var isWrite: Bool
        /// How many accesses; an element of a string instruction is one.
        public var count: UInt64
    }

    /// The most rows that are kept.
    public static let capacity = 1024
    /// Twice the rows, so that a free place is found soon; a power of two.
    private static let placeCount = 2048
    private static let free = UInt64.max

    private var keys = [UInt64](repeating: UnclaimedAccesses.free, count: placeCount)
    private var counts = [UInt64](repeating: 0, count: placeCount)
    private var used = 0
    private var lastPlace = 0
    /// Accesses for which there was no row left.
    public private(set) var beyondCapacity: UInt64 = 0
    /// All accesses.
    public private(set) var total: UInt64 = 0

    init() {}

    mutating func count(_ space: Space, _ address: UInt64, isWrite: Bool) {
        total &+= 1
        let number = space == .port ? address : address >> 12
        // 54 bits of number at most, so no key is `free`.
        let key = UInt64(space.rawValue) << 56 | number << 1 | (isWrite ? 1 : 0)
        if keys[lastPlace] == key {
            counts[lastPlace] &+= 1
            return
        }
        var place = Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 53)
        while keys[place] != key {
            if keys[place] == Self.free {
                guard used < Self.capacity else {
                    beyondCapacity &+= 1
                    return
                }
                used += 1
                keys[place] = key
                break
            }
            place = (place + 1) & (Self.placeCount - 1)
        }
        counts[place] &+= 1
        lastPlace = place
    }

    /// The rows: ports before memory, by address, reads before writes.
    public var entries: [Entry] {
        keys.indices.filter { keys[$0] != Self.free }.sorted { keys[$0] < keys[$1] }.map {
            let key = keys[$0]
            let space = Space(rawValue: UInt8(key >> 56)) ?? .memory
            let number = key >> 1 & ((1 << 55) - 1)
            return Entry(
                space: space, address: space == .port ? number : number << 12,
                isWrite: key & 1 != 0, count: counts[$0])
        }
    }
}
