/// Goes through the world stream of a trace in order.
public struct WorldCursor: ~Copyable {
    private let trace: TraceReader
    private var loader: BlockLoader
    private var decoder = ColumnDecoder()
    private var rows = RowBuffer()
    private var firstExit: UInt64 = 0
    private var nextBlock: Int
    private var nextEntry = 0
    /// Exits up to the end of the block that was read last.
    private var exitCount: UInt64

    init(_ trace: TraceReader, block: Int, exit: UInt64) throws(TraceError) {
        self.trace = trace
        loader = trace.makeLoader()
        nextBlock = block
        exitCount = exit
        guard exit > 0 else { return }
        exitCount = trace.exits(ofBlock: block).lowerBound
        while let next = try peek(), next.exitCount <= exit { skip() }
    }

    /// What ``next()`` will give.
    ///
    /// Errors: a block is damaged or missing. The stream ends there.
    public mutating func peek() throws(TraceError) -> (exitCount: UInt64, event: WorldEvent)? {
        while nextEntry == rows.world.count {
            guard nextBlock < trace.eventBlockCount else { return nil }
            let exits = trace.exits(ofBlock: nextBlock)
            if let gap = trace.gap(beforeBlock: nextBlock, nextExit: exitCount) { throw gap }
            try trace.load(nextBlock, &loader, &decoder, into: &rows)
            firstExit = exits.lowerBound
            exitCount = exits.upperBound
            nextBlock += 1
            nextEntry = 0
        }
        let entry = rows.world[nextEntry]
        return (firstExit &+ UInt64(entry.exit + 1), entry.event)
    }

    /// The next event, and how many exits were made before it: one more than the number of the exit
    /// it belongs to, 0 before the first. Nil after the last.
    ///
    /// Errors: a block is damaged or missing. The stream ends there.
    public mutating func next() throws(TraceError) -> (exitCount: UInt64, event: WorldEvent)? {
        let result = try peek()
        if result != nil { skip() }
        return result
    }

    private mutating func skip() { nextEntry += 1 }
}

/// How much a world stream is.
public struct WorldSize: Equatable, Sendable {
    /// Its events.
    public var events: UInt64 = 0
    /// What they take before compression, in bytes.
    public var bytes: UInt64 = 0

    /// None.
    public init() {}
}

extension TraceReader {
    /// The world stream from an exit on: what belongs to it, and to what follows. From 0, with what
    /// is before the first exit. Empty where the trace has none.
    ///
    /// Errors: there is no such exit, or its block is damaged.
    public func worldEvents(from exit: UInt64 = 0) throws(TraceError) -> WorldCursor {
        try WorldCursor(self, block: try startBlock(exit), exit: exit)
    }
}
