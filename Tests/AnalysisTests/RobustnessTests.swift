import TestSupport
import Testing
import Trace

@testable import Analysis

/// Everything that reads a trace, once; what cannot be read is passed over.
private func readEveryWay(_ reader: TraceReader, against other: TraceReader) {
    let stream = OutputStream()
    let info = TraceInfo(reader)
    info.write(to: stream)
    info.writeJSON(to: stream)
    var text = TraceText(stream, options: DumpOptions(registers: .all), names: syntheticNames())
    var exporters = ExportFormat.allCases.map {
        Exporter($0, to: stream, of: reader, registers: .all, names: syntheticNames())
    }
    var selection = ExitSelection(reader)
    var frame = ExitFrame()
    var errors = 0
    while errors < 10 {
        do throws(TraceError) {
            guard try selection.next(into: &frame) else { break }
            text.write(frame)
            for index in exporters.indices { exporters[index].add(frame) }
        } catch {
            errors += 1
        }
    }
    for index in exporters.indices { exporters[index].finish() }
    for grouping in Grouping.allCases {
        let found = try? StatisticsCollector.statistics(
            of: reader, options: .init(grouping: grouping, over: .nanoseconds(1000)))
        found?.write(to: stream)
        found?.writeCSV(to: stream)
        found?.writeJSON(to: stream)
    }
    for level in DiffLevel.allCases {
        for (a, b) in [(reader, other), (other, reader)] {
            let found = TraceDiff.compare(a, b, options: .init(level: level))
            found.write(to: stream, pathA: "a", pathB: "b")
            found.writeJSON(to: stream, pathA: "a", pathB: "b")
        }
    }
}

@Test func damagedTracesNeverTrap() throws {
    let directory = try TemporaryDirectory()
    let whole = try #require(readBytes(writeShowcase("\(directory.path)/a.vmtape")))
    let reader = try TraceReader(bytes: whole)
    readEveryWay(reader, against: reader)
    for place in stride(from: 0, to: whole.count, by: 13) {
        var bytes = whole
        bytes[place] ^= UInt8(truncatingIfNeeded: 1 << (place % 8))
        if let broken = try? TraceReader(bytes: bytes) { readEveryWay(broken, against: reader) }
        if place % 3 == 0, let short = try? TraceReader(bytes: Array(whole[..<place])) {
            readEveryWay(short, against: reader)
        }
    }
}

@Test func theGoldenTraceIsReadEveryWay() throws {
    let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    let reader = try TraceReader(path: "/\(root)/traces/golden/format-1.vmtape")
    readEveryWay(reader, against: reader)
    #expect(reader.exitCount > 0)
    #expect(TraceDiff.compare(reader, reader).isSame)
}
