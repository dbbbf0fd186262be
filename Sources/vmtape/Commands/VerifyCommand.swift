internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Glibc
internal import Trace

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Check a trace: what is damaged, and what is still readable.",
        discussion: """
            Checks the structure, every checksum, every event and all digests. Nothing is run. \
            Status 0: sound (an incomplete recording can be sound). Status 1: damaged.
            """)

    @Argument(help: "The trace.")
    var file: String

    @Flag(help: "One JSON object, schema vmtape.verify/1.")
    var json = false

    func run() throws {
        let reader = try TraceFile.open(file)
        let status = StatusLine()
        let start = Supervisor.milliseconds()
        let report = reader.verify { done, total in
            status.update(milliseconds: Supervisor.milliseconds() - start) {
                "verifying: \(total == 0 ? 100 : done * 100 / total) % of "
                    + ByteSize.text(total)
            }
        }
        status.clear()
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        if json { writeJSON(report, reader, stream) } else { write(report, reader, stream) }
        try stream.finish()
        if !report.isSound { throw CommandFailure(status: Status.no) }
    }

    private func write(_ report: VerifyReport, _ reader: TraceReader, _ stream: OutputStream) {
        let style = Style(isOn: Terminal(STDOUT_FILENO).hasColour)
        for damage in report.damages {
            stream.write("\(style.red("damaged")): \(damage)\n")
        }
        let verdict =
            report.isSound
            ? (report.isComplete ? style.green("sound") : style.yellow("sound, but incomplete"))
            : style.red("damaged")
        stream.write("\(reader.path): \(verdict)\n")
        stream.write(
            "  readable: \(RunText.grouped(report.readableExits)) exits, "
                + "\(RunText.grouped(report.readableEvents)) events, "
                + "\(report.soundImages) of \(reader.header.images.count) images\n")
        if let digests = report.digests {
            stream.write("  digest of the run: \(digests.full)\n")
        }
        if !report.isComplete {
            stream.write("  the recording has no end: it was interrupted, or is still going on\n")
        } else if report.hasMemoryDigest {
            stream.write("  digest of RAM at the end: present\n")
        }
    }

    private func writeJSON(
        _ report: VerifyReport, _ reader: TraceReader, _ stream: OutputStream
    ) {
        var json = JSONWriter(stream)
        json.beginObject()
        json.key("schema")
        json.value("vmtape.verify/1")
        json.key("file")
        json.value(reader.path)
        json.key("sound")
        json.value(report.isSound)
        json.key("complete")
        json.value(report.isComplete)
        json.key("readable_exits")
        json.value(report.readableExits)
        json.key("readable_events")
        json.value(report.readableEvents)
        json.key("sound_images")
        json.value(report.soundImages)
        json.key("digest")
        if let digests = report.digests {
            json.value(digests.full.description)
        } else {
            json.null()
        }
        json.key("ram_digest")
        json.value(report.hasMemoryDigest)
        json.key("damages")
        json.beginArray()
        for damage in report.damages {
            json.beginObject()
            json.key("offset")
            if let offset = damage.offset { json.value(offset) } else { json.null() }
            json.key("what")
            json.value(damage.what)
            json.key("lost_exits")
            if let lost = damage.lostExits {
                json.beginArray()
                json.value(lost.lowerBound)
                json.value(lost.upperBound)
                json.endArray()
            } else {
                json.null()
            }
            json.endObject()
        }
        json.endArray()
        json.endObject()
        json.endLine()
    }
}
