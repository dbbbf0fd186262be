import TestSupport
import Testing
import Trace

@testable import Analysis

/// The path differs from run to run.
private func info(_ directory: TemporaryDirectory) throws -> TraceInfo {
    let path = try writeShowcase("\(directory.path)/a.vmtape")
    var info = TraceInfo(try TraceReader(path: path))
    info.path = "a.vmtape"
    return info
}

@Test(arguments: [(60, false), (100, false), (100, true)])
func infoLooksAsItDid(_ width: Int, _ colour: Bool) throws {
    let directory = try TemporaryDirectory()
    let stream = OutputStream()
    try info(directory).write(to: stream, style: TextStyle(width: width, hasColour: colour))
    expectSnapshot(stream.text, "info-\(width)\(colour ? "-colour" : "").txt")
}

@Test func infoAsJSON() throws {
    let directory = try TemporaryDirectory()
    let stream = OutputStream()
    try info(directory).writeJSON(to: stream)
    expectSnapshot(stream.text, "info.json")
}

@Test func infoOfAnIncompleteTrace() throws {
    let directory = try TemporaryDirectory()
    let path = try writePolling("\(directory.path)/a.vmtape", exits: 9000, finishes: false)
    let info = TraceInfo(try TraceReader(path: path))
    #expect(!info.isComplete)
    #expect(info.exitCount == 9000)
    #expect(info.end == nil)
    let stream = OutputStream()
    info.write(to: stream)
    #expect(stream.text.contains("incomplete"))
}

@Test func numbersForPeople() {
    #expect(TraceInfo.grouped(0) == "0")
    #expect(TraceInfo.grouped(1_234_567) == "1,234,567")
    #expect(TraceInfo.size(1) == "1 byte")
    #expect(TraceInfo.size(1023) == "1,023 bytes")
    #expect(TraceInfo.size(64 << 20) == "64 MiB")
    #expect(TraceInfo.size(1536) == "1.50 KiB")
    #expect(TraceInfo.decimal(0.005, 2) == "0.01")
    #expect(TraceInfo.decimal(-1.25, 1) == "-1.3")
    #expect(TraceInfo.date(0) == "1970-01-01 00:00:00 UTC")
    #expect(TraceInfo.date(1_709_164_800_000_000_000) == "2024-02-29 00:00:00 UTC")
    #expect(TraceInfo.date(1_700_000_000_123_456_789) == "2023-11-14 22:13:20 UTC")
}
