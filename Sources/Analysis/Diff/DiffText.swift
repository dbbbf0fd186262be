internal import Machine
internal import Trace

extension DiffResult {
    /// Prints the comparison for people: what the set-up differs in, where the runs part, why, and
    /// what came of it.
    ///
    /// - Parameters:
    ///   - pathA: what the first trace is called; `pathB` the second.
    ///   - namesA: names of the first trace's addresses; `namesB` of the second's.
    public func write(
        to stream: OutputStream, style: TextStyle = TextStyle(), pathA: String, pathB: String,
        namesA: AddressNames = AddressNames(), namesB: AddressNames = AddressNames()
    ) {
        var text = DiffText(
            result: self, stream: stream, style: style, namesA: namesA, namesB: namesB)
        text.write(pathA, pathB)
    }
}

private struct DiffText {
    let result: DiffResult
    let stream: OutputStream
    let style: TextStyle
    let namesA: AddressNames
    let namesB: AddressNames
    private var line: TextLine

    init(
        result: DiffResult, stream: OutputStream, style: TextStyle, namesA: AddressNames,
        namesB: AddressNames
    ) {
        self.result = result
        self.stream = stream
        self.style = style
        self.namesA = namesA
        self.namesB = namesB
        line = TextLine(style)
    }

    mutating func write(_ pathA: String, _ pathB: String) {
        let counts = [
            TraceInfo.counted(result.exitCounts.a, "exit"),
            TraceInfo.counted(result.exitCounts.b, "exit"),
        ]
        for (name, path, count) in [("A", pathA, counts[0]), ("B", pathB, counts[1])] {
            line.put("\(name)  ", .bold)
            line.put(clipped: "\(path), \(count)")
            line.end(stream)
        }
        for note in result.notes { put("note: \(note)", .warning) }
        line.end(stream)
        if !result.headerDifferences.isEmpty {
            put("The set-up differs:", .warning)
            table(result.headerDifferences)
            line.end(stream)
        }
        switch result.outcome {
        case .same: put(sameText, .good)
        case .prefix(let shorter): put(prefixText(shorter), .warning)
        case .unreadable(let reason):
            put("The runs are the same for \(agreedText); then: \(reason)", .bad)
        case .diverged(let divergence): write(divergence)
        }
        writeInput()
        if let aftermath = result.aftermath { write(aftermath) }
    }

    private mutating func put(_ text: String, _ role: TextRole = .plain, indent: Int = 0) {
        // Long sentences go on in the next line, at spaces.
        var words = text.split(separator: " ", omittingEmptySubsequences: true)[...]
        while let word = words.first {
            words = words.dropFirst()
            if line.column == 0 {
                line.pad(indent)
            } else if word.unicodeScalars.count + 1 > line.room {
                line.end(stream)
                line.pad(indent)
            } else {
                line.put(" ")
            }
            line.put(clipped: String(word), role)
        }
        line.end(stream)
    }

    private var agreedText: String {
        TraceInfo.counted(result.agreed, result.level == .io ? "output" : "exit")
    }

    private var sameText: String {
        switch result.level {
        case .full: "The runs are the same: \(agreedText), every register, input and byte sent."
        case .symbol: "The runs are the same by function and by what was sent: \(agreedText)."
        case .io: "The runs did the same to the outside: \(agreedText)."
        }
    }

    private func prefixText(_ shorter: DiffSide) -> String {
        let (short, long) = shorter == .a ? ("A", "B") : ("B", "A")
        return "\(short) is the beginning of \(long): the same for \(agreedText), and there "
            + "\(short) was cut off."
    }

    private mutating func write(_ found: Divergence) {
        let place: String
        switch (found.exits.a, found.exits.b) {
        case (nil, nil): place = "before the first exit: the initial registers"
        case (let a?, let b?) where a == b: place = "exit \(a)"
        case (let a?, let b?): place = "exit \(a) of A, exit \(b) of B"
        case (let a?, nil): place = "exit \(a) of A, where B has ended"
        case (nil, let b?): place = "exit \(b) of B, where A has ended"
        }
        put("First difference: \(place) (the same before: \(agreedText))", .bad)
        line.end(stream)
        let last = max(found.exits.a ?? 0, found.exits.b ?? 0)
        var dump = TraceText(
            stream, style: style, options: DumpOptions(showsTime: false), names: namesA,
            lastExit: last)
        var dumpB = TraceText(
            stream, style: style, options: DumpOptions(showsTime: false), names: namesB,
            lastExit: last)
        for frame in found.contextA { dump.write(frame) }
        if let frame = found.frames.a { dump.write(frame, mark: "A") }
        for frame in found.contextB { dumpB.write(frame) }
        if found.contextB.isEmpty, !found.contextA.isEmpty, let frame = found.frames.b,
            let before = found.contextA.last
        {
            dumpB.assumeState(of: before)
            dumpB.write(frame, mark: "B")
        } else if let frame = found.frames.b {
            dumpB.write(frame, mark: "B")
        }
        line.end(stream)
        table(found.differences)
    }

