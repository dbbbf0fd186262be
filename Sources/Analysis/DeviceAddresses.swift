/// The ports or guest-physical addresses in a device's description, the first one first:
/// `port 0x60 0x64`, `port 0x3f8..0x3ff`, `memory 0xfec00000..0xfec00fff`.
struct DeviceAddresses: Equatable {
    /// Addresses and no ports.
    let isMemory: Bool
    /// Not empty.
    let ranges: [ClosedRange<UInt64>]

    /// Nil where the text names neither.
    init?(_ base: String) {
        let words = base.split(separator: " ")
        guard let space = words.first, space == "port" || space == "memory", words.count > 1 else {
            return nil
        }
        isMemory = space == "memory"
        var ranges: [ClosedRange<UInt64>] = []
        for word in words.dropFirst() {
            let parts = word.split(separator: ".")
            guard parts.count <= 2, let first = Self.number(parts.first),
                let last = Self.number(parts.last), first <= last, isMemory || last <= 0xFFFF
            else { return nil }
            ranges.append(first...last)
        }
        self.ranges = ranges
    }

    private static func number(_ text: Substring?) -> UInt64? {
        guard let text, text.hasPrefix("0x") else { return nil }
        return UInt64(text.dropFirst(2), radix: 16)
    }
}
