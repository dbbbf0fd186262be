/// Which blocks a file holds, and where: from its index, or from one pass over block headers.
struct FileMap {
    /// Every sound block header, in file order.
    var entries: [BlockEntry] = []
    var damages: [Damage] = []
    /// The file ends with an end block that fits what is before it.
    var isComplete = false
    var end: EndBlock?
    /// Places of blocks of events before which something is missing.
    var gaps: [UInt64] = []

    // MARK: By the index

    /// Reads end and index; nil where they are missing or do not fit together.
    static func fromIndex(_ source: ByteSource, identity: UInt64) -> FileMap? {
        let endBytes = EndBlock.spanBytes
        guard source.size >= UInt64(Prelude.bytes) + endBytes else { return nil }
        var loader = BlockLoader(source, identity: identity)
        do throws(TraceError) {
            let endAt = source.size - endBytes
            let header = try loader.load(at: endAt)
            guard header.type == .end, header.span == endBytes else { return nil }
            let end: EndBlock
            do throws(Malformed) { end = try unsafe EndBlock(loader.payload.bytes) } catch {
                return nil
            }
            guard let entries = try entries(source, end, endAt, &loader) else { return nil }
            var map = FileMap()
            map.entries = entries
            map.isComplete = true
            map.end = end
            return map
        } catch { return nil }
    }

    private static func entries(
        _ source: ByteSource, _ end: EndBlock, _ endAt: UInt64, _ loader: inout BlockLoader
    ) throws(TraceError) -> [BlockEntry]? {
        var parts: [[BlockEntry]] = []
        var indexEntries: [BlockEntry] = []
        var at = end.lastIndexOffset
        var limit = endAt
        repeat {
            guard at < limit else { return nil }
            let header = try loader.load(at: at)
            guard header.type == .index else { return nil }
            indexEntries.append(BlockEntry(offset: at, header))
            limit = at
            do throws(Malformed) {
                // SAFETY: the reader checks every bound.
                var reader = unsafe ByteReader(loader.payload.bytes, "the index")
                at = try reader.integer()
                let count: UInt64 = try reader.integer()
                guard count <= UInt64(Limits.indexEntries) else { return nil }
                var part: [BlockEntry] = []
                for _ in 0..<count { part.append(try BlockEntry(&reader)) }
                guard reader.isAtEnd else { return nil }
                parts.append(part)
            } catch { return nil }
        } while at != 0
        let entries = Array(parts.reversed().joined()) + indexEntries.reversed()
        return isSound(entries, end, endAt) ? entries : nil
    }

    /// Blocks follow each other from the prelude to the end, and so do their exits.
    private static func isSound(
        _ entries: [BlockEntry], _ end: EndBlock, _ endAt: UInt64
    ) -> Bool {
        guard end.blockCount == UInt64(entries.count) else { return false }
        var offset = UInt64(Prelude.bytes)
        var exit: UInt64 = 0
        for (index, entry) in entries.enumerated() {
            if index == 0 && entry.offset != offset { return false }
            guard entry.offset >= offset, entry.offset & 7 == 0,
                endAt > entry.offset, endAt - entry.offset >= UInt64(BlockHeader.bytes),
                UInt64(entry.exitCount) <= Limits.cellExits
            else { return false }
            offset = entry.offset + UInt64(BlockHeader.bytes)
            if entry.type == .events {
                guard entry.firstExit == exit else { return false }
                exit = entry.endExit
            }
        }
        return exit == end.exitCount
    }

    // MARK: By one pass

