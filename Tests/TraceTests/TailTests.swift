import Machine
import Synchronization
import TestSupport
import Testing
import Threads

@testable import Trace

/// Copies of partial file and side file taken while another thread records: what a SIGKILL at that
/// moment leaves, since everything encoded is in the page cache by then.
@Test(arguments: [false, true])
func whatIsEncodedSurvivesAtAnyMoment(timing: Bool) throws {
    let scratch = try TemporaryDirectory()
    let path = scratch.file("t")
    var maker = SampleMaker(seed: timing ? 41 : 42)
    let samples = maker.run(exits: 12_000)
    let expected = samples.map { $0.withoutStamps }
    var options = TraceOptions(
        timing: timing ? TimeBase(ticksPerSecond: 1_000_000_000, origin: 0) : nil)
    options.ringSlots = 3
    var writer = try TraceWriter(path: path, header: sampleHeader(), options: options)
    let partial = path + ".partial"
    // First by the events written so far, exactly.
    var random = SeededGenerator(seed: 8)
    var checks = 0
    for (index, sample) in samples.enumerated() {
        try sample.write(&writer)
        guard index < 40 || random.below(1_200) == 0 else { continue }
        let tail = try #require(Files.read(partial + "-tail"))
        let main = try #require(Files.read(partial))
        let trace = try TraceReader(bytes: main, tail: tail)
        #expect(!trace.isComplete)
        #expect(trace.damages.isEmpty, "\(trace.damages)")
        #expect(trace.exitCount == writer.exitCount)
        let read = try readSamples(trace)
        #expect(read.count == index + 1)
        #expect(read == Array(expected[...index]))
        if checks % 8 == 0 { #expect(trace.verify().isSound) }
        checks += 1
    }
    #expect(checks > 40)
    // By path, as a user opens it.
    let trace = try TraceReader(path: path)
    #expect(trace.path == partial)
    #expect(trace.exitCount == 12_000)
    // Without the side file at most its blocks are lost.
    let main = try #require(Files.read(partial))
    let alone = try TraceReader(bytes: main)
    let read = try readSamples(alone)
    #expect(read == Array(expected[..<read.count]))
    #expect(alone.damages.isEmpty)
}

@Test func copiesTakenWhileRecordingAreTrue() throws {
    let scratch = try TemporaryDirectory()
    let path = scratch.file("t")
    var maker = SampleMaker(seed: 43)
    let samples = maker.run(exits: 6_000)
    let expected = samples.map { $0.withoutStamps }
    let isDone = Atomic<Bool>(false)
    let made = Atomic<UInt64>(0)
    let recorder = try WorkerThread("to record") { [samples] in
        var options = TraceOptions()
        options.ringSlots = 2
        guard var writer = try? TraceWriter(path: path, header: sampleHeader(), options: options)
        else { return }
        for sample in samples {
            try? sample.write(&writer)
            made.store(writer.exitCount, ordering: .releasing)
        }
        isDone.store(true, ordering: .releasing)
    }
    var copies = 0
    while !isDone.load(ordering: .acquiring) || copies < 3 {
        let before = made.load(ordering: .acquiring)
        guard before > 0 else { continue }
        guard let trace = try? TraceReader(path: path) else {
            Issue.record("a recording cannot be read")
            break
        }
        let read = try readSamples(trace)
        #expect(read == Array(expected[..<min(read.count, expected.count)]))
        #expect(trace.exitCount >= before)
        copies += 1
    }
    recorder.join()
    #expect(try readSamples(TraceReader(path: path)) == expected)
}

@Test func aDamagedSideFileGivesOnlyTruth() throws {
    let scratch = try TemporaryDirectory()
    let path = scratch.file("t")
    var maker = SampleMaker(seed: 44)
    let samples = maker.run(exits: 12)
    var options = TraceOptions()
    options.ringSlots = 1
    var writer = try TraceWriter(path: path, header: sampleHeader(), options: options)
    for sample in samples { try sample.write(&writer) }
    let expected = samples.map { $0.withoutStamps }
    let main = try #require(Files.read(path + ".partial"))
    let tail = try #require(Files.read(path + ".partial-tail"))
    let used = 4096 + SideSlot.framesAt(vCPUCount: 1) + 6_000
    var random = SeededGenerator(seed: 10)
    var seen = 0
    for index in 0..<min(used, tail.count) {
        if index >= SideHeader.bytes && index < 4096 { continue }
        var damaged = tail
        damaged[index] ^= UInt8(1 + random.below(255))
        let trace = try TraceReader(bytes: main, tail: damaged)
        let read = try readSamples(trace)
        #expect(read == Array(expected[..<min(read.count, expected.count)]), "byte \(index)")
        if read.count < expected.count {
            #expect(!trace.damages.isEmpty, "byte \(index)")
            seen += 1
        }
    }
    #expect(seen > 1_000)
    for length in stride(from: 0, to: used, by: 61) {
        let trace = try TraceReader(bytes: main, tail: Array(tail[..<length]))
        #expect(try readSamples(trace).isEmpty)
        #expect(!trace.damages.isEmpty)
    }
    // That of another recording is left aside.
    let other = scratch.file("other")
    var header = sampleHeader()
    header.commandLine = "another"
    let second = try TraceWriter(path: other, header: header)
    #expect(second.exitCount == 0)
    let foreign = try #require(Files.read(other + ".partial-tail"))
    let trace = try TraceReader(bytes: main, tail: foreign)
    #expect(trace.exitCount == 0)
    #expect(trace.damages.count == 1)
}

@Test func aTornLastBlockComesFromTheSideFile() throws {
    let scratch = try TemporaryDirectory()
    let path = scratch.file("t")
    var maker = SampleMaker(seed: 45)
    let samples = maker.run(exits: 3_000)
    let expected = samples.map { $0.withoutStamps }
    var writer = try TraceWriter(path: path, header: sampleHeader())
    for sample in samples { try sample.write(&writer) }
    // All slots are still in the ring of 16, so every cut of the file can be made good.
    let tail = try #require(Files.read(path + ".partial-tail"))
    let main = try #require(Files.read(path + ".partial"))
    let first = try TraceReader(bytes: main)
    let begin = try first.eventBlockCount > 0 ? Int(first.summary(ofBlock: 0).offset) : main.count
    for cut in [begin, begin + 1, begin + 128, (begin + main.count) / 2, main.count - 1] {
        let trace = try TraceReader(bytes: Array(main[..<min(cut, main.count)]), tail: tail)
        #expect(try readSamples(trace) == expected)
        #expect(trace.damages.isEmpty, "cut at \(cut): \(trace.damages)")
    }
}
