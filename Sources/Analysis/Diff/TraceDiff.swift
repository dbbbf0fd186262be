internal import Machine
public import Trace

/// Compares two traces: where they part, which inputs differed, and what came of it.
///
/// At the levels `full` and `io` the place is found by binary search over the running digests in
/// block headers; then one block of each is decoded, however long the traces are. The level
/// `symbol` reads both through.
public struct TraceDiff {
    /// What to compare, and how much to show.
    public struct Options: Sendable {
        /// How closely.
        public var level: DiffLevel
        /// Exits before the first difference that are shown.
        public var context: Int
        /// Exits after the first difference that are aligned; 0 for none.
        public var window: Int

        /// Makes options.
        public init(level: DiffLevel = .full, context: Int = 5, window: Int = 2000) {
            self.level = level
            self.context = context
            self.window = window
        }
    }

    private let a: DiffSource
    private let b: DiffSource
    private let search: BlockSearch
    private let options: Options
    private let progress: (UInt64) -> Bool

    /// Compares two traces.
    ///
    /// - Parameter progress: called once a few thousand exits at the level `symbol`, with the
    ///   number reached; false ends the comparison there.
    public static func compare(
        _ a: TraceReader, _ b: TraceReader, options: Options = Options(),
        namesA: AddressNames = AddressNames(), namesB: AddressNames = AddressNames(),
        progress: @escaping (UInt64) -> Bool = { _ in true }
    ) -> DiffResult {
        let (a, b) = (DiffSource(a, namesA), DiffSource(b, namesB))
        let diff = TraceDiff(
            a: a, b: b, search: BlockSearch(a: a, b: b), options: options, progress: progress)
        var result = diff.run()
        result.blocksRead = (a.decoded.count, b.decoded.count)
        result.headersRead = (a.headersRead, b.headersRead)
        return result
    }

    private func run() -> DiffResult {
        var result = DiffResult(
            level: options.level,
            headerDifferences: HeaderDifferences.between(a.reader.header, b.reader.header),
            outcome: .same, agreed: 0,
            exitCounts: (a.reader.exitCount, b.reader.exitCount), firstInput: nil,
            aftermath: nil, notes: [a.note(.a), b.note(.b)].compactMap { $0 },
            blocksRead: (0, 0), headersRead: (0, 0))
        do throws(TraceError) {
            switch options.level {
            case .full: try compareFully(&result)
            case .io: try compareOutputs(&result)
            case .symbol: try compareSites(&result)
            }
            if case .same = result.outcome, options.level == .full { return result }
            if case .prefix = result.outcome { return result }
            result.firstInput = try firstInputDifference()
        } catch {
            result.outcome = .unreadable(error.description)
        }
        return result
    }

    // MARK: full

    private func compareFully(_ result: inout DiffResult) throws(TraceError) {
        let index = search.firstDisagreement { search.agreesFully($0) }
        let other = index == 0 ? 0 : (search.partner(of: index - 1) ?? index - 1) + 1
        var left = try EventScan(a, block: index)
        var right = try EventScan(b, block: other)
        var agreed = index == 0 ? 0 : a.summary(index - 1)?.endExit ?? 0
        while true {
            let hasLeft = left.next()
            let hasRight = right.next()
            if let damage = left.damage ?? right.damage {
                result.agreed = agreed
                result.outcome = .unreadable(damage)
                return
            }
            if !hasLeft, !hasRight {
                result.agreed = agreed
                return
            }
            if hasLeft, hasRight, left.row == right.row {
                agreed = left.cursor.nextExitNumber
                continue
            }
            result.agreed = min(
                agreed, hasLeft ? left.exit ?? 0 : agreed, hasRight ? right.exit ?? 0 : agreed)
            if left.isCutOff || right.isCutOff {
                result.outcome = Self.cut(left.isCutOff, right.isCutOff, left.exit, right.exit)
            } else {
                result.outcome = .diverged(divergence(left, right))
                result.aftermath = aftermath(left.exit, right.exit)
            }
            return
        }
    }

    /// What two runs are of which at least one was cut off.
    private static func cut(
        _ left: Bool, _ right: Bool, _ leftExit: UInt64?, _ rightExit: UInt64?
    ) -> DiffResult.Outcome {
        // Both were cut off at the same place, for different reasons: they are the same as far
        // as they go.
        if left, right { return .same }
        return .prefix(shorter: left ? .a : .b)
    }

