import Synchronization

/// The writer thread's side: turns sealed slots into blocks, and completes the file.
///
/// `Sendable`: `run` is called by the writer thread alone, `complete` after that thread was joined.
final class WriterCore: @unchecked Sendable {
    private let ring: EventRing
    private let progress: TraceProgress
    private var state: State

    private struct State: ~Copyable {
        var blocks: BlockWriter
        var columns: ColumnEncoder
        var roller = DigestRoller()
        var payload = ByteBuffer(capacity: 512 * 1024)
        var eventBytes: UInt64 = 0
    }

    init(
        _ blocks: consuming BlockWriter, _ ring: EventRing, _ progress: TraceProgress,
        _ columns: consuming ColumnEncoder
    ) {
        self.ring = ring
        self.progress = progress
        state = State(blocks: blocks, columns: columns)
    }

    /// Writes blocks until the ring is closed and empty, or until one cannot be written.
    func run() {
        // The vCPU thread fills the first slot, then the one after the sealed one: always one ahead.
        ring.bringIn(1)
        ring.bringIn(2)
        while let ordinal = ring.next() {
            ring.bringIn(ordinal + 2)
            do throws(TraceError) {
                try Self.write(ring, ordinal, &state)
                progress.set(bytes: state.blocks.offset)
                ring.written(ordinal)
            } catch {
                ring.fail(error)
                return
            }
        }
    }

    private static func write(
        _ ring: EventRing, _ ordinal: UInt64, _ state: inout State
    ) throws(TraceError) {
        let slot = unsafe ring.slot(ordinal)
        // SAFETY: the slot is the writer thread's from seal to written; frames were put there by
        // this process.
        let count = Int(unsafe EventRing.committed(slot).pointee.load(ordering: .acquiring))
        let frames = unsafe UnsafeRawPointer(
            slot + SideSlot.framesAt(vCPUCount: ring.vCPUCount))
        var header = BlockHeader(type: .events, sequence: 0)
        header.firstExit = unsafe UnsafeRawPointer(slot).get(
            UInt64.self, at: SideSlot.firstExitAt)
        var previousReturned = unsafe UnsafeRawPointer(slot).get(
            UInt64.self, at: SideSlot.previousReturnedAt)
        var offset = 0
        while offset < count {
            let next = unsafe Frame(frames, count: count, at: offset, ordinal: ordinal)
            if let frame = unsafe next, unsafe WorldRow.isOne(frame.row) {
                unsafe state.columns.addWorld(frame.row)
                offset = unsafe frame.end
                continue
            }
            guard let frame = unsafe next, let view = try? unsafe RowView(frame.row) else {
                throw TraceError(
                    .damaged, file: state.blocks.path,
                    "the side file was changed while recording: do not touch it")
            }
            var stamps: Stamps?
            if view.kind == .exit {
                if unsafe frame.hasStamps {
                    let now = unsafe Stamps(
                        entered: frame.entered, returned: frame.returned,
                        previousReturned: previousReturned)
                    if header.exitCount == 0 {
                        header.hostNanoseconds = state.columns.sinceOrigin(now.returned)
                    }
                    previousReturned = now.returned
                    stamps = now
                }
                header.exitCount += 1
            }
            header.eventCount += 1
            unsafe state.columns.add(frame.row, view, stamps)
            unsafe state.roller.add(frame.row, view)
            offset = unsafe frame.end
        }
        header.digests = state.roller.digests
        state.columns.finishBlock(into: &state.payload)
        let before = state.blocks.offset
        // SAFETY: the payload does not change during the call.
        try unsafe state.blocks.block(header, state.payload.bytes)
        state.eventBytes += state.blocks.offset - before
    }

    /// Writes what follows the last event: RAM digest, index and end.
    func complete(
        exitCount: UInt64, eventCount: UInt64, memory: MemoryDigest?
    ) throws(TraceError) -> TraceSummary {
        let digests = state.roller.digests
        var template = BlockHeader(type: .memoryDigest, sequence: 0)
        template.firstExit = exitCount
        template.digests = digests
        if let memory {
            var begin = 0
            repeat {
                let end = min(begin + Limits.digestPages, memory.pages.count)
                let payload = memory.payload(begin..<end)
                try unsafe state.blocks.block(template, payload.bytes)
                begin = end
            } while begin < memory.pages.count
        }
        let last = try state.blocks.index(template)
        template.type = .end
        var payload = ByteBuffer()
        EndBlock(
            exitCount: exitCount, eventCount: eventCount, lastIndexOffset: last,
            blockCount: UInt64(state.blocks.sequence)
        ).append(to: &payload)
        try unsafe state.blocks.block(template, payload.bytes, compressing: false)
        try state.blocks.synchronise()
        progress.set(bytes: state.blocks.offset)
        return TraceSummary(
            exitCount: exitCount, eventCount: eventCount, fileBytes: state.blocks.offset,
            eventBytes: state.eventBytes, digests: digests)
    }
}

/// The payload of the last block: fixed, so that it is found from the end of the file.
struct EndBlock: Equatable {
    static let bytes = 64
    /// With its header: so far from the end of the file the block begins.
    static let spanBytes = UInt64(BlockHeader.bytes + bytes)
    var exitCount: UInt64
    var eventCount: UInt64
    /// Where the last index block begins; it says where the one before is.
    var lastIndexOffset: UInt64
    /// Blocks before the end block.
    var blockCount: UInt64

    func append(to buffer: inout ByteBuffer) {
        buffer.append(exitCount)
        buffer.append(eventCount)
        buffer.append(lastIndexOffset)
        buffer.append(blockCount)
        buffer.append(zeros: 32)
    }

    init(exitCount: UInt64, eventCount: UInt64, lastIndexOffset: UInt64, blockCount: UInt64) {
        self.exitCount = exitCount
        self.eventCount = eventCount
        self.lastIndexOffset = lastIndexOffset
        self.blockCount = blockCount
    }

    init(_ payload: UnsafeRawBufferPointer) throws(Malformed) {
        // SAFETY: the reader checks every bound.
        var reader = unsafe ByteReader(payload, "the end block")
        exitCount = try reader.integer()
        eventCount = try reader.integer()
        lastIndexOffset = try reader.integer()
        blockCount = try reader.integer()
        for _ in 0..<4 where try reader.integer(UInt64.self) != 0 {
            throw Malformed("the end block sets reserved bytes")
        }
        guard reader.isAtEnd else { throw Malformed("the end block has bytes too many") }
    }
}
