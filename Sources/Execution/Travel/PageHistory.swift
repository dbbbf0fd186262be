internal import Glibc
internal import Machine
internal import Synchronization
internal import Trace

/// How many pages are kept.
final class PageTally: Sendable {
    private let number = Atomic<Int>(0)

    var count: Int { number.load(ordering: .relaxed) }
    fileprivate func add(_ change: Int) { number.add(change, ordering: .relaxed) }
}

/// The bytes of one page as they were at some keyframes, shared by all that have it so: in memory,
/// or in a keyframe file.
@safe
final class PageCopy: Sendable {
    // SAFETY: written in init alone, and freed in deinit; readers hold self.
    nonisolated(unsafe) private let bytes: UnsafeMutableRawPointer?
    /// Where it is read from when it is used, where it is not in memory.
    private let stored: (file: KeyframeFile, number: UInt32)?
    private let tally: PageTally

    static let pageBytes = 4096
    /// What one takes in memory: the page, the object and the allocator's share. One in a file counts
    /// alike, so that the file has a cap too.
    static let byteCount = pageBytes + 64

    /// Copies the page at `source`, which has 4096 bytes.
    init(_ source: UnsafeRawPointer, _ tally: PageTally) {
        // SAFETY: as many bytes are allocated as are copied.
        let bytes = UnsafeMutableRawPointer.allocate(byteCount: Self.pageBytes, alignment: 16)
        unsafe bytes.copyMemory(from: source, byteCount: Self.pageBytes)
        unsafe self.bytes = bytes
        stored = nil
        self.tally = tally
        tally.add(1)
    }

    /// A page of a file, which is read when it is used.
    init(_ number: UInt32, of file: KeyframeFile, _ tally: PageTally) {
        unsafe bytes = nil
        stored = (file, number)
        self.tally = tally
        tally.add(1)
    }

    deinit {
        unsafe bytes?.deallocate()
        tally.add(-1)
    }

    /// Its number in a file; pages that are read in this order are read quickly.
    var number: UInt32? { stored?.number }

    /// Writes the page to `target`, which has room for it.
    ///
    /// - Throws: ``ExecutionError/trace(_:)`` where the file is damaged.
    func copy(to target: UnsafeMutableRawPointer) throws(ExecutionError) {
        // SAFETY: both have 4096 bytes.
        if let stored {
            try trace { () throws(TraceError) in
                try unsafe stored.file.copyPage(stored.number, to: target)
            }
        } else if let bytes = unsafe bytes {
            unsafe target.copyMemory(from: bytes, byteCount: Self.pageBytes)
        }
    }

    /// Whether a page has the same bytes.
    ///
    /// - Throws: as ``copy(to:)``.
    func isEqual(_ other: UnsafeRawPointer) throws(ExecutionError) -> Bool {
        // SAFETY: all have 4096 bytes.
        if let bytes = unsafe bytes {
            return unsafe memcmp(bytes, other, Self.pageBytes) == 0
        }
        let page = PageBuffer()
        try unsafe copy(to: page.bytes)
        return unsafe memcmp(page.bytes, other, Self.pageBytes) == 0
    }
}

/// Room for one page.
@safe
struct PageBuffer: ~Copyable {
    let bytes: UnsafeMutableRawPointer

    init() {
        // SAFETY: owned by self, freed in deinit.
        unsafe bytes = .allocate(byteCount: PageCopy.pageBytes, alignment: 16)
    }

    deinit {
        // SAFETY: allocated in init, and nothing else frees it.
        unsafe bytes.deallocate()
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

    /// The content that the page has from just this frame on; nil: it did not change there, or it is
    /// all zero.
    func version(_ slot: Int, of frame: Position) -> PageCopy? {
        hasVersion(slot, of: frame) ? page(slot, at: frame) : nil
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

    /// Takes all versions of some pages away but those of one frame.
    mutating func keepOnly(_ frame: Position, slots: [Int32]) {
        for slot in slots {
            guard let list = versions[Int(slot)] else { continue }
            let kept = list.filter { $0.frame == frame }
            versionCount -= list.count - kept.count
            versions[Int(slot)] = kept.isEmpty ? nil : kept
        }
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