    private func divergence(
        _ left: borrowing EventScan, _ right: borrowing EventScan
    ) -> Divergence {
        var found = Divergence(
            exits: (left.exit, right.exit), frames: (nil, nil), differences: [], contextA: [],
            contextB: [])
        guard left.exit != nil || right.exit != nil else {
            var frames = (ExitFrame(), ExitFrame())
            (frames.0.registers, frames.0.system) = (left.registers, left.system)
            (frames.1.registers, frames.1.system) = (right.registers, right.system)
            found.differences = FrameDifferences.registers(frames.0, frames.1)
            return found
        }
        fill(&found)
        if found.differences.isEmpty, left.text != right.text {
            found.differences.append(Difference("then", left.text, right.text))
        }
        return found
    }

    /// Reads the exits that differ and those before them.
    private func fill(_ found: inout Divergence) {
        let left = frames(a, upTo: found.exits.a)
        let right = frames(b, upTo: found.exits.b)
        found.frames = (left.last, right.last)
        found.contextA = Array(left.dropLast())
        let context = Array(right.dropLast())
        if options.level != .full || found.exits.a != found.exits.b { found.contextB = context }
        if let left = left.last, let right = right.last {
            found.differences = FrameDifferences.between(
                left, right, level: options.level, namesA: a.names, namesB: b.names)
        }
    }

    private func frames(_ source: DiffSource, upTo exit: UInt64?) -> [ExitFrame] {
        guard let exit else { return [] }
        let first = exit - min(exit, UInt64(max(0, options.context)))
        source.noteDecoded(exits: first...exit)
        var found: [ExitFrame] = []
        guard var reader = try? FrameReader(source.reader, from: first) else { return [] }
        var frame = ExitFrame()
        while let isRead = try? reader.next(into: &frame), isRead {
            found.append(frame)
            if frame.number >= exit { break }
        }
        return found
    }

    // MARK: io

    private func compareOutputs(_ result: inout DiffResult) throws(TraceError) {
        var pair = try scans(.output)
        var agreed = pair.agreed
        while true {
            let hasLeft = pair.left.next(in: .output)
            let hasRight = pair.right.next(in: .output)
            result.agreed = agreed
            if let damage = pair.left.damage ?? pair.right.damage {
                result.outcome = .unreadable(damage)
                return
            }
            if !hasLeft, !hasRight { return }
            if hasLeft, hasRight, pair.left.output == pair.right.output {
                agreed += 1
                continue
            }
            if pair.left.isCutOff || pair.right.isCutOff {
                result.outcome = Self.cut(
                    pair.left.isCutOff, pair.right.isCutOff, pair.left.exit, pair.right.exit)
                return
            }
            var found = Divergence(
                exits: (pair.left.exit, pair.right.exit), frames: (nil, nil), differences: [],
                contextA: [], contextB: [])
            fill(&found)
            if case .end = pair.left.event, case .end = pair.right.event {
                found.differences = [Difference("end", pair.left.text, pair.right.text)]
            } else if case .end = pair.left.event {
                found.differences = [Difference("output", pair.left.text, nil)]
            } else if case .end = pair.right.event {
                found.differences = [Difference("output", nil, pair.right.text)]
            }
            result.outcome = .diverged(found)
            result.aftermath = aftermath(pair.left.exit, pair.right.exit)
            return
        }
    }

    private struct ScanPair: ~Copyable {
        var left: EventScan
        var right: EventScan
        /// Events of the stream that are the same, all before where the scans stand.
        var agreed: UInt64
    }

    /// Scans that stand at the same place in a stream, at most one block before its first
    /// difference.
    private func scans(_ stream: DigestedStream) throws(TraceError) -> ScanPair {
        let index = search.firstDisagreement { search.agrees($0, in: stream) }
        let start = a.digests(before: index) ?? RunningDigests()
        let agreed = stream.count(start)
        let other = BlockSearch.block(of: b, in: stream, reaching: agreed + 1) ?? b.blockCount
        let before = b.digests(before: other).map { stream.count($0) } ?? agreed
        let left = try EventScan(a, block: index)
        var right = try EventScan(b, block: other)
        var skipped = min(before, agreed)
        while skipped < agreed, right.next(in: stream) { skipped += 1 }
        return ScanPair(left: left, right: right, agreed: agreed)
    }

    /// The first input that differs.
    private func firstInputDifference() throws(TraceError) -> InputDifference? {
        var pair = try scans(.input)
        var agreed = pair.agreed
        while true {
            let hasLeft = pair.left.next(in: .input)
            let hasRight = pair.right.next(in: .input)
            guard hasLeft || hasRight, pair.left.damage == nil, pair.right.damage == nil else {
                return nil
            }
            if hasLeft, hasRight, pair.left.row == pair.right.row {
                agreed += 1
                continue
            }
            // Where an incomplete trace just stops, the other having more says nothing.
            if !hasLeft, !a.reader.isComplete { return nil }
            if !hasRight, !b.reader.isComplete { return nil }
            return InputDifference(
                agreed: agreed, exitA: hasLeft ? pair.left.exit : nil,
                exitB: hasRight ? pair.right.exit : nil, a: pair.left.text, b: pair.right.text)
        }
    }

