public import Trace

/// The exits of a trace that lie in a range and match a filter, in order.
///
/// It begins where the first may be and ends after the last, and passes over blocks that the
/// filter's conditions on exit numbers rule out: what is not read costs nothing. A damaged block
/// is one thrown error, at its place; the next call goes on after it.
public struct ExitSelection: ~Copyable {
    private let reader: TraceReader
    private let names: AddressNames
    private var filter: Filter?
    private var frames: FrameReader?
    /// The exits that are wanted; nil where there are none.
    private let wanted: ClosedRange<UInt64>?
    /// The next exit that is wanted, where `frames` is nil.
    private var start: UInt64
    /// The exits of the block that was last found to hold some that may match.
    private var block: Range<UInt64> = 0..<0
    /// The last exit that is wanted was read.
    private var isFinished = false
    /// Exits that were read so far, matching or not.
    public private(set) var readCount: UInt64 = 0

    /// Selects exits.
    ///
    /// - Parameters:
    ///   - reader: the trace.
    ///   - range: the exits to look at; nil for all. What lies behind the trace's end is not there.
    ///   - filter: what they must match; nil for nothing.
    ///   - names: names for the filter's conditions on symbols.
    public init(
        _ reader: TraceReader, range: ClosedRange<UInt64>? = nil, filter: Filter? = nil,
        names: AddressNames = AddressNames()
    ) {
        self.reader = reader
        self.names = names
        self.filter = filter
        var wanted = range ?? 0...UInt64.max
        var isEmpty = false
        if let filter {
            if let bounds = filter.exitBounds, bounds.overlaps(wanted) {
                wanted = wanted.clamped(to: bounds)
            } else {
                isEmpty = true
            }
        }
        self.wanted = isEmpty ? nil : wanted
        start = wanted.lowerBound
    }

    /// Fills `frame` with the next exit that was selected; false after the last.
    public mutating func next(into frame: inout ExitFrame) throws(TraceError) -> Bool {
        guard let wanted else { return false }
        while !isFinished {
            if frames == nil, try !open() { return false }
            guard let isRead = try frames?.next(into: &frame), isRead else { return false }
            readCount &+= 1
            isFinished = frame.number >= wanted.upperBound
            if frame.number > wanted.upperBound { return false }
            guard filter != nil else { return true }
            if !block.contains(frame.number), !mayMatchBlock(of: frame.number) { continue }
            if filter?.matches(frame, names: names) == true { return true }
        }
        return false
    }

    /// Begins to read at `start`; false where nothing is left from there on.
    private mutating func open() throws(TraceError) -> Bool {
        guard let wanted, start <= wanted.upperBound, start < reader.exitCount else {
            return false
        }
        guard reader.block(containing: start) != nil || start == 0 else {
            // The exit is lost: told once, and on with the first block after it.
            let lost = start
            start = firstExit(after: start)
            throw TraceError(
                .damaged, file: reader.path,
                "exits \(lost)..\(start - 1) are lost: their block is damaged or missing")
        }
        do throws(TraceError) {
            frames = try FrameReader(reader, from: start)
        } catch {
            start = firstExit(after: start)
            throw error
        }
        return true
    }

    /// The first exit of the first block that begins after an exit.
    private func firstExit(after exit: UInt64) -> UInt64 {
        var low = 0
        var high = reader.eventBlockCount
        while low < high {
            let middle = (low + high) / 2
            let first = (try? reader.summary(ofBlock: middle))?.firstExit ?? 0
            if first > exit { high = middle } else { low = middle + 1 }
        }
        guard low < reader.eventBlockCount else { return reader.exitCount }
        return (try? reader.summary(ofBlock: low))?.firstExit ?? reader.exitCount
    }

    /// Whether the block of an exit may hold some that match; where not, goes to the next that may.
    private mutating func mayMatchBlock(of exit: UInt64) -> Bool {
        guard let filter, let index = reader.block(containing: exit),
            let summary = try? reader.summary(ofBlock: index), summary.exitCount > 0
        else { return true }
        block = summary.firstExit..<summary.endExit
        if filter.mayMatch(exits: summary.firstExit...(summary.endExit - 1)) { return true }
        for next in index + 1..<max(index + 1, reader.eventBlockCount) {
            guard let summary = try? reader.summary(ofBlock: next) else { break }
            guard summary.exitCount > 0 else { continue }
            if filter.mayMatch(exits: summary.firstExit...(summary.endExit - 1)) {
                start = summary.firstExit
                frames = nil
                return false
            }
        }
        start = .max
        frames = nil
        return false
    }
}
