import Machine
import TestSupport
import Testing
import Trace

@testable import Analysis

/// A run in which an RDTSC is rewritten when it is first executed, with this answer; the guest then
/// sends the answer's first byte.
private func write(_ path: String, answer: UInt64) throws -> String {
    var trace = try SyntheticTrace(path)
    try trace.out(0x80, [1], at: 0x10_0000)
    try unsafe trace.exit(
        at: 0x10_0010, .debug(exception: 1, pc: 0x10_0010, dr6: 0, dr7: 0),
        flags: .rewrittenInstruction)
    try trace.completion([.memory(GuestPhysicalAddress(0x10_0010), [0xE6, 0x5A])])
    try unsafe [0 as UInt8].withUnsafeBytes { data in
        try unsafe trace.exit(
            at: 0x10_0010,
            .io(isWrite: true, size: 1, port: 0x5A, count: 1, data: data), rewind: 2,
            flags: .rewrittenInstruction)
    }
    let bytes = (0..<8).map { UInt8(truncatingIfNeeded: answer >> (UInt64($0) * 8)) }
    try trace.answer(.timeStamp, bytes)
    trace.registers[.rax] = answer & 0xFF
    try trace.out(0x80, [bytes[0]], at: 0x10_0020)
    return try trace.finish()
}

@Suite struct RewritingOnTheWayTests {
    @Test func `a dump names the instruction and its bytes, in one line`() throws {
        let directory = try TemporaryDirectory()
        var frames = try FrameReader(
            TraceReader(path: write("\(directory.path)/a.vmtape", answer: 0x42)))
        let stream = OutputStream()
        var text = TraceText(
            stream, style: TextStyle(width: 100, hasColour: false), options: DumpOptions(),
            names: AddressNames(), lastExit: 99)
        var frame = ExitFrame()
        while try frames.next(into: &frame) { text.write(frame) }
        #expect(stream.text.contains("rewritten: rdtsc, 0f 31 -> e6 5a"))
        #expect(stream.text.contains("rdtsc -> 0x42"))
        #expect(!stream.text.contains("completed by the runner"))
    }

    @Test func `statistics tell rewriting from completing`() throws {
        let directory = try TemporaryDirectory()
        let reader = try TraceReader(path: write("\(directory.path)/a.vmtape", answer: 0x42))
        let found = try StatisticsCollector.statistics(of: reader)
        #expect(found.rewritingCount == 1)
        #expect(found.rewrittenCount == 1)
        #expect(found.completionCount == 0)
    }

    @Test func `a diff names the counter as the input that differs first`() throws {
        let directory = try TemporaryDirectory()
        let a = try TraceReader(path: write("\(directory.path)/a.vmtape", answer: 0x42))
        let b = try TraceReader(path: write("\(directory.path)/b.vmtape", answer: 0x43))
        let result = TraceDiff.compare(a, b)
        #expect(result.firstInput?.exitA == 2)
        #expect(result.firstInput?.exitB == 2)
        #expect(result.agreed == 2)
    }
}
