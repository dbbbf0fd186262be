import Machine
import TestSupport
import Testing
import Trace

@testable import Analysis

/// A run with an interrupt at a place that the trace holds in two completions, and with one
/// instruction that was completed.
private func write(_ path: String, second: UInt8 = 2) throws -> String {
    var trace = try SyntheticTrace(path)
    try trace.out(0x80, [1], at: 0x10_0000)
    var landmark = Landmark(registers: trace.registers, state: Digest128(low: 1, high: 2))
    landmark.registers.rip = 0x40_0010
    landmark.stored = StoredPlace(rowCount: 2, taskPriorityClass: 0)
    try trace.interruption(Interruption(.external, vector: 0x20, landmark: landmark))
    try trace.completion([
        .register(.rip, 0x40_0010), .memory(.init(0x5000), Array(repeating: 1, count: 4096)),
    ])
    try trace.completion([.memory(.init(0x6000), Array(repeating: second, count: 4096))])
    try trace.out(0x80, [2], at: 0x10_0010)
    try trace.completion([.register(.rip, 0x10_0011)])
    return try trace.finish()
}

@Suite struct StoredPlaceTests {
    @Test func `a frame has what is stored in one piece, behind its interrupt`() throws {
        let directory = try TemporaryDirectory()
        var frames = try FrameReader(TraceReader(path: write("\(directory.path)/a.vmtape")))
        var frame = ExitFrame()
        _ = try frames.next(into: &frame)
        guard frame.events.count == 2, case .interruption = frame.events[0],
            case .stored(let changes) = frame.events[1]
        else {
            Issue.record("\(frame.events)")
            return
        }
        #expect(changes.count == 3)
        #expect(
            frame.events[1].text == "the machine there is stored: registers, 8192 bytes of RAM")
        _ = try frames.next(into: &frame)
        #expect(frame.events.first?.text.hasPrefix("completed by the runner") == true)
    }

    @Test func `statistics count it as an interrupt, and not as an instruction`() throws {
        let directory = try TemporaryDirectory()
        let reader = try TraceReader(path: write("\(directory.path)/a.vmtape"))
        let found = try StatisticsCollector.statistics(of: reader)
        #expect(found.completionCount == 1)
        #expect(
            found.interruptions == [
                .init(label: "interrupt 0x20", count: 1, inMidFlight: 1, stored: 1)
            ])
    }

    @Test func `a difference in it is not told as one of an instruction`() throws {
        let directory = try TemporaryDirectory()
        let result = try TraceDiff.compare(
            TraceReader(path: write("\(directory.path)/a.vmtape")),
            TraceReader(path: write("\(directory.path)/b.vmtape", second: 3)),
            namesA: AddressNames(), namesB: AddressNames())
        let input = try #require(result.firstInput)
        #expect(input.a == "the machine there is stored: registers, 4096 bytes of RAM")
        #expect(input.b == input.a)
    }
}
