internal import Trace

extension Statistics {
    /// Prints the table for people, like `perf kvm stat report`; a sparkline per row where exits
    /// were counted over the run.
    public func write(to stream: OutputStream, style: TextStyle = TextStyle()) {
        var line = TextLine(style)
        writeSummary(&line, stream)
        line.end(stream)
        let columns = columns(style)
        writeHeading(columns, &line, stream)
        for row in rows { write(row, columns, &line, stream) }
        writeRest(&line, stream)
    }

    private struct Columns {
        var label: Int
        var hasTime: Bool
        var isWide: Bool
        var sparkline: Int
    }

    private func columns(_ style: TextStyle) -> Columns {
        let hasTime = rows.contains { $0.timedCount > 0 }
        let longest = rows.map(\.label.unicodeScalars.count).max() ?? 0
        // Long names are worth more than the shortest and longest time.
        let isWide = style.width >= 80 + min(longest, 40) || style.width >= 90 && longest <= 16
        var fixed = 2 + 11 + 9
        if hasTime { fixed += 29 + (isWide ? 30 : 0) }
        let sparkline = options.over == nil ? 0 : min(40, max(8, style.width - fixed - 20))
        let room = style.width - fixed - (sparkline > 0 ? sparkline + 2 : 0)
        return Columns(
            label: max(8, min(max(longest, options.grouping.rawValue.count), room)),
            hasTime: hasTime, isWide: isWide, sparkline: sparkline)
    }

    private func writeSummary(_ line: inout TextLine, _ stream: OutputStream) {
        line.put(TraceInfo.counted(exitCount, "exit"), .bold)
        if let durationNanoseconds {
            line.put(" in \(TraceText.seconds(durationNanoseconds)) s")
            line.put(
                ": \(Self.time(Double(guestNanoseconds))) in the guest, "
                    + "\(Self.time(Double(vmmNanoseconds))) outside")
        }
        line.end(stream)
    }

    private func writeHeading(
        _ columns: Columns, _ line: inout TextLine, _ stream: OutputStream
    ) {
        line.put(options.grouping.rawValue, .dim)
        line.pad(columns.label - line.column)
        line.put(right: "exits", width: 11, .dim)
        line.put(right: "share", width: 9, .dim)
        if columns.hasTime {
            line.put(right: options.measure == .vmm ? "outside" : "in guest", width: 10, .dim)
            line.put(right: "share", width: 9, .dim)
            if columns.isWide {
                line.put(right: "min", width: 10, .dim)
                line.put(right: "max", width: 10, .dim)
            }
            line.put(right: "average", width: 10, .dim)
        }
        if columns.sparkline > 0 {
            line.pad(columns.hasTime && columns.isWide ? 12 : 2)
            line.put("over the run", .dim)
        }
        line.end(stream)
    }

    private func write(
        _ row: Row, _ columns: Columns, _ line: inout TextLine, _ stream: OutputStream
    ) {
        line.put(Self.clip(row.label, columns.label), .symbol)
        line.pad(columns.label - line.column)
        line.put(right: TraceInfo.grouped(row.count), width: 11)
        line.put(right: Self.percent(Double(row.count), Double(exitCount)), width: 9)
        if columns.hasTime { writeTime(row, columns, &line) }
        if columns.sparkline > 0 {
            line.pad(2)
            line.put(Self.sparkline(row.buckets, columns.sparkline), .output)
        }
        line.end(stream)
    }

    private func writeTime(_ row: Row, _ columns: Columns, _ line: inout TextLine) {
        let total = rows.reduce(0.0) { $0 + Double($1.nanoseconds) }
        guard let average = row.average else {
            line.put(right: "-", width: 10)
            line.pad(columns.isWide ? 49 : 19)
            return
        }
        line.put(right: Self.time(Double(row.nanoseconds)), width: 10)
        line.put(right: Self.percent(Double(row.nanoseconds), total), width: 9)
        if columns.isWide {
            line.put(right: Self.time(Double(row.minimum)), width: 10)
            line.put(right: Self.time(Double(row.maximum)), width: 10)
        }
        line.put(right: Self.time(average), width: 10)
        guard columns.isWide else { return }
        let error = row.relativeError.map { "± " + Self.percent($0, 1) } ?? ""
        line.put(right: error, width: 10, .dim)
    }

