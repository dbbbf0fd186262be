internal import Trace

extension Statistics {
    /// Prints one JSON object of schema `vmtape.stat/1`, on one line.
    ///
    /// Keys: schema, by, measure, exits, [duration_ns], guest_ns, vmm_ns, [bucket_exits or
    /// bucket_ns], rows (label, count, time_ns, min_ns, max_ns, [avg_ns], [relative_error],
    /// [buckets]), answers, completions, rewritten, [rewritings], interruptions (label, count, mid_flight),
    /// device_writes, device_write_bytes, world_events, world_bytes, unclaimed (kind, address, reads, writes),
    /// unclaimed_elsewhere, damages.
    public func writeJSON(to stream: OutputStream) {
        var json = JSONWriter(stream)
        json.beginObject()
        json.pair("schema", "vmtape.stat/1")
        json.pair("by", options.grouping.rawValue)
        json.pair("measure", options.measure.rawValue)
        json.pair("exits", exitCount)
        if let durationNanoseconds { json.pair("duration_ns", durationNanoseconds) }
        json.pair("guest_ns", guestNanoseconds)
        json.pair("vmm_ns", vmmNanoseconds)
        switch options.over {
        case .exits(let width): json.pair("bucket_exits", width)
        case .nanoseconds(let width): json.pair("bucket_ns", width)
        case nil: break
        }
        json.key("rows")
        json.beginArray()
        for row in rows { Self.write(row, &json) }
        json.endArray()
        json.pair("answers", answerCount)
        json.pair("completions", completionCount)
        json.pair("rewritten", rewrittenCount)
        if rewritingCount > 0 { json.pair("rewritings", rewritingCount) }
        json.key("interruptions")
        json.beginArray()
        for entry in interruptions {
            json.beginObject()
            json.pair("label", entry.label)
            json.pair("count", entry.count)
            json.pair("mid_flight", entry.inMidFlight)
            json.pair("stored", entry.stored)
            json.endObject()
        }
        json.endArray()
        json.pair("device_writes", deviceWriteCount)
        json.pair("device_write_bytes", deviceWriteBytes)
        json.pair("world_events", world.events)
        json.pair("world_bytes", world.bytes)
        json.key("unclaimed")
        json.beginArray()
        for entry in unclaimed {
            json.beginObject()
            json.pair("kind", entry.isMemory ? "page" : "port")
            json.key("address")
            json.value(hex: entry.address)
            json.pair("reads", entry.reads)
            json.pair("writes", entry.writes)
            json.endObject()
        }
        json.endArray()
        json.pair("unclaimed_elsewhere", unclaimedElsewhere)
        json.key("damages")
        json.beginArray()
        for damage in damages { json.value(damage) }
        json.endArray()
        json.endObject()
        json.endLine()
    }

    private static func write(_ row: Row, _ json: inout JSONWriter) {
        json.beginObject()
        json.pair("label", row.label)
        json.pair("count", row.count)
        json.pair("time_ns", row.nanoseconds)
        json.pair("min_ns", row.minimum)
        json.pair("max_ns", row.maximum)
        if let average = row.average {
            json.key("avg_ns")
            json.value((average * 10).rounded() / 10)
        }
        if let error = row.relativeError {
            json.key("relative_error")
            json.value((error * 1e6).rounded() / 1e6)
        }
        if !row.buckets.isEmpty {
            json.key("buckets")
            json.beginArray()
            for count in row.buckets { json.value(count) }
            json.endArray()
        }
        json.endObject()
    }

    /// Prints the table as CSV (RFC 4180, but for its line ends): a heading, then a row each, with
    /// columns label, count, time_ns, min_ns, max_ns, avg_ns, relative_error, then b0, b1, … for
    /// the counts over the run. Times that are not known are empty.
    public func writeCSV(to stream: OutputStream) {
        stream.write("label,count,time_ns,min_ns,max_ns,avg_ns,relative_error")
        let bucketCount = rows.map(\.buckets.count).max() ?? 0
        for bucket in 0..<bucketCount { stream.write(",b\(bucket)") }
        stream.write("\n")
        for row in rows {
            stream.write(CSV.quoted(row.label))
            stream.write(",")
            stream.write(decimal: row.count)
            if let average = row.average {
                stream.write(",\(row.nanoseconds),\(row.minimum),\(row.maximum),")
                stream.write(TraceInfo.decimal(average, 1))
                stream.write(",\(row.relativeError.map { TraceInfo.decimal($0, 6) } ?? "")")
            } else {
                stream.write(",,,,,")
            }
            for count in row.buckets { stream.write(",\(count)") }
            stream.write("\n")
        }
    }
}

/// Comma-separated values, RFC 4180.
enum CSV {
    /// A field as it stands in a row.
    static func quoted(_ text: String) -> String {
        guard text.utf8.contains(where: { $0 == 0x2C || $0 == 0x22 || $0 == 0x0A || $0 == 0x0D })
        else { return text }
        return "\"\(text.replacing("\"", with: "\"\""))\""
    }
}
