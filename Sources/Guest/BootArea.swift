/// Finds room in RAM for what a loader adds to an image: tables, strings, modules.
///
/// Places are found by fixed rules, so that the same load gives the same addresses.
struct BootArea {
    private let layout: RAMLayout
    private let name: String
    /// What is taken, in no order.
    private var occupied: [Range<UInt64>]

    /// Where the PC's screen memory begins: the end of what old software calls low memory.
    private static let lowMemoryEnd: UInt64 = 0xA_0000
    /// Where memory goes on after screen and option ROMs.
    private static let mebibyte: UInt64 = 0x10_0000
    /// Page 0 holds the real-mode interrupt table and is left alone.
    private static let floor: UInt64 = 0x1000

    /// An area around what an image takes; `name` is the image's, for messages.
    init(layout: RAMLayout, occupied: [Range<UInt64>], name: String) {
        self.layout = layout
        self.occupied = occupied
        self.name = name
    }

    /// Takes whole pages as high as they go below 640 KiB, else as high as they go below 3 GiB.
    mutating func takeHigh(_ length: UInt64, for purpose: String) throws(GuestError) -> UInt64 {
        let length = Self.pages(length)
        let low = Self.floor..<min(Self.lowMemoryEnd, layout.lowLength)
        let high = Self.mebibyte..<max(Self.mebibyte, layout.lowLength)
        for window in [low, high] {
            var end = window.upperBound
            while end > window.lowerBound, length <= end - window.lowerBound {
                let candidate = end - length..<end
                guard let obstacle = obstacle(candidate) else {
                    occupied.append(candidate)
                    return candidate.lowerBound
                }
                end = obstacle.lowerBound & ~0xFFF
            }
        }
        throw noRoom(length, purpose)
    }

    /// Takes whole pages as low as they go from `start` up, at least 1 MiB, below 3 GiB.
    mutating func takeLow(
        _ length: UInt64, from start: UInt64, for purpose: String
    ) throws(GuestError) -> UInt64 {
        let length = Self.pages(length)
        var start = Self.pages(max(start, Self.mebibyte))
        while start <= layout.lowLength, length <= layout.lowLength - start {
            let candidate = start..<start + length
            guard let obstacle = obstacle(candidate) else {
                occupied.append(candidate)
                return start
            }
            start = Self.pages(obstacle.upperBound)
        }
        throw noRoom(length, purpose)
    }

    /// Takes a range if all of it is free RAM; nil if not.
    mutating func take(_ range: Range<UInt64>) -> UInt64? {
        guard range.upperBound <= layout.lowLength, obstacle(range) == nil else { return nil }
        occupied.append(range)
        return range.lowerBound
    }

    private func obstacle(_ range: Range<UInt64>) -> Range<UInt64>? {
        occupied.first { $0.overlaps(range) }
    }

    private func noRoom(_ length: UInt64, _ purpose: String) -> GuestError {
        GuestError(
            .tooBig, name,
            "no room for \(size(length)) of \(purpose) beside the image in \(layout.name); "
                + "give more RAM")
    }

    /// Rounded up to whole pages, at least one. Lengths here are far below 2^63.
    private static func pages(_ length: UInt64) -> UInt64 { (max(length, 1) + 0xFFF) & ~0xFFF }
}
