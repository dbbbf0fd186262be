internal import Machine
internal import Trace

extension DiffResult {
    /// Prints the comparison as one JSON object of schema `vmtape.diff/1`, on one line.
    ///
    /// Keys: schema, a, b, level, outcome ("same", "prefix", "diverged", "unreadable"), agreed,
    /// exits_a, exits_b, [shorter], [reason], setup (name, a, b), [first] (exit_a, exit_b,
    /// differences: name, a, b), [first_input] (agreed, exit_a, exit_b, a, b), [aftermath]
    /// (window_a, window_b, matched, only_a, only_b, cut_short, [meeting] (exit_a, exit_b, length,
    /// lasts), kinds (label, only_a, only_b)), notes, blocks_read_a, blocks_read_b. The exits
    /// before the first difference are what `dump` gives.
    public func writeJSON(to stream: OutputStream, pathA: String, pathB: String) {
        var json = JSONWriter(stream)
        json.beginObject()
        json.pair("schema", "vmtape.diff/1")
        json.pair("a", pathA)
        json.pair("b", pathB)
        json.pair("level", level.rawValue)
        switch outcome {
        case .same: json.pair("outcome", "same")
        case .prefix(let shorter):
            json.pair("outcome", "prefix")
            json.pair("shorter", shorter.rawValue)
        case .diverged: json.pair("outcome", "diverged")
        case .unreadable(let reason):
            json.pair("outcome", "unreadable")
            json.pair("reason", reason)
        }
        json.pair("agreed", agreed)
        json.pair("exits_a", exitCounts.a)
        json.pair("exits_b", exitCounts.b)
        json.differences("setup", headerDifferences)
        if case .diverged(let found) = outcome {
            json.key("first")
            json.beginObject()
            json.pair("exit_a", optional: found.exits.a)
            json.pair("exit_b", optional: found.exits.b)
            json.differences("differences", found.differences)
            json.endObject()
        }
        if let input = firstInput {
            json.key("first_input")
            json.beginObject()
            json.pair("agreed", input.agreed)
            json.pair("exit_a", optional: input.exitA)
            json.pair("exit_b", optional: input.exitB)
            json.pair("a", optional: input.a)
            json.pair("b", optional: input.b)
            json.endObject()
        }
        if let aftermath { Self.write(aftermath, &json) }
        json.key("notes")
        json.beginArray()
        for note in notes { json.value(note) }
        json.endArray()
        json.pair("blocks_read_a", UInt64(blocksRead.a))
        json.pair("blocks_read_b", UInt64(blocksRead.b))
        json.endObject()
        json.endLine()
    }

    private static func write(_ found: Aftermath, _ json: inout JSONWriter) {
        json.key("aftermath")
        json.beginObject()
        json.pair("window_a", found.windowA)
        json.pair("window_b", found.windowB)
        json.pair("matched", found.matched)
        json.pair("only_a", found.onlyA)
        json.pair("only_b", found.onlyB)
        json.pair("cut_short", found.isCutShort)
        if let meeting = found.meeting {
            json.key("meeting")
            json.beginObject()
            json.pair("exit_a", meeting.exitA)
            json.pair("exit_b", meeting.exitB)
            json.pair("length", meeting.length)
            json.pair("lasts", meeting.lasts)
            json.endObject()
        }
        json.key("kinds")
        json.beginArray()
        for kind in found.kinds {
            json.beginObject()
            json.pair("label", kind.label)
            json.pair("only_a", kind.onlyA)
            json.pair("only_b", kind.onlyB)
            json.endObject()
        }
        json.endArray()
        json.endObject()
    }
}

extension JSONWriter {
    fileprivate mutating func pair(_ name: String, optional number: UInt64?) {
        key(name)
        if let number { value(number) } else { null() }
    }

    fileprivate mutating func pair(_ name: String, optional text: String?) {
        key(name)
        if let text { value(text) } else { null() }
    }

    fileprivate mutating func differences(_ name: String, _ differences: [Difference]) {
        key(name)
        beginArray()
        for difference in differences {
            beginObject()
            pair("name", difference.name)
            pair("a", optional: difference.a)
            pair("b", optional: difference.b)
            endObject()
        }
        endArray()
    }
}
