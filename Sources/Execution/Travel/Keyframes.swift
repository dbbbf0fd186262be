internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// A place of a recorded run at which the whole machine is known.
struct Keyframe: Sendable {
    var position: Position
    var cpu: CPUCheckpoint
    var tape: Tape.Place
    var loop: RunLoop.Place
    /// The count of instructions at the position's exit.
    var spanStart: UInt64
    /// How the machine came to stand there.
    var standing: Standing
    /// How long the guest runs from the beginning to here, as measured, in nanoseconds.
    var nanoseconds: UInt64
    /// Slots of pages written since the keyframe before, perhaps with what they held already.
    var written: [Int32] = []
    /// Slots of pages that have a version of this keyframe.
    var changed: [Int32] = []

    /// What the loop's memory of sites takes where no keyframe beside this one has the same.
    var siteBytes = 0
    /// The digest of RAM; nil: it is not of a file, and nobody asked.
    var memory: Digest128?

    /// What it takes in memory beside pages, in bytes.
    var byteCount: Int {
        MemoryLayout<Keyframe>.stride + cpu.byteCount + 4 * (written.count + changed.count)
            + siteBytes
    }
}

/// The keyframes of a run, in the order of their positions, and what memory held at each.
///
/// A page is kept only where it differs from the keyframe before. Where memory grows beyond the
/// cap, keyframes are dropped so that the distances between the others stay alike, and their pages
/// pass to the next one.
struct Keyframes: ~Copyable {
    var frames: [Keyframe] = []
    var history = PageHistory()
    let tally = PageTally()
    let reader: DirtyPages.Reader
    /// The keyframe from which memory comes; what was written since is the reader's set.
    var base = Position.begin
    /// Pages may be in a file.
    var hasFile = false
    /// There are keyframes that are in no file.
    var hasUnsaved = false
    private let byteLimit: Int
    /// Keyframes are made no closer than this, in nanoseconds of the guest's running.
    private(set) var spacing: UInt64
    var frameBytes = 0

    /// What one version of a page takes beside the page itself.
    private static let versionBytes = MemoryLayout<Position>.stride + 24

    /// Takes the first keyframe, which is the machine as it was loaded.
    init(
        _ machine: inout GuestMachine, first: Keyframe, byteLimit: Int, spacing: UInt64
    ) throws(ExecutionError) {
        precondition(first.position == .begin)
        let reader = machine.addWritesReader()
        try machine.collectWrites()
        _ = machine.writes?.take(reader)
        self.reader = reader
        self.byteLimit = byteLimit
        self.spacing = spacing
        var first = first
        var pages: [(Int, PageCopy)] = []
        let tally = tally
        // SAFETY: the page's bytes are copied during the call.
        unsafe machine.memory.forEachNonZeroPage { number, bytes in
            guard let slot = machine.memory.pageSlots.slot(ofPage: number),
                let source = bytes.baseAddress
            else { return }
            pages.append((slot, unsafe PageCopy(source, tally)))
        }
        for (slot, page) in pages {
            history.add(slot, page, at: .begin)
            first.changed.append(Int32(slot))
        }
        frames = [first]
        frameBytes = first.byteCount
    }

    /// What keyframes take in memory, in bytes.
    var byteCount: Int {
        tally.count * PageCopy.byteCount + history.versionCount * Self.versionBytes + frameBytes
    }

    /// The last keyframe at or before a position.
    func index(atOrBefore position: Position) -> Int {
        var low = 0
        var high = frames.count
        while low < high {
            let middle = (low + high) / 2
            if frames[middle].position <= position { low = middle + 1 } else { high = middle }
        }
        return max(0, low - 1)
    }

    /// Whether a keyframe here, so long after the beginning, would be neither there already nor too
    /// close to others.
    func isWanted(at position: Position, nanoseconds: UInt64) -> Bool {
        let before = frames[index(atOrBefore: position)]
        guard before.position < position, nanoseconds >= before.nanoseconds &+ spacing else {
            return false
        }
        let next = index(atOrBefore: position) + 1
        guard next < frames.count else { return true }
        return frames[next].nanoseconds >= nanoseconds &+ spacing / 2
    }

