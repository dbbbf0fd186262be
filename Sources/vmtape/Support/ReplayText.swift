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

    /// One JSON object of schema `vmtape.replay/1`, on one line.
    ///
    /// Keys: schema, file, verdict, verified_exits, nanoseconds, mid_flight (landmarks; hits: places with
    /// a landmark's registers; rejected_hits: of those, in another state; coasts; steps; ring3_stops;
    /// stored_places: places taken from the trace; repairs: searches that overshot and were begun again
    /// from a checkpoint), [divergence] (at, exit, expected, actual, registers, pages, causes).
    static func writeJSON(
        _ outcome: ReplayOutcome, _ reader: TraceReader
    ) throws(CommandFailure) {
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
        write(outcome.report.midFlight, &json)
        if case .diverged(let divergence) = outcome.verdict { write(divergence, &json) }
        json.endObject()
        json.endLine()
        try stream.finish()
    }

    /// What finding interrupts in mid-flight took.
    private static func write(_ counts: MidFlightCounts, _ json: inout JSONWriter) {
        json.key("mid_flight")
        json.beginObject()
        for (key, value) in [
            ("landmarks", counts.landmarks), ("hits", counts.hits),
            ("rejected_hits", counts.rejectedHits), ("coasts", counts.coasts),
            ("steps", counts.steps), ("ring3_stops", counts.ring3Stops),
            ("stored_places", counts.storedPlaces), ("repairs", counts.repairs),
        ] {
            json.key(key)
            json.value(value)
        }
        json.endObject()
    }

    /// The same as a sentence; nil where there were none.
    static func midFlight(_ counts: MidFlightCounts) -> String? {
        guard counts.landmarks > 0 else { return nil }
        let number = RunText.grouped
        return "vmtape: \(number(counts.landmarks)) interrupts in mid-flight: "
            + "\(number(counts.hits)) places with the right registers, "
            + "\(number(counts.rejectedHits)) of them in another state; "
            + "\(number(counts.coasts)) coasts, \(number(counts.steps)) steps, "
            + "\(number(counts.ring3Stops)) stops in ring 3, "
            + "\(number(counts.repairs)) searches begun again"
            + (counts.storedPlaces > 0
                ? "; \(number(counts.storedPlaces)) more, to which no replay would come, taken from the trace"
                : "")
    }

    private static func write(_ divergence: ReplayDivergence, _ json: inout JSONWriter) {
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
            if let side { write(side, &json) } else { json.null() }
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

    /// One side: its kind, its row, and for an exit the reason and where it was.
    private static func write(_ side: PlacedEvent, _ json: inout JSONWriter) {
        json.beginObject()
        json.key("event")
        json.value(String(describing: side.event.kind))
        if case .exit(let exit) = side.event {
            json.key("reason")
            json.value(exit.reason.name)
        }
        if let registers = side.registers {
            json.key("rip")
            json.value(hex: registers.rip)
        }
        json.key("row")
        json.value(hexBytes: side.row)
        json.endObject()
    }
}