    // MARK: symbol

    private func compareSites(_ result: inout DiffResult) throws(TraceError) {
        defer {
            for source in [a, b] where source.blockCount > 0 {
                source.noteDecoded(exits: 0...result.agreed)
            }
        }
        try walkSites(&result)
    }

    private func walkSites(_ result: inout DiffResult) throws(TraceError) {
        var left = try FrameReader(a.reader)
        var right = try FrameReader(b.reader)
        var frames = (ExitFrame(), ExitFrame())
        while true {
            let hasLeft = try left.next(into: &frames.0)
            let hasRight = try right.next(into: &frames.1)
            guard hasLeft, hasRight else {
                if hasLeft != hasRight {
                    let shorter: DiffSide = hasLeft ? .b : .a
                    let reader = hasLeft ? b.reader : a.reader
                    if Self.isCutOff(reader) {
                        result.outcome = .prefix(shorter: shorter)
                    } else {
                        let number = frames.0.number
                        var found = Divergence(
                            exits: (hasLeft ? number : nil, hasRight ? frames.1.number : nil),
                            frames: (nil, nil), differences: [], contextA: [], contextB: [])
                        fill(&found)
                        found.differences = [
                            Difference(
                                "run", hasLeft ? "goes on" : "ended",
                                hasRight ? "goes on" : "ended")
                        ]
                        result.outcome = .diverged(found)
                    }
                }
                return
            }
            if frames.0.number & 4095 == 0, !progress(frames.0.number) {
                result.outcome = .unreadable("the comparison was ended")
                return
            }
            guard isSameAtSite(frames.0, frames.1) else {
                var found = Divergence(
                    exits: (frames.0.number, frames.1.number), frames: (nil, nil),
                    differences: [], contextA: [], contextB: [])
                fill(&found)
                result.outcome = .diverged(found)
                result.aftermath = aftermath(frames.0.number, frames.1.number)
                return
            }
            result.agreed += 1
        }
    }

    private static func isCutOff(_ reader: TraceReader) -> Bool {
        guard let end = try? reader.end() else { return true }
        return [.exitLimit, .timeLimit, .sizeLimit, .interrupted].contains(end.event.reason)
    }

    private func isSameAtSite(_ a: ExitFrame, _ b: ExitFrame) -> Bool {
        guard a.reason == b.reason, a.vCPU == b.vCPU, a.cpl == b.cpl, a.mode == b.mode,
            a.sent == b.sent, a.answerForm == b.answerForm, a.answer == b.answer
        else { return false }
        return isSamePlace(a, b) && Self.isSameRequest(a, b)
    }

    private func isSamePlace(_ left: ExitFrame, _ right: ExitFrame) -> Bool {
        let names = (
            a.names.name(of: left.linearAddress), b.names.name(of: right.linearAddress)
        )
        guard let mine = names.0, let theirs = names.1 else {
            return names.0 == nil && names.1 == nil && left.linearAddress == right.linearAddress
        }
        return mine.offset == theirs.offset && mine.function == theirs.function
    }

    private static func isSameRequest(_ a: ExitFrame, _ b: ExitFrame) -> Bool {
        switch (a.detail, b.detail) {
        case (
            .io(let write, let size, let port, let count, _),
            .io(let otherWrite, let otherSize, let otherPort, let otherCount, _)
        ):
            (write, size, port, count) == (otherWrite, otherSize, otherPort, otherCount)
        case (
            .mmio(let address, let length, let write, _),
            .mmio(let other, let otherLength, let otherWrite, _)
        ):
            address == other && length == otherLength && write == otherWrite
        case (.rdmsr(let index, _), .rdmsr(let other, _)): index == other
        case (.wrmsr(let index, _, _), .wrmsr(let other, _, _)): index == other
        default: true
        }
    }

    // MARK: afterwards

    private func aftermath(_ exitA: UInt64?, _ exitB: UInt64?) -> Aftermath? {
        guard options.window > 0, let exitA, let exitB else { return nil }
        let byName = options.level == .symbol
        var keys = AlignmentKeys(byName: byName)
        let left = keys.sequence(a, from: exitA, count: options.window)
        let right = keys.sequence(b, from: exitB, count: options.window)
        return keys.aftermath(left, right, from: (exitA, exitB))
    }
}