    /// Adds a keyframe of where the machine stands.
    mutating func insert(
        _ frame: consuming Keyframe, _ machine: inout GuestMachine
    ) throws(ExecutionError) {
        let before = index(atOrBefore: frame.position)
        guard frames[before].position < frame.position else { return }
        var frame = frame
        try machine.collectWrites()
        var candidates = machine.writes?.take(reader) ?? []
        candidates += slotsChanged(between: base, and: frames[before].position)
        let predecessor = frames[before].position
        let next = before + 1 < frames.count ? frames[before + 1].position : nil
        var seen: Set<Int> = []
        for slot in candidates where seen.insert(slot).inserted {
            frame.written.append(Int32(slot))
            guard let host = unsafe machine.memory.host(slot: slot) else { continue }
            let old = history.page(slot, at: predecessor)
            // SAFETY: a slot's host pointer covers its 4096 bytes.
            let isSame = try unsafe old?.isEqual(host) ?? Self.isZero(host)
            guard !isSame else { continue }
            // What the next keyframe had in common with the one before it keeps.
            if let next, !history.hasVersion(slot, of: next) {
                history.add(slot, old, at: next)
                frames[before + 1].changed.append(Int32(slot))
                frameBytes += 4
            }
            let page = unsafe Self.isZero(host) ? nil : PageCopy(host, tally)
            history.add(slot, page, at: frame.position)
            frame.changed.append(Int32(slot))
        }
        base = frame.position
        let hasSites = frames[before...].prefix(2).contains {
            $0.loop.sites.generation == frame.loop.sites.generation
        }
        frame.siteBytes = hasSites ? 0 : frame.loop.sites.byteCount
        frameBytes += frame.byteCount
        frames.insert(frame, at: before + 1)
        hasUnsaved = true
        try thin(&machine)
    }

    private static func isZero(_ page: UnsafeRawPointer) -> Bool {
        // SAFETY: a page has 4096 bytes.
        let words = unsafe UnsafeRawBufferPointer(start: page, count: PageCopy.pageBytes)
        return unsafe MemoryDigest.page(number: 0, bytes: words) == nil
    }

    /// Slots of pages that may differ between two keyframes.
    private func slotsChanged(between a: Position, and b: Position) -> [Int] {
        let low = min(a, b)
        let high = max(a, b)
        var slots: [Int] = []
        for frame in frames[index(atOrBefore: low)...]
        where frame.position > low && frame.position <= high {
            slots += frame.changed.map(Int.init)
        }
        return slots
    }

    /// Puts memory back to a keyframe. The CPU is the caller's to restore.
    ///
    /// - Throws: ``ExecutionError/trace(_:)`` where a page is in a file and cannot be had: memory is
    ///   neither here nor there then, and ``forgetFile(_:)`` must follow.
    mutating func restoreMemory(
        _ index: Int, _ machine: inout GuestMachine
    ) throws(ExecutionError) {
        let target = frames[index].position
        try machine.collectWrites()
        var candidates = machine.writes?.take(reader) ?? []
        candidates += slotsChanged(between: base, and: target)
        var seen: Set<Int> = []
        var pages: [(slot: Int, page: PageCopy?)] = []
        for slot in candidates where seen.insert(slot).inserted {
            pages.append((slot, history.page(slot, at: target)))
        }
        // Those of a file in its order: each block of it is expanded once.
        pages.sort { ($0.page?.number ?? 0, $0.slot) < ($1.page?.number ?? 0, $1.slot) }
        for (slot, page) in pages {
            guard let host = unsafe machine.memory.host(slot: slot),
                let address = machine.memory.pageSlots.address(ofSlot: slot)
            else { continue }
            // SAFETY: a slot's host pointer covers its 4096 bytes.
            if let page {
                try unsafe page.copy(to: host)
            } else {
                unsafe host.initializeMemory(
                    as: UInt8.self, repeating: 0, count: PageCopy.pageBytes)
            }
            machine.memory.markWritten(address, count: PageCopy.pageBytes)
        }
        // The other readers must hear of it, and this one not.
        try machine.collectWrites()
        _ = machine.writes?.take(reader)
        base = target
    }

    // MARK: Thinning

    private mutating func remove(_ index: Int, _ machine: inout GuestMachine) {
        let frame = frames[index]
        let next = index + 1 < frames.count ? frames[index + 1].position : nil
        if base == frame.position {
            // What memory differs in from the keyframe before.
            for slot in frame.changed { machine.writes?.add(Int(slot), reader) }
            base = frames[index - 1].position
        }
        for slot in frame.changed
        where history.remove(Int(slot), of: frame.position, successor: next) {
            frames[index + 1].changed.append(slot)
            frameBytes += 4
        }
        if next != nil {
            let added = Set(frames[index + 1].written)
            let more = frame.written.filter { !added.contains($0) }
            frames[index + 1].written += more
            frameBytes += 4 * more.count
        }
        frameBytes -= frame.byteCount
        if next != nil, frame.siteBytes > 0, frames[index + 1].siteBytes == 0,
            frames[index + 1].loop.sites.generation == frame.loop.sites.generation
        {
            frames[index + 1].siteBytes = frame.siteBytes
            frameBytes += frame.siteBytes
        }
        frames.remove(at: index)
    }

    /// Drops keyframes until the rest fits; the first stays.
    mutating func thin(_ machine: inout GuestMachine) throws(ExecutionError) {
        guard byteCount > byteLimit else { return }
        try machine.collectWrites()
        while byteCount > byteLimit, frames.count > 2 {
            var index = 1
            while index + 1 < frames.count {
                let before = frames[index - 1].nanoseconds
                if frames[index + 1].nanoseconds &- before <= spacing {
                    remove(index, &machine)
                } else {
                    index += 1
                }
            }
            guard byteCount > byteLimit * 3 / 4 else { break }
            spacing *= 2
        }
    }
}
