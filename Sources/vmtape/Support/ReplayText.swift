internal import Analysis
internal import Execution
internal import Glibc
internal import Machine
internal import Trace

/// What people and programs are told of a replay.
enum ReplayText {
    /// The verdict, as the rest of a sentence.
    static func verdict(_ outcome: ReplayOutcome, _ reader: TraceReader) -> String {
        switch outcome.verdict {
        case .identical: "identical, final registers and all of RAM included"
        case .identicalSoFar: "identical up to there"
        case .identicalButIncomplete:
            "identical as far as the recording goes; it is incomplete and has no end"
        case .identicalToLastExit:
            "identical to the last exit; the recording was stopped between two exits after it"
        case .stopped: "identical until you stopped it"
        case .diverged: "diverged"
        }
    }

    /// The verdict's name in JSON.
    private static func name(_ verdict: ReplayOutcome.Verdict) -> String {
        switch verdict {
        case .identical: "identical"
        case .identicalSoFar: "identical_so_far"
        case .identicalButIncomplete: "identical_but_incomplete"
        case .identicalToLastExit: "identical_to_last_exit"
        case .stopped: "stopped"
        case .diverged: "diverged"
        }
    }

    static func writeJSON(_ outcome: ReplayOutcome, _ reader: TraceReader) {
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        var json = JSONWriter(stream)
        json.beginObject()
        json.key("schema")
        json.value("vmtape.replay/1")
        json.key("file")
        json.value(reader.path)
        json.key("verdict")
        json.value(name(outcome.verdict))
        json.key("verified_exits")
        json.value(outcome.verifiedExits)
        json.key("nanoseconds")
        json.value(outcome.report.nanoseconds)
        if case .diverged(let divergence) = outcome.verdict { write(divergence, &json) }
        json.endObject()
        json.endLine()
        stream.flush()
    }

    private static func write(_ divergence: Divergence, _ json: inout JSONWriter) {
        json.key("divergence")
        json.beginObject()
        json.key("at")
        switch divergence.place {
        case .start: json.value("start")
        case .exit: json.value("exit")
        case .end: json.value("end")
        }
        json.key("exit")
        json.value(divergence.exitNumber)
        for (key, side) in [("expected", divergence.expected), ("actual", divergence.actual)] {
            json.key(key)
            if let side { json.value(describe(side)) } else { json.null() }
        }
        json.key("registers")
        json.beginArray()
        for difference in divergence.registerDifferences {
            json.beginObject()
            json.key("name")
            json.value(difference.name)
            json.key("expected")
            json.value(hex: difference.expected)
            json.key("actual")
            json.value(hex: difference.actual)
            json.endObject()
        }
        json.endArray()
        json.key("pages")
        json.beginArray()
        for page in divergence.differingPages { json.value(hex: page * 4096) }
        json.endArray()
        json.key("causes")
        json.beginArray()
        for cause in divergence.causes { json.value(cause) }
        json.endArray()
        json.endObject()
    }

    /// The report of a divergence: where, both sides, what differs, what came before, what to
    /// suspect.
    static func report(_ divergence: Divergence, _ reader: TraceReader) -> [String] {
        let style = Style(isOn: Terminal(STDERR_FILENO).hasColour)
        var lines: [String] = []
        let number = RunText.grouped(divergence.exitNumber)
        switch divergence.place {
        case .start: lines.append("vmtape: \(style.red("diverged")) before the first exit")
        case .exit: lines.append("vmtape: \(style.red("diverged")) at exit \(number)")
        case .end:
            lines.append(
                "vmtape: \(style.red("diverged")) at the end: all \(number) exits are equal")
        }
        lines += ExitContext.lines(before: divergence.exitNumber, count: 5, reader)
        if let expected = divergence.expected {
            lines.append("  " + style.green("- recorded  ") + describe(expected))
        }
        if let actual = divergence.actual {
            lines.append("  " + style.red("+ replayed  ") + describe(actual))
        }
        let differences = divergence.registerDifferences
        if !differences.isEmpty {
            lines.append("  registers that differ:")
            for difference in differences.prefix(24) {
                let name = difference.name
                let gap = String(repeating: " ", count: max(0, 16 - name.count))
                lines.append(
                    "    \(name)\(gap)recorded \(RunText.hex(difference.expected, digits: 16))"
                        + "  replayed \(RunText.hex(difference.actual, digits: 16))")
            }
            if differences.count > 24 { lines.append("    and \(differences.count - 24) more") }
        }
        if !divergence.differingPages.isEmpty {
            let pages = divergence.differingPages
            let shown = pages.prefix(8).map { "0x" + RunText.hex($0 * 4096, digits: 1) }
                .joined(separator: ", ")
            lines.append(
                "  RAM differs in \(pages.count) page\(pages.count == 1 ? "" : "s"): \(shown)"
                    + (pages.count > 8 ? ", ..." : ""))
        }
        if !divergence.causes.isEmpty {
            lines.append("  likely causes, the likeliest first:")
            lines += divergence.causes.map { "    \($0)" }
        }
        return lines
    }

    /// One side of a divergence in one line.
    private static func describe(_ side: PlacedEvent) -> String {
        EventText.describe(side.event, row: side.row, rip: side.registers?.rip)
    }
}
