internal import Trace

/// A trace as it is compared: its blocks of events, and what was read of them.
final class DiffSource {
    let reader: TraceReader
    let names: AddressNames
    /// Blocks that were decoded; a set, as some are decoded to find and again to show.
    private(set) var decoded: Set<Int> = []
    private var summaries: [Int: BlockSummary] = [:]

    init(_ reader: TraceReader, _ names: AddressNames) {
        self.reader = reader
        self.names = names
    }

    var blockCount: Int { reader.eventBlockCount }
    /// Headers of blocks that were read.
    var headersRead: Int { summaries.count }

    /// What a block covers; nil where its header cannot be read.
    func summary(_ index: Int) -> BlockSummary? {
        if let known = summaries[index] { return known }
        guard index >= 0, index < blockCount,
            let found = try? reader.summary(ofBlock: index)
        else { return nil }
        summaries[index] = found
        return found
    }

    /// The digests before a block's first event; nil where they are not known.
    func digests(before index: Int) -> RunningDigests? {
        index == 0 ? RunningDigests() : summary(index - 1)?.digests
    }

    func noteDecoded(_ index: Int) { decoded.insert(index) }

    /// Notes the blocks that hold some exits.
    func noteDecoded(exits: ClosedRange<UInt64>) {
        guard let first = reader.block(containing: exits.lowerBound) else { return }
        let last = reader.block(containing: exits.upperBound) ?? blockCount - 1
        for index in first...max(first, last) { decoded.insert(index) }
    }

    /// Why this trace may not be the whole run; nil where it is.
    func note(_ side: DiffSide) -> String? {
        let name = "trace \(side.rawValue.uppercased()) (\(reader.path))"
        if let damage = reader.damages.first {
            let more = reader.damages.count > 1 ? " (and \(reader.damages.count - 1) more)" : ""
            return "\(name) is damaged: \(damage)\(more)"
        }
        return reader.isComplete
            ? nil : "\(name) is incomplete: compared up to exit \(reader.exitCount)"
    }
}

/// One of the sequences of events that have a running digest of their own.
enum DigestedStream {
    case full, output, input

    func digest(_ digests: RunningDigests) -> Digest128 {
        switch self {
        case .full: digests.full
        case .output: digests.output
        case .input: digests.input
        }
    }

    /// How many events a digest covers; not kept for all events together.
    func count(_ digests: RunningDigests) -> UInt64 {
        switch self {
        case .full: 0
        case .output: digests.outputCount
        case .input: digests.inputCount
        }
    }

    /// Whether an event is part of the stream.
    func contains(_ event: Event) -> Bool {
        switch (self, event) {
        case (.full, _): true
        case (.output, .exit(let exit)):
            exit.detail.isOutput && !exit.flags.contains(.rewrittenInstruction)
        case (.output, .end): true
        case (.input, .answer), (.input, .completion), (.input, .interruption),
            (.input, .deviceWrite):
            true
        default: false
        }
    }
}

/// Finds where two traces part by what their block headers say.
struct BlockSearch {
    let a: DiffSource
    let b: DiffSource

    /// The first block of `a` whose end `b` does not agree with, by binary search.
    ///
    /// Digests cover everything since exit 0, so agreement at a block's end means agreement at
    /// every place before it.
    func firstDisagreement(_ agrees: (Int) -> Bool) -> Int {
        var low = 0
        var high = a.blockCount
        while low < high {
            let middle = (low + high) / 2
            if agrees(middle) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The block of `b` that ends where block `index` of `a` does.
    ///
    /// Blocks end where their content says, so equal runs have equal blocks; a damaged trace
    /// lacks some, and the last block of an incomplete one is short.
    func partner(of index: Int) -> Int? {
        guard let mine = a.summary(index) else { return nil }
        if let same = b.summary(index), same.endExit == mine.endExit,
            same.eventCount == mine.eventCount || same.digests == mine.digests
        {
            return index
        }
        guard mine.exitCount > 0, let other = b.reader.block(containing: mine.endExit - 1),
            b.summary(other)?.endExit == mine.endExit
        else { return nil }
        return other
    }

    /// Whether both runs are the same up to the end of a block of `a`.
    func agreesFully(_ index: Int) -> Bool {
        guard let other = partner(of: index), let mine = a.summary(index)?.digests,
            let theirs = b.summary(other)?.digests
        else { return false }
        return mine.full == theirs.full
    }

    /// Whether the streams are the same up to the end of a block of `a`, wherever in `b` as many
    /// events have come.
    func agrees(_ index: Int, in stream: DigestedStream) -> Bool {
        guard let mine = a.summary(index)?.digests else { return false }
        guard let theirs = digest(of: b, in: stream, after: stream.count(mine)) else {
            return false
        }
        return stream.digest(mine) == theirs
    }

    /// The first block after whose end a stream has at least `count` events; nil where it never
    /// has.
    static func block(
        of source: DiffSource, in stream: DigestedStream, reaching count: UInt64
    ) -> Int? {
        var low = 0
        var high = source.blockCount
        while low < high {
            let middle = (low + high) / 2
            let reached = source.summary(middle)?.digests.map { stream.count($0) } ?? .max
            if reached >= count { high = middle } else { low = middle + 1 }
        }
        return low < source.blockCount ? low : nil
    }

    /// The digest of the first `count` events of a stream: as a header says it, or rolled forward
    /// inside one block.
    private func digest(
        of source: DiffSource, in stream: DigestedStream, after count: UInt64
    ) -> Digest128? {
        if count == 0 { return .zero }
        guard let index = Self.block(of: source, in: stream, reaching: count),
            let end = source.summary(index)?.digests
        else { return nil }
        if stream.count(end) == count { return stream.digest(end) }
        guard let start = source.digests(before: index),
            var cursor = try? source.reader.events(ofBlock: index)
        else { return nil }
        source.noteDecoded(index)
        var roller = DigestRoller(start)
        while let event = try? cursor.next() {
            guard stream.contains(event) else { continue }
            roller.add(cursor.row)
            if stream.count(roller.digests) == count { return stream.digest(roller.digests) }
            if cursor.blockIndex != index { return nil }
        }
        return nil
    }
}