    /// Names, and the two sides: beside each other where they fit, else one above the other.
    private mutating func table(_ differences: [Difference]) {
        let name = min(24, differences.map(\.name.unicodeScalars.count).max() ?? 0)
        let width = differences.map { ($0.a ?? "-").unicodeScalars.count }.max() ?? 0
        let widthB = differences.map { ($0.b ?? "-").unicodeScalars.count }.max() ?? 0
        let isBeside = 2 + name + 2 + width + 2 + widthB <= style.width
        if isBeside {
            line.pad(2 + name + 2)
            line.put("A", .bold)
            line.pad(width - 1 + 2)
            line.put("B", .bold)
            line.end(stream)
        }
        for difference in differences {
            line.pad(2)
            line.put(difference.name, .symbol)
            if isBeside {
                line.pad(to: 2 + name + 2)
                line.put(difference.a ?? "-", difference.a == nil ? .dim : .plain)
                line.pad(to: 2 + name + 2 + width + 2)
                line.put(difference.b ?? "-", difference.b == nil ? .dim : .plain)
                line.end(stream)
                continue
            }
            for (side, text) in [("A", difference.a), ("B", difference.b)] {
                line.pad(to: 2 + name + 2)
                line.put("\(side)  ", .bold)
                line.put(clipped: text ?? "-", text == nil ? .dim : .plain)
                line.end(stream)
            }
        }
    }

    private mutating func writeInput() {
        guard case .diverged(let divergence) = result.outcome else {
            if let input = result.firstInput { write(input, isCause: false) }
            return
        }
        line.end(stream)
        let limit = divergence.exits.a ?? .max
        guard let input = result.firstInput, (input.exitA ?? .max) <= limit else {
            put(
                "Every input before it is the same: the difference comes from the guest's set-up "
                    + "or the host, and not from the world.")
            return
        }
        write(input, isCause: true)
    }

    private mutating func write(_ input: InputDifference, isCause: Bool) {
        put(
            (isCause ? "First input that differs, the likely cause:" : "First input that differs:")
                + " \(TraceInfo.counted(input.agreed, "input")) before it the same", .warning)
        for (side, exit, text) in [
            ("A", input.exitA, input.a), ("B", input.exitB, input.b),
        ] {
            line.pad(2)
            line.put("\(side)  ", .bold)
            line.put(clipped: text.map { "\($0), at exit \(exit.map(String.init) ?? "?")" } ?? "-")
            line.end(stream)
        }
    }

    private mutating func write(_ found: Aftermath) {
        line.end(stream)
        put(
            "From there on, of \(TraceInfo.counted(found.windowA, "exit")) of A and "
                + "\(TraceInfo.grouped(found.windowB)) of B, \(TraceInfo.grouped(found.matched)) "
                + "have the same reason and site, \(TraceInfo.grouped(found.onlyA)) are only in A "
                + "and \(TraceInfo.grouped(found.onlyB)) only in B"
                + (found.isCutShort ? " (as far as they could be aligned)." : "."))
        if let meeting = found.meeting {
            put(
                "They go on alike from exit \(meeting.exitA) of A and \(meeting.exitB) of B, "
                    + (meeting.lasts
                        ? "to the end of what was looked at."
                        : "for \(TraceInfo.counted(meeting.length, "exit"))."))
        } else {
            put("They do not meet again there.")
        }
        guard !found.kinds.isEmpty else { return }
        line.pad(2)
        line.put(right: "only A", width: 9, .dim)
        line.put(right: "only B", width: 9, .dim)
        line.end(stream)
        for kind in found.kinds.prefix(12) {
            line.pad(2)
            line.put(right: TraceInfo.grouped(kind.onlyA), width: 9)
            line.put(right: TraceInfo.grouped(kind.onlyB), width: 9)
            line.put("  ")
            line.put(clipped: kind.label)
            line.end(stream)
        }
        if found.kinds.count > 12 {
            put("and \(TraceInfo.counted(UInt64(found.kinds.count - 12), "kind")) more", indent: 4)
        }
    }
}
