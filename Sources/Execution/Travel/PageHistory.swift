internal import Glibc
internal import Machine
internal import Synchronization

/// How many pages are kept.
final class PageTally: Sendable {
    private let number = Atomic<Int>(0)

    var count: Int { number.load(ordering: .relaxed) }
    fileprivate func add(_ change: Int) { number.add(change, ordering: .relaxed) }
}

/// The bytes of one page as they were at some keyframes, shared by all that have it so.
@safe
final class PageCopy: Sendable {
    // SAFETY: written in init alone, and freed in deinit; readers hold self.
    nonisolated(unsafe) private let bytes: UnsafeMutableRawPointer
    private let tally: PageTally

    static let pageBytes = 4096
    /// What one takes in memory: the page, the object and the allocator's share.
    static let byteCount = pageBytes + 64

    /// Copies the page at `source`, which has 4096 bytes.
    init(_ source: UnsafeRawPointer, _ tally: PageTally) {
        // SAFETY: as many bytes are allocated as are copied.
        unsafe bytes = .allocate(byteCount: Self.pageBytes, alignment: 16)
        unsafe bytes.copyMemory(from: source, byteCount: Self.pageBytes)
        self.tally = tally
        tally.add(1)
    }

    deinit {
        unsafe bytes.deallocate()
        tally.add(-1)
    }

    /// Writes the page to `target`, which has room for it.
    func copy(to target: UnsafeMutableRawPointer) {
        // SAFETY: both have 4096 bytes.
        unsafe target.copyMemory(from: bytes, byteCount: Self.pageBytes)
    }

    /// Whether a page has the same bytes.
    func isEqual(_ other: UnsafeRawPointer) -> Bool {
        // SAFETY: both have 4096 bytes.
        unsafe memcmp(bytes, other, Self.pageBytes) == 0
    }
}

/// What each page held at the keyframes at which it had changed.
struct PageHistory: Sendable {
    /// A page's contents from a keyframe on, until the next version.
    private struct Version: Sendable {
        var frame: Position
        /// Nil: all zero.
        var page: PageCopy?
    }

    /// By page slot, each in the order of the frames. Never iterated.
    private var versions: [Int: [Version]] = [:]
    /// How many versions there are.
    private(set) var versionCount = 0

    /// The page as it was at a frame; nil: all zero.
    func page(_ slot: Int, at frame: Position) -> PageCopy? {
        guard let list = versions[slot] else { return nil }
        let index = Self.upperBound(list, frame)
        return index == 0 ? nil : list[index - 1].page
    }

    /// Whether the page has a version of just this frame.
    func hasVersion(_ slot: Int, of frame: Position) -> Bool {
        guard let list = versions[slot] else { return false }
        let index = Self.upperBound(list, frame)
        return index > 0 && list[index - 1].frame == frame
    }

    /// Adds what a page holds at a frame.
    mutating func add(_ slot: Int, _ page: PageCopy?, at frame: Position) {
        var list = versions[slot] ?? []
        let index = Self.upperBound(list, frame)
        precondition(index == 0 || list[index - 1].frame != frame, "a frame holds a page once")
        list.insert(Version(frame: frame, page: page), at: index)
        versions[slot] = list
        versionCount += 1
    }

    /// Takes a frame's version away; it becomes that of `successor` where that has none.
    mutating func remove(_ slot: Int, of frame: Position, successor: Position?) -> Bool {
        guard var list = versions[slot] else { return false }
        let index = Self.upperBound(list, frame) - 1
        guard index >= 0, list[index].frame == frame else { return false }
        let isPassedOn =
            successor.map { next in
                index + 1 >= list.count || list[index + 1].frame != next
            } ?? false
        if isPassedOn, let successor {
            list[index].frame = successor
        } else {
            list.remove(at: index)
            versionCount -= 1
        }
        versions[slot] = list.isEmpty ? nil : list
        return isPassedOn
    }

    private static func upperBound(_ list: [Version], _ frame: Position) -> Int {
        var low = 0
        var high = list.count
        while low < high {
            let middle = (low + high) / 2
            if list[middle].frame <= frame { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
