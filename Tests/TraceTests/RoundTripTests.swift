import Machine
import TestSupport
import Testing

@testable import Trace

/// Reads all events back as samples; stamps are not read.
func readSamples(_ trace: TraceReader, from exit: UInt64 = 0) throws -> [Sample] {
    var cursor = try trace.events(from: exit)
    var result: [Sample] = []
    while let event = try cursor.next() {
        let vCPU = cursor.vCPU
        switch event {
        case .start: result.append(.start(cursor.registers, cursor.system, vCPU))
        case .exit(let exit):
            // A borrowed cursor cannot go into the closure of `map`.
            let bytes = exit.detail.bytes.map { cursor.array($0) } ?? []
            result.append(
                .exit(
                    exit.detail.map { _ in bytes }, exit.flags, exit.rewind, cursor.registers,
                    cursor.system, vCPU, entered: 0, returned: 0))
        case .answer(let form, let data):
            result.append(.answer(form, cursor.array(data), vCPU))
        case .completion(let changes): result.append(.completion(cursor.changes(changes), vCPU))
        case .interruption(let kind, let vector, let errorCode, let isInMidFlight):
            let found = cursor.interruption
            let full = try #require(found)
            #expect(full.kind == kind && full.vector == vector && full.errorCode == errorCode)
            #expect((full.landmark != nil) == isInMidFlight)
            result.append(.interruption(full, vCPU))
        case .deviceWrite(let address, let data):
            result.append(.deviceWrite(address, cursor.array(data), vCPU))
        case .end(let end):
            result.append(
                .end(
                    EndRecord(
                        reason: end.reason, guestStatus: end.guestStatus,
                        isInMidFlight: end.isInMidFlight, registers: cursor.registers,
                        system: cursor.system, vCPU: vCPU), end.memory))
        }
    }
    return result
}

extension Sample {
    var withoutStamps: Sample {
        guard case .exit(let detail, let flags, let rewind, let r, let s, let vCPU, _, _) = self
        else { return self }
        return .exit(detail, flags, rewind, r, s, vCPU, entered: 0, returned: 0)
    }
}

@Test(arguments: [UInt64](1...8))
func whatIsWrittenIsRead(seed: UInt64) throws {
    let scratch = try TemporaryDirectory()
    let vCPUs = seed % 3 == 0 ? 3 : 1
    var maker = SampleMaker(seed: seed, vCPUs: vCPUs)
    let samples = maker.run(exits: seed == 1 ? 9_000 : 700)
    let end = maker.end()
    let timing = seed % 2 == 0 ? TimeBase(ticksPerSecond: 2_596_000_000, origin: 500) : nil
    let summary = try record(
        samples, end: end, to: scratch.file("t"), header: sampleHeader(vCPUs: vCPUs),
        options: TraceOptions(timing: timing))
    let trace = try TraceReader(path: scratch.file("t"))
    #expect(trace.isComplete)
    #expect(trace.damages.isEmpty)
    #expect(trace.exitCount == summary.exitCount)
    #expect(trace.hasTiming == (timing != nil))
    let read = try readSamples(trace)
    let expected = samples.map { $0.withoutStamps } + [.end(end, nil)]
    #expect(read.count == expected.count)
    let first = zip(read, expected).enumerated().first { $0.element.0 != $0.element.1 }
    #expect(first == nil, "event \(first?.offset ?? 0) differs")
}
