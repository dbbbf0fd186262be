import TestSupport
import Testing

@testable import Trace

/// Does with the bytes whatever a program can do with a trace. Public interface only, so that a fuzzing
/// executable can be given this file. The first two bytes say where a side file begins in the rest.
func fuzzTrace(_ data: [UInt8]) {
    guard data.count > 2 else { return }
    let rest = Array(data[2...])
    let split = min((Int(data[0]) | Int(data[1]) << 8) * 16, rest.count)
    let tail = split == 0 ? nil : Array(rest[(rest.count - split)...])
    let main = Array(rest[..<(rest.count - split)])
    guard let trace = try? TraceReader(bytes: main, tail: tail) else { return }
    let report = trace.verify()
    precondition(report.readableExits <= trace.exitCount)
    for index in 0..<min(trace.eventBlockCount, 8) { _ = try? trace.summary(ofBlock: index) }
    for exit in [0, 1, trace.exitCount / 2, trace.exitCount] {
        if let block = trace.block(containing: exit) {
            precondition(block < trace.eventBlockCount)
        }
        walk(trace, exit)
    }
    _ = try? trace.end()
    _ = try? trace.memoryDigest()
    for index in trace.header.images.indices.prefix(2) { _ = try? trace.imageBytes(index) }
}

private func walk(_ trace: TraceReader, _ exit: UInt64) {
    if var cursor = try? trace.events(from: exit) {
        var errors = 0
        while errors < 100 {
            do throws(TraceError) {
                guard let event = try cursor.next() else { break }
                switch event {
                case .answer(_, let data), .deviceWrite(_, let data): _ = cursor.array(data)
                case .completion(let changes): _ = cursor.changes(changes)
                case .interruption: _ = cursor.interruption
                default: _ = cursor.time
                }
            } catch { errors += 1 }
        }
        precondition(errors < 100 || trace.eventBlockCount >= 50, "a cursor that does not go on")
    }
    if var tape = try? trace.tape(from: exit) {
        var rows = 0
        while let row = unsafe try? tape.next() { rows += unsafe row.bytes.count }
    }
}

@Test func aSmokeOfFuzzing() throws {
    let (bytes, _) = try smallTrace()
    var random = SeededGenerator(seed: 99)
    fuzzTrace([0, 0] + bytes)
    for round in 0..<1_500 {
        var data = [0, 0] + bytes
        if round % 10 == 0 { data[0] = UInt8(random.below(256)) }
        for _ in 0..<(1 + random.below(4)) {
            data[random.below(data.count)] = UInt8(truncatingIfNeeded: random.next())
        }
        if round % 3 == 0 { data.removeLast(random.below(data.count - 3)) }
        fuzzTrace(data)
    }
    for _ in 0..<200 { fuzzTrace(random.bytes(random.below(400))) }
}
