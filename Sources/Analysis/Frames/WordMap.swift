/// A map from 64-bit words to small indices: open addressing, linear probing, no removal.
///
/// A Dictionary would do, at several times the cost of a look-up; there is one an exit.
struct WordMap {
    private struct Slot {
        var key: UInt64
        /// The index plus one; 0 marks a free slot.
        var value: UInt32
    }

    private var slots: [Slot]
    private var mask: Int
    private(set) var count = 0

    init() {
        slots = Array(repeating: Slot(key: 0, value: 0), count: 64)
        mask = 63
    }

    @inline(__always)
    private static func hash(_ key: UInt64) -> Int {
        let product = (key ^ key >> 32) &* 0x9E37_79B9_7F4A_7C15
        return Int(truncatingIfNeeded: product >> 29)
    }

    /// The index under a key.
    @inline(__always)
    subscript(key: UInt64) -> Int? {
        var at = Self.hash(key) & mask
        while true {
            let slot = slots[at]
            if slot.value == 0 { return nil }
            if slot.key == key { return Int(slot.value) - 1 }
            at = (at + 1) & mask
        }
    }

    /// Puts an index under a key that has none yet.
    mutating func insert(_ key: UInt64, _ index: Int) {
        if count * 2 >= slots.count { grow() }
        put(Slot(key: key, value: UInt32(truncatingIfNeeded: index + 1)))
        count += 1
    }

    private mutating func put(_ slot: Slot) {
        var at = Self.hash(slot.key) & mask
        while slots[at].value != 0 { at = (at + 1) & mask }
        slots[at] = slot
    }

    private mutating func grow() {
        let old = slots
        slots = Array(repeating: Slot(key: 0, value: 0), count: old.count * 2)
        mask = slots.count - 1
        for slot in old where slot.value != 0 { put(slot) }
    }
}
