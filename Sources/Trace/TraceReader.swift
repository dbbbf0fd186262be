/// Reads a trace: complete, unfinished (`.partial`, with its side file), cut off or damaged.
///
/// Opening reads the index and the header blocks, or, where there is no sound index, every block
/// header once; blocks of events are read when they are asked for. What cannot be read is reported as
/// ``Damage`` or thrown for the block it is in; the rest stays readable. May be used from several
/// threads at once.
public final class TraceReader: Sendable {
    /// The file that was opened, or the name given to the bytes.
    public let path: String
    /// What is known of the run; parts whose blocks are damaged are empty.
    public let header: TraceHeader
    /// What tells this run's set-up from another's.
    public let identity: UInt64
    /// The trace holds host time.
    public let hasTiming: Bool
    /// The trace holds a world stream: what its devices took from outside.
    public let hasWorldStream: Bool
    /// The recording was finished, and index and end are sound.
    public let isComplete: Bool
    /// What was found damaged when the trace was opened; blocks of events were not read then.
    public let damages: [Damage]
    /// Length of the file, in bytes, without its side file.
    public var fileBytes: UInt64 { source.size }
    /// How often the file was read so far, and how many bytes.
    public var statistics: (reads: UInt64, bytes: UInt64) { source.statistics }

    let source: ByteSource
    let map: FileMap
    let tail: Tail?
    /// Blocks of events in the file, then slots of the side file.
    private let blocks: [BlockEntry]
    private let fileBlockCount: Int
    /// Indexes of the blocks of events before which something is missing.
    private let gaps: Set<Int>
    /// The number of vCPUs, nil where the machine block is damaged.
    private let vCPUCount: Int?

    /// Opens a trace.
    ///
    /// Where `path` does not exist and `path.partial` does, that is opened. Errors: the file cannot be
    /// read, is no trace, or needs a newer reader.
    public convenience init(path: String) throws(TraceError) {
        let partial = Paths.partial(path)
        let isPartial = PathKind(path) == .nothing && PathKind(partial) != .nothing
        let actual = isPartial ? partial : path
        // The side file first: what leaves it while we read is in the trace by then.
        var tail: [UInt8]?
        let tailPath = Paths.tail(ofPartial: actual)
        if PathKind(tailPath) == .regularFile {
            let source = try ByteSource(path: tailPath)
            guard source.size <= 1 << 30 else {
                throw TraceError(.tooLarge, file: tailPath, "this is no side file of a trace")
            }
            var buffer = ByteBuffer()
            try source.read(Int(source.size), at: 0, into: &buffer)
            tail = buffer.array()
        }
        try self.init(ByteSource(path: actual), tail: tail)
    }

    /// Opens a trace that lies in memory, with the bytes of its side file if there are any.
    public convenience init(
        bytes: [UInt8], tail: [UInt8]? = nil, name: String = "bytes"
    ) throws(TraceError) {
        try self.init(ByteSource(bytes: bytes, name: name), tail: tail)
    }

