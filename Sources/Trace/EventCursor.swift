public import Machine

/// Goes through the events of a trace in order, with the registers at each.
///
/// Ranges in the event that was given last are places in ``array(_:)`` and ``withBytes(_:_:)``. At a
/// damaged or missing block `next` throws once, and goes on after it when it is called again.
public struct EventCursor: ~Copyable {
    private let trace: TraceReader
    private var loader: BlockLoader
    private var decoder = ColumnDecoder()
    private var rows = RowBuffer()
    private var reader: RowReader
    /// The block in `rows`, and the one to go on with.
    public private(set) var blockIndex: Int
    private var nextBlock: Int
    private var nextRow = 0
    private var exitIndex = -1
    /// A block that may be read whatever is missing before it: the first, or one reported.
    private var entryBlock = -1
    /// The number of the next exit.
    public private(set) var nextExitNumber: UInt64
    /// The world stream of the blocks that were read so far.
    public private(set) var worldSize = WorldSize()
    /// The completion that was the last event is a row of the machine as it stood at the interruption
    /// before (``Landmark/stored``); of other events it says nothing.
    public private(set) var isStoredRow = false
    /// How many such rows come next.
    private var storedLeft: UInt16 = 0
    /// What the first `next` gives, found while going to the exit asked for.
    private var pending: Event?

    /// `exit` nil: from the block's first event on.
    init(_ trace: TraceReader, block: Int, exit: UInt64?) throws(TraceError) {
        self.trace = trace
        loader = trace.makeLoader()
        reader = RowReader(vCPUCount: 1)
        blockIndex = block
        nextBlock = block
        nextExitNumber = 0
        guard trace.eventBlockCount > block else { return }
        nextExitNumber = exit == 0 ? 0 : trace.exits(ofBlock: block).lowerBound
        if exit != 0 { entryBlock = block }
        guard let exit, exit > 0 else { return }
        while let event = try next() {
            if event.kind == .exit, exitNumber == exit {
                pending = event
                return
            }
        }
    }

    /// The next event; nil after the last.
    ///
    /// Errors: a block is damaged or missing; with the next call the cursor goes on after it.
    @inline(__always)
    public mutating func next() throws(TraceError) -> Event? {
        if let event = pending {
            pending = nil
            return event
        }
        if nextRow == rows.ends.count {
            guard try openBlock() else { return nil }
        }
        let begin = nextRow == 0 ? 0 : Int(rows.ends[nextRow - 1])
        let row = unsafe rows.row(nextRow)
        nextRow += 1
        do throws(Malformed) {
            let event = try unsafe reader.read(row, offset: begin)
            switch event {
            case .exit:
                nextExitNumber &+= 1
                exitIndex += 1
                storedLeft = 0
            case .interruption: storedLeft = interruption?.landmark?.stored?.rowCount ?? 0
            case .completion:
                isStoredRow = storedLeft > 0
                if isStoredRow { storedLeft -= 1 }
            default: break
            }
            return event
        } catch {
            storedLeft = 0
            nextRow = rows.ends.count
            throw trace.source.damaged(trace.offset(ofBlock: blockIndex), error.what)
        }
    }

    /// Decodes the next block that has events; false after the last.
    @inline(never)
    private mutating func openBlock() throws(TraceError) -> Bool {
        while nextBlock < trace.eventBlockCount {
            let index = nextBlock
            let exits = trace.exits(ofBlock: index)
            if index != entryBlock,
                let gap = trace.gap(beforeBlock: index, nextExit: nextExitNumber)
            {
                nextExitNumber = exits.lowerBound
                entryBlock = index
                throw gap
            }
            nextBlock += 1
            blockIndex = index
            nextRow = 0
            exitIndex = -1
            rows.removeAll()
            do throws(TraceError) {
                try trace.load(index, &loader, &decoder, into: &rows)
            } catch {
                rows.removeAll()
                nextExitNumber = exits.upperBound
                throw error
            }
            reader = RowReader(states: rows.baseline)
            worldSize.events &+= UInt64(rows.world.count)
            worldSize.bytes &+= UInt64(rows.worldBytes)
            if !rows.ends.isEmpty { return true }
        }
        return false
    }

    /// General-purpose registers, RIP and RFLAGS after the last event: at an exit, its snapshot.
    public var registers: GeneralRegisters { reader.registers }

    /// System registers after the last event.
    public var system: SystemRegisters { reader.system }

    /// The vCPU of the last event.
    public var vCPU: UInt8 { reader.vCPU }

    /// The registers of any vCPU after the last event; nil for a vCPU that does not exist.
    public func snapshot(
        vCPU: UInt8
    ) -> (registers: GeneralRegisters, system: SystemRegisters)? {
        reader.snapshot(vCPU: vCPU)
    }

    /// The number of the last exit that was given, nil before the first.
    public var exitNumber: UInt64? { nextExitNumber == 0 ? nil : nextExitNumber - 1 }

    /// How long the last exit took; nil without timing, and where a block begins without an exit.
    public var time: ExitTime? {
        rows.times.indices.contains(exitIndex) ? rows.times[exitIndex] : nil
    }

    /// Bytes of the last event, copied; empty for a range that is none of it.
    public func array(_ range: Range<Int>) -> [UInt8] {
        guard range.lowerBound >= 0, range.upperBound <= rows.rows.count else { return [] }
        // SAFETY: the range lies within the rows, and the bytes are copied.
        return unsafe Array(rows.rows.bytes[range])
    }

    /// Gives `body` bytes of the last event; none for a range that is none of it.
    @inline(__always)
    public func withBytes<Result>(
        _ range: Range<Int>, _ body: (RawSpan) -> Result
    ) -> Result {
        let isInside = range.lowerBound >= 0 && range.upperBound <= rows.rows.count
        // SAFETY: the range lies within the rows, which stay as they are during the call.
        let bytes = unsafe UnsafeRawBufferPointer(
            rebasing: rows.rows.bytes[isInside ? range : 0..<0])
        return unsafe body(bytes.bytes)
    }

    /// The changes of a completion that was the last event.
    public func changes(_ range: Range<Int>) -> [Change] {
        withBytes(range) { span in
            // SAFETY: the bytes are read during the call only.
            unsafe span.withUnsafeBytes { unsafe RowReader.changes(in: $0) }
        }
    }

    /// The interruption that was the last event, with its landmark; nil where that was none.
    public var interruption: Interruption? {
        guard nextRow > 0 else { return nil }
        // SAFETY: the row stays as it is while it is read.
        let row = unsafe rows.row(nextRow - 1)
        do throws(Malformed) {
            return unsafe try TapeRow(row).interruption(snapshot: reader.registers)
        } catch { return nil }
    }

    /// The row of the last event, copied.
    public var row: [UInt8] {
        guard nextRow > 0 else { return [] }
        // SAFETY: the bytes are copied.
        return unsafe Array(rows.row(nextRow - 1))
    }
}