    /// Goes from block header to block header; after damage, to the next magic that is one.
    static func fromHeaders(
        _ source: ByteSource, identity: UInt64
    ) throws(TraceError) -> FileMap {
        var map = FileMap()
        var window = Window(source)
        var offset = UInt64(Prelude.bytes)
        var sequence: UInt32 = 0
        var nextExit: UInt64 = 0
        var damagedAt: UInt64?
        var isAfterGap = false
        var hasEvents = false
        while offset < source.size {
            let bytes = try unsafe window.bytes(
                at: offset, atLeast: BlockHeader.bytes, reading: 4096)
            let header = unsafe BlockHeader(bytes, identity: identity)
            guard let header, header.sequence >= sequence else {
                if damagedAt == nil { damagedAt = offset }
                guard let next = try nextMagic(after: offset, &window) else {
                    offset = source.size
                    break
                }
                offset = next
                continue
            }
            guard header.span <= source.size - offset else {
                if damagedAt == nil { damagedAt = offset }
                let lost = header.firstExit..<header.firstExit + UInt64(header.exitCount)
                map.damages.append(
                    Damage(
                        damagedAt, "the file is cut off in the middle of a block",
                        lostExits: header.type == .events ? lost : nil))
                return map
            }
            let skipped = damagedAt != nil || header.sequence > sequence
            if skipped { isAfterGap = true }
            if header.type == .events {
                guard header.firstExit >= nextExit else {
                    if damagedAt == nil { damagedAt = offset }
                    offset += 8
                    continue
                }
                if skipped || header.firstExit > nextExit {
                    map.damages.append(
                        Damage(
                            damagedAt ?? offset, "blocks are damaged or missing",
                            lostExits: nextExit..<header.firstExit))
                    damagedAt = nil
                }
                // Before the first block of events only header blocks can be missing.
                if header.firstExit > nextExit || isAfterGap && hasEvents {
                    map.gaps.append(offset)
                }
                isAfterGap = false
                hasEvents = true
                nextExit = header.firstExit + UInt64(header.exitCount)
            } else if skipped {
                map.damages.append(
                    Damage(
                        damagedAt ?? offset, "blocks are damaged or missing",
                        lostExits: header.firstExit > nextExit
                            ? nextExit..<header.firstExit : nil))
                if header.firstExit > nextExit { nextExit = header.firstExit }
                damagedAt = nil
            }
            map.entries.append(BlockEntry(offset: offset, header))
            sequence = header.sequence &+ 1
            offset += header.span
        }
        if let damagedAt {
            map.damages.append(Damage(damagedAt, "what follows is no block"))
        }
        return map
    }

    /// The next place, at a multiple of 8 after `offset`, where a block header may begin.
    private static func nextMagic(
        after offset: UInt64, _ window: inout Window
    ) throws(TraceError) -> UInt64? {
        var at = offset + 8
        while true {
            let bytes = try unsafe window.bytes(at: at, atLeast: 8, reading: 64 * 1024)
            guard bytes.count >= 8, let base = bytes.baseAddress else { return nil }
            var inside = 0
            while inside + 8 <= bytes.count {
                // SAFETY: just checked.
                if unsafe base.get(UInt64.self, at: inside) == BlockHeader.magic {
                    return at + UInt64(inside)
                }
                inside += 8
            }
            at += UInt64(inside)
        }
    }
}

/// A piece of a file that is kept, so that going on by small steps does not read it again.
private struct Window: ~Copyable {
    private let source: ByteSource
    private var buffer = ByteBuffer(capacity: 4096)
    private var start: UInt64 = 0

    init(_ source: ByteSource) { self.source = source }

    /// The bytes from `offset` to the window's end, at least `count` where the file has them; valid until
    /// the next call.
    mutating func bytes(
        at offset: UInt64, atLeast count: Int, reading chunk: Int
    ) throws(TraceError) -> UnsafeRawBufferPointer {
        let end = start + UInt64(buffer.count)
        if offset < start || offset >= end || end - offset < UInt64(count) {
            try source.read(max(count, chunk), at: offset, into: &buffer)
            start = offset
        }
        // SAFETY: `offset` lies in the buffer, or the file ends before it and the buffer is empty.
        return unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[Int(offset - start)...])
    }
}