    private init(_ source: ByteSource, tail tailBytes: [UInt8]?) throws(TraceError) {
        self.source = source
        path = source.name
        var damages: [Damage] = []
        let (identity, prelude) = try Self.readPrelude(source, &damages)
        self.identity = identity
        var map: FileMap
        if let found = FileMap.fromIndex(source, identity: identity) {
            map = found
        } else {
            map = try FileMap.fromHeaders(source, identity: identity)
            if let last = map.entries.last, last.type == .end,
                last.offset + EndBlock.spanBytes == source.size
            {
                damages.append(Damage(last.offset, "the index is damaged or does not fit"))
            }
        }
        var header = TraceHeader(machine: MachineDescription(ramBytes: 0))
        var loader = BlockLoader(source, identity: identity)
        var hasMachine = false
        for entry in map.entries
        where entry.type.rawValue < BlockType.events.rawValue && entry.type != .imageBytes {
            do throws(TraceError) {
                let block = try loader.load(at: entry.offset)
                do throws(Malformed) {
                    try unsafe HeaderCoding.read(
                        block.type, loader.payload.bytes, into: &header)
                    if block.type == .machine { hasMachine = true }
                } catch {
                    damages.append(Damage(entry.offset, error.what))
                }
            } catch {
                damages.append(Damage(entry.offset, error.message))
            }
        }
        self.header = header
        vCPUCount = hasMachine ? header.machine.vCPUCount : nil

        var blocks = map.entries.filter { $0.type == .events }
        fileBlockCount = blocks.count
        let gapOffsets = Set(map.gaps)
        var gaps = Set(blocks.indices.filter { gapOffsets.contains(blocks[$0].offset) })
        var tail: Tail?
        if let tailBytes, !map.isComplete {
            let nextExit = blocks.last?.endExit ?? 0
            var last: Tail.LastBlock?
            if let entry = blocks.last, let header = try? loader.header(at: entry.offset) {
                last = .init(sequence: header.sequence, digests: header.digests)
            }
            do throws(Malformed) {
                let found = try Tail(
                    tailBytes, identity: identity, after: last, nextExit: nextExit)
                damages += found.damages
                for slot in found.slots {
                    if slot.isAfterGap { gaps.insert(blocks.count) }
                    blocks.append(BlockEntry(slot))
                }
                // A block that was being written when the recording ended is in the side file.
                if let first = found.slots.first, let torn = map.damages.last,
                    first.firstExit == nextExit,
                    torn.lostExits.map({ $0.lowerBound == nextExit }) ?? true
                {
                    map.damages.removeLast()
                }
                tail = found
            } catch {
                damages.append(Damage(nil, error.what))
            }
        }
        guard !map.entries.isEmpty else {
            throw TraceError(
                .damaged, file: path, offset: UInt64(Prelude.bytes),
                "no block of this trace can be read")
        }
        hasTiming = prelude?.hasTiming ?? false
        hasWorldStream = prelude?.hasWorldStream ?? false
        isComplete = map.isComplete
        self.damages = damages + map.damages
        self.map = map
        self.tail = tail
        self.blocks = blocks
        self.gaps = gaps
    }

    /// The identity, from the prelude or, where that is damaged, from the blocks after it.
    private static func readPrelude(
        _ source: ByteSource, _ damages: inout [Damage]
    ) throws(TraceError) -> (UInt64, Prelude?) {
        var buffer = ByteBuffer()
        try source.read(Prelude.bytes, at: 0, into: &buffer)
        let reading = unsafe Prelude.read(buffer.bytes)
        switch reading {
        case .good(let prelude): return (prelude.identity, prelude)
        case .unreadable(let code, let message):
            throw TraceError(code, file: source.name, message)
        case .damaged, .foreign: break
        }
        // Two neighbouring blocks must claim the same.
        let first = UInt64(Prelude.bytes)
        try source.read(BlockHeader.bytes, at: first, into: &buffer)
        if let claim = unsafe BlockHeader.claimedIdentity(buffer.bytes),
            let header = unsafe BlockHeader(buffer.bytes, identity: claim)
        {
            try source.read(BlockHeader.bytes, at: first + header.span, into: &buffer)
            if unsafe BlockHeader.claimedIdentity(buffer.bytes) == claim {
                damages.append(Damage(0, "the first 64 bytes, the prelude, are damaged"))
                return (claim, nil)
            }
        }
        if reading == .damaged {
            throw source.damaged(0, "the trace's prelude and first block are damaged")
        }
        throw TraceError(
            .notATrace, file: source.name,
            source.size == 0 ? "the file is empty" : "this is no vmtape trace")
    }

    // MARK: Blocks of events

    /// The number of blocks of events that can be found, those of the side file included.
    public var eventBlockCount: Int { blocks.count }

    /// The number after the last readable exit; with nothing lost, the number of exits.
    public var exitCount: UInt64 { blocks.last?.endExit ?? 0 }

    /// The block that holds an exit; nil where it is lost or does not exist.
    public func block(containing exit: UInt64) -> Int? {
        let index = firstBlock(endingAfter: exit)
        guard index < blocks.count, blocks[index].firstExit <= exit else { return nil }
        return index
    }