    private func writeRest(_ line: inout TextLine, _ stream: OutputStream) {
        func put(_ heading: String, _ text: String, _ role: TextRole = .plain) {
            line.put(heading, .dim)
            line.pad(to: 13)
            line.put(clipped: text, role)
            line.end(stream)
        }
        line.end(stream)
        put("answers", TraceInfo.grouped(answerCount))
        for entry in interruptions {
            var text = "\(entry.label) × \(TraceInfo.grouped(entry.count))"
            if entry.inMidFlight > 0 {
                text += ", \(TraceInfo.grouped(entry.inMidFlight)) of them between two exits"
            }
            if entry.stored > 0 {
                text += ", \(TraceInfo.grouped(entry.stored)) with the machine stored"
            }
            put("injected", text)
        }
        if completionCount > 0 {
            put("completed", "\(TraceInfo.counted(completionCount, "instruction")) by the runner")
        }
        if rewrittenCount > 0 || rewritingCount > 0 {
            var text = "\(TraceInfo.counted(rewrittenCount, "exit")) of rewritten instructions"
            if rewritingCount > 0 {
                text += ", \(TraceInfo.counted(rewritingCount, "instruction")) rewritten on the way"
            }
            put("rewritten", text)
        }
        if deviceWriteCount > 0 {
            put(
                "devices",
                "\(TraceInfo.counted(deviceWriteCount, "write")) to RAM, "
                    + TraceInfo.size(deviceWriteBytes))
        }
        if world.events > 0 {
            put(
                "world",
                "\(TraceInfo.counted(world.events, "event")), "
                    + "\(TraceInfo.size(world.bytes)) before compression")
        }
        for entry in unclaimed {
            let name = entry.isMemory ? "address" : "port"
            var text = "\(name) 0x\(TextLine.hexadecimal(entry.address))"
            if entry.isMemory { text += ".." + TextLine.hexadecimal(entry.address | 0xFFF) }
            if entry.reads > 0 { text += ", \(TraceInfo.counted(entry.reads, "read"))" }
            if entry.writes > 0 { text += ", \(TraceInfo.counted(entry.writes, "write"))" }
            put("unclaimed", text, .warning)
        }
        if unclaimedElsewhere > 0 {
            put("unclaimed", "elsewhere, \(TraceInfo.grouped(unclaimedElsewhere))", .warning)
        }
        for damage in damages { put("damage", damage, .bad) }
    }

    /// Three significant digits and a unit.
    static func time(_ nanoseconds: Double) -> String {
        var value = nanoseconds
        var unit = 0
        let units = ["ns", "us", "ms", "s"]
        while value >= 999.5, unit < units.count - 1 {
            value /= 1000
            unit += 1
        }
        let isWhole = unit == 0 && value == value.rounded()
        let places = isWhole || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2
        return "\(TraceInfo.decimal(value, places)) \(units[unit])"
    }

    static func percent(_ part: Double, _ whole: Double) -> String {
        whole > 0 ? TraceInfo.decimal(part / whole * 100, 2) + "%" : "-"
    }

    private static func clip(_ text: String, _ width: Int) -> String {
        text.unicodeScalars.count <= width
            ? text : String(text.unicodeScalars.prefix(width - 1)) + "…"
    }

    /// Bars of eighths, the highest bucket full; buckets are joined where they do not fit.
    static func sparkline(_ buckets: [UInt64], _ width: Int) -> String {
        guard !buckets.isEmpty, width > 0 else { return "" }
        let bars: [Character] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]
        let cells = min(width, buckets.count)
        let sums = (0..<cells).map { cell -> Double in
            // Cells take equal parts of the run, whole buckets each: the mean makes up for
            // cells that take one more.
            let range = (cell * buckets.count / cells)..<((cell + 1) * buckets.count / cells)
            return Double(buckets[range].reduce(0, +)) / Double(range.count)
        }
        let highest = sums.max() ?? 0
        return String(
            sums.map { sum in
                sum == 0 ? " " : bars[min(7, Int(sum / highest * 8))]
            })
    }
}