    /// The first block that ends after an exit.
    private func firstBlock(endingAfter exit: UInt64) -> Int {
        var low = 0
        var high = blocks.count
        while low < high {
            let middle = (low + high) / 2
            if blocks[middle].endExit <= exit { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// What a block covers; reads its header.
    ///
    /// Errors: the header is damaged or cannot be read, there is no such block.
    public func summary(ofBlock index: Int) throws(TraceError) -> BlockSummary {
        try checkIndex(index)
        let entry = blocks[index]
        if index >= fileBlockCount, let slot = tail?.slots[index - fileBlockCount] {
            return BlockSummary(
                index: index, offset: entry.offset, isInTail: true, firstExit: slot.firstExit,
                exitCount: Int(slot.exitCount), eventCount: Int(slot.eventCount),
                digests: slot.digests, hostNanoseconds: slot.hostNanoseconds,
                storedBytes: slot.frameBytes, rawBytes: slot.frameBytes)
        }
        var loader = BlockLoader(source, identity: identity)
        let header = try loader.header(at: entry.offset)
        try check(header, entry)
        return BlockSummary(
            index: index, offset: entry.offset, isInTail: false, firstExit: header.firstExit,
            exitCount: Int(header.exitCount), eventCount: Int(header.eventCount),
            digests: header.digests, hostNanoseconds: header.hostNanoseconds,
            storedBytes: Int(header.span), rawBytes: Int(header.rawLength))
    }

    private func checkIndex(_ index: Int) throws(TraceError) {
        guard index >= 0, index < blocks.count else {
            throw TraceError(
                .outOfRange, file: path, "there is no block \(index), but \(blocks.count) blocks")
        }
    }

    private func check(_ header: BlockHeader, _ entry: BlockEntry) throws(TraceError) {
        guard BlockEntry(offset: entry.offset, header) == entry else {
            throw source.damaged(entry.offset, "the block is not the one the index names")
        }
    }

    /// Decodes a block into rows.
    func load(
        _ index: Int, _ loader: inout BlockLoader, _ decoder: inout ColumnDecoder,
        into output: inout RowBuffer
    ) throws(TraceError) {
        try checkIndex(index)
        let entry = blocks[index]
        do throws(Malformed) {
            if index >= fileBlockCount, let tail {
                try tail.load(tail.slots[index - fileBlockCount], into: &output)
                return
            }
        } catch { throw source.damaged(nil, "side file: " + error.what) }
        let header = try loader.load(at: entry.offset)
        try check(header, entry)
        do throws(Malformed) {
            try unsafe decoder.decode(
                loader.payload.bytes, header: header, vCPUCount: vCPUCount, into: &output)
        } catch { throw source.damaged(entry.offset, error.what) }
    }

    func makeLoader() -> BlockLoader { BlockLoader(source, identity: identity) }

    /// The exits a block covers, as the index says.
    func exits(ofBlock index: Int) -> Range<UInt64> {
        blocks[index].firstExit..<blocks[index].endExit
    }

    /// An error where events before a block are missing; nil where the block goes on from the one before,
    /// after which `exit` would be next.
    func gap(beforeBlock index: Int, nextExit exit: UInt64) -> TraceError? {
        let begin = blocks[index].firstExit
        if begin == exit && !gaps.contains(index) { return nil }
        return source.damaged(
            offset(ofBlock: index),
            begin > exit
                ? "exits \(exit)..\(begin - 1) before this block are lost"
                : "events before exit \(begin) are lost")
    }

    /// Where a block is, for errors.
    func offset(ofBlock index: Int) -> UInt64? {
        index < fileBlockCount ? blocks[index].offset : nil
    }

    // MARK: Events

    /// The events from an exit on; from 0, with what is before the first exit.
    ///
    /// Errors: there is no such exit, or its block is damaged.
    public func events(from exit: UInt64 = 0) throws(TraceError) -> EventCursor {
        try EventCursor(self, block: try startBlock(exit), exit: exit)
    }

    /// The events of a block and of those after it, from the block's first event on; none after
    /// the last block.
    ///
    /// Errors: there is no such block.
    public func events(ofBlock index: Int) throws(TraceError) -> EventCursor {
        if index != eventBlockCount { try checkIndex(index) }
        return try EventCursor(self, block: index, exit: nil)
    }

    /// The rows from an exit on, decoded ahead on another thread; from 0, with what is before the
    /// first exit.
    ///
    /// Errors: there is no such exit, its block is damaged, no thread can be made.
    public func tape(from exit: UInt64 = 0) throws(TraceError) -> TapeCursor {
        try TapeCursor(self, block: try startBlock(exit), exit: exit)
    }

    func startBlock(_ exit: UInt64) throws(TraceError) -> Int {
        if exit == 0 { return 0 }
        guard let block = block(containing: exit) else {
            throw TraceError(
                .outOfRange, file: path,
                exit < exitCount
                    ? "exit \(exit) is in a damaged part"
                    : "there is no exit \(exit): the trace has \(exitCount)")
        }
        return block
    }
}

extension BlockEntry {
    init(_ slot: Tail.Slot) {
        offset = UInt64(slot.offset)
        firstExit = slot.firstExit
        exitCount = slot.exitCount
        type = .events
    }
}
