import Glibc
import Machine
import TestSupport
import Testing

@testable import Trace

@Test func equalRunsGiveEqualBytes() throws {
    let scratch = try TemporaryDirectory()
    for name in ["a", "b"] {
        var maker = SampleMaker(seed: 31)
        let samples = maker.run(exits: 6_000)
        try record(samples, end: maker.end(), to: scratch.file(name))
    }
    let a = try #require(Files.read(scratch.file("a")))
    #expect(a == Files.read(scratch.file("b")))

    // Observed facts and time change nothing that is compared.
    var maker = SampleMaker(seed: 31)
    let samples = maker.run(exits: 6_000)
    var header = sampleHeader()
    header.observed?.hostName = "another"
    let options = TraceOptions(timing: TimeBase(ticksPerSecond: 1_000_000_000, origin: 0))
    try record(
        samples, end: maker.end(), to: scratch.file("c"), header: header, options: options)
    let plain = try TraceReader(bytes: a)
    let timed = try TraceReader(path: scratch.file("c"))
    #expect(plain.header.observed == nil)
    #expect(timed.header.observed?.hostName == "another")
    #expect(plain.identity == timed.identity)
    #expect(plain.eventBlockCount == timed.eventBlockCount)
    for index in 0..<plain.eventBlockCount {
        #expect(
            try plain.summary(ofBlock: index).digests == timed.summary(ofBlock: index).digests)
    }
}

@Test func digestsTellWhatDiffers() throws {
    let scratch = try TemporaryDirectory()
    var maker = SampleMaker(seed: 32)
    let samples = maker.run(exits: 300)
    func digests(_ name: String, _ samples: [Sample]) throws -> RunningDigests {
        try record(samples, end: maker.end(), to: scratch.file(name)).digests
    }
    let base = try digests("base", samples)
    func changed(_ name: String, _ change: (Sample) -> Sample?) throws -> RunningDigests {
        var copy = samples
        let index = try #require(copy.firstIndex { change($0) != nil })
        copy[index] = change(copy[index]) ?? copy[index]
        return try digests(name, copy)
    }
    let register = try changed("register") { sample in
        guard case .exit(let d, let f, let w, var r, let s, let v, let a, let b) = sample else {
            return nil
        }
        r[.r15] ^= 1
        return .exit(d, f, w, r, s, v, entered: a, returned: b)
    }
    #expect(register.full != base.full)
    #expect(register.output == base.output && register.input == base.input)
    let answer = try changed("answer") { sample in
        guard case .answer(let form, var data, let v) = sample, !data.isEmpty else { return nil }
        data[0] ^= 1
        return .answer(form, data, v)
    }
    #expect(answer.full != base.full && answer.input != base.input)
    #expect(answer.output == base.output)
    let output = try changed("output") { sample in
        guard
            case .exit(
                .io(true, let size, let port, let count, var data), let f, let w, let r, let s,
                let v, let a, let b) = sample, !f.contains(.rewrittenInstruction), !data.isEmpty
        else { return nil }
        data[0] ^= 1
        return .exit(
            .io(isWrite: true, size: size, port: port, count: count, data: data), f, w, r, s, v,
            entered: a, returned: b)
    }
    #expect(output.full != base.full && output.output != base.output)
    #expect(output.input == base.input)
    #expect(base.outputCount > 10 && base.inputCount > 10)
}

@Test func blocksEndByContent() throws {
    let scratch = try TemporaryDirectory()
    var encoder = RowEncoder(vCPUCount: 1)
    var maker = SampleMaker(seed: 33)
    var samples = maker.run(exits: 200)
    // A flood between two exits, and then many short exits.
    for _ in 0..<9 {
        samples.append(.deviceWrite(.init(0), maker.random.bytes(60_000), 0))
    }
    for _ in 0..<9_000 {
        maker.registers[0].rip &+= 1
        samples.append(
            .exit(
                .other(.hlt, data: []), [], 0, maker.registers[0], maker.system[0], 0,
                entered: 0, returned: 0))
    }
    try record(samples, end: maker.end(), to: scratch.file("t"))
    // The rule once more, by itself.
    var expected: [(exits: Int, events: Int)] = []
    var open = (exits: 0, events: 0)
    var counted = 0
    var exits = 0
    let end = Sample.end(maker.end(), nil)
    for sample in samples + [end] {
        var isExit = false
        if case .exit = sample { isExit = true }
        let row = sample.encode(&encoder)
        if counted >= 320 * 1024
            || isExit && (counted >= 256 * 1024 || exits > 0 && exits % 4096 == 0)
        {
            expected.append(open)
            open = (0, 0)
            counted = 0
        }
        counted += row.count + 8
        open.events += 1
        if isExit {
            open.exits += 1
            exits += 1
        }
    }
    expected.append(open)
    let trace = try TraceReader(path: scratch.file("t"))
    let found = try (0..<trace.eventBlockCount).map { try trace.summary(ofBlock: $0) }
    #expect(found.map { $0.exitCount } == expected.map { $0.exits })
    #expect(found.map { $0.eventCount } == expected.map { $0.events })
    #expect(found.contains { $0.endExit == 4096 } && found.contains { $0.endExit == 8192 })
    #expect(trace.verify().isSound)
    #expect(try readSamples(trace).count == samples.count + 1)
}

@Test func theTapeGivesTheRowsThatAnEncoderGives() throws {
    let scratch = try TemporaryDirectory()
    var maker = SampleMaker(seed: 34, vCPUs: 2)
    let samples = maker.run(exits: 9_500)
    let end = maker.end()
    try record(
        samples, end: end, to: scratch.file("t"), header: sampleHeader(vCPUs: 2))
    let trace = try TraceReader(path: scratch.file("t"))
    for first in [UInt64(0), 1, 4_095, 4_096, 5_000, 9_499] {
        var tape = try trace.tape(from: first)
        var encoder = RowEncoder(vCPUCount: 2)
        for (vCPU, state) in tape.startingSnapshots.enumerated() {
            encoder.setSnapshot(
                registers: state.registers, system: state.system, vCPU: UInt8(vCPU))
        }
        var number: UInt64 = 0
        var compared = 0
        for sample in samples + [.end(end, nil)] {
            var isExit = false
            if case .exit = sample { isExit = true }
            if isExit { number += 1 }
            if first > 0 && number <= first && !(isExit && number == first + 1) { continue }
            let expected = sample.encode(&encoder)
            if isExit {
                let tapeNumber = tape.exitNumber
                #expect(tapeNumber == number - 1)
            }
            let peeked = try unsafe tape.peek().map { unsafe Array($0.bytes) }
            let row = try unsafe tape.next().map { unsafe Array($0.bytes) }
            #expect(row == expected)
            #expect(peeked == expected)
            compared += 1
            if row != expected { break }
        }
        #expect(compared > 0)
        let isAtEnd = try unsafe tape.next() == nil
        #expect(isAtEnd)
        let isStillAtEnd = try unsafe tape.next() == nil
        #expect(isStillAtEnd)
    }
}

@Test func tapeRowsTellTheirParts() throws {
    let scratch = try TemporaryDirectory()
    var maker = SampleMaker(seed: 35)
    let samples = maker.run(exits: 400)
    let end = maker.end()
    try record(samples, end: end, to: scratch.file("t"))
    var tape = try TraceReader(path: scratch.file("t")).tape()
    var snapshot = GeneralRegisters()
    for sample in samples {
        guard let row = try unsafe tape.next() else {
            Issue.record("the tape ends early")
            return
        }
        // SAFETY: the row is used before the next one is asked for.
        switch sample {
        case .start(let registers, let system, _):
            snapshot = registers
            #expect(unsafe row.start?.registers == registers && row.start?.system == system)
        case .exit(_, _, _, let registers, _, _, _, _):
            snapshot = registers
            #expect(unsafe row.kind == .exit && row.answer == nil && row.end == nil)
        case .answer(let form, let data, _):
            #expect(
                unsafe row.answer.map { unsafe $0.form == form && Array($0.data) == data }
                    == true)
        case .completion(let changes, _): #expect(unsafe row.changes == changes)
        case .interruption(let interruption, _):
            #expect(unsafe row.interruption(snapshot: snapshot) == interruption)
        case .deviceWrite(let address, let data, _):
            #expect(
                unsafe row.deviceWrite.map {
                    unsafe $0.address == address && Array($0.data) == data
                } == true)
        case .end: break
        }
    }
    let last = try unsafe tape.next()
    #expect(unsafe last?.end?.event.guestStatus == 33)
}

@Test func aFarBlockCostsNoMoreThanANearOne() throws {
    let scratch = try TemporaryDirectory()
    var registers = GeneralRegisters()
    let system = SystemRegisters()
    var writer = try TraceWriter(path: scratch.file("t"), header: sampleHeader())
    for _ in 0..<60_000 {
        registers.rip ^= 16
        var r = registers
        var s = system
        // SAFETY: pointers to locals that outlive the call.
        try unsafe writer.exit(
            .plain(.hlt), rewind: 0, registers: &r, system: &s, entered: 0, returned: 0)
    }
    let end = EndRecord(reason: .exitLimit, registers: registers, system: system)
    let summary = try writer.finish(end, memory: nil)
    #expect(Double(summary.eventBytes) / 60_000 < 0.3)
    let trace = try TraceReader(path: scratch.file("t"))
    let opening = trace.statistics
    var cursor = try trace.events(from: 55_555)
    let event = try cursor.next()
    let number = cursor.exitNumber
    #expect(event?.kind == .exit)
    #expect(number == 55_555)
    let reading = trace.statistics
    #expect(reading.reads - opening.reads <= 2)
    #expect(reading.bytes - opening.bytes <= 2_000)
    #expect(opening.reads < 40)
}

@Test func nothingIsOverwrittenUnasked() throws {
    let scratch = try TemporaryDirectory()
    let path = scratch.file("t")
    var maker = SampleMaker(seed: 36)
    let samples = maker.run(exits: 5)
    func code(_ options: TraceOptions = TraceOptions()) -> TraceError.Code? {
        do throws(TraceError) {
            _ = try TraceWriter(path: path, header: sampleHeader(), options: options)
        } catch { return error.code }
        return nil
    }
    try record(samples, end: maker.end(), to: path)
    #expect(PathKind(path + ".partial") == .nothing)
    #expect(PathKind(path + ".partial-tail") == .nothing)
    #expect(code() == .exists)
    var status = stat()
    // SAFETY: the status is a local.
    #expect(unsafe stat(path, &status) == 0)
    #expect(status.st_mode & 0o777 == 0o600)
    try record(samples, end: maker.end(), to: path, options: .init(overwrites: true))
    Paths.remove(path)

    // What an interrupted recording left.
    #expect(code() == nil)
    #expect(PathKind(path + ".partial") == .regularFile)
    #expect(code() == .exists)
    #expect(code(.init(overwrites: true)) == nil)

    // A recording that is still going on is not replaced even when asked.
    var writer = try TraceWriter(
        path: path, header: sampleHeader(), options: .init(overwrites: true))
    #expect(code(.init(overwrites: true)) == .exists)
    for sample in samples { try sample.write(&writer) }
    // Someone makes the file meanwhile: it is not lost, and neither is the recording.
    Paths.remove(path)
    _ = try writer.finish(maker.end(), memory: nil)

    Paths.remove(path)
    try TraceWriter(path: path, header: sampleHeader()).discard()
    #expect(PathKind(path + ".partial") == .nothing)
    #expect(PathKind(path + ".partial-tail") == .nothing)

    do throws(TraceError) {
        _ = try TraceWriter(path: "/nowhere/at/all", header: sampleHeader())
        Issue.record("a trace in a directory that does not exist")
    } catch {
        #expect(error.code == .system(ENOENT))
        #expect(!error.description.contains("\n"))
    }
}

@Test func aFullDiskLosesNothing() throws {
    let scratch = try TemporaryDirectory()
    for limit in [UInt64(6_000), 100_000, 300_000] {
        let path = scratch.file("full\(limit)")
        var options = TraceOptions()
        options.maximumFileBytes = limit
        options.ringSlots = 4
        var maker = SampleMaker(seed: 37)
        let samples = maker.run(exits: 4_000)
        var written = 0
        var failure: TraceError?
        do throws(TraceError) {
            var writer = try TraceWriter(path: path, header: sampleHeader(), options: options)
            for sample in samples {
                try sample.write(&writer)
                written += 1
            }
            _ = try writer.finish(maker.end(), memory: nil)
        } catch { failure = error }
        #expect(failure?.code == .system(ENOSPC))
        #expect(failure?.description.contains("free some space") == true)
        let trace = try TraceReader(path: path)
        #expect(!trace.isComplete)
        #expect(trace.damages.isEmpty)
        let read = try readSamples(trace)
        let expected = samples.map { $0.withoutStamps }
        // An event that did not fit may be there too: it was encoded before the error was known.
        #expect(read.count >= written)
        #expect(zip(read, expected).allSatisfy { $0 == $1 })
        #expect(trace.verify().isSound)
    }
}

@Test func headersAndImagesAreReadBack() throws {
    let scratch = try TemporaryDirectory()
    var random = SeededGenerator(seed: 4)
    var image = random.bytes(3 << 20)
    for index in 5_000..<2_000_000 { image[index] = 0 }
    image += Array(repeating: 0, count: 10_000)
    var header = sampleHeader(image: image)
    header.parent = ParentTrace(name: "p", identity: 1, exit: 2, digest: .init(low: 3, high: 4))
    header.images.append(ImageRecord(name: "empty", kind: "module", bytes: []))
    header.images.append(
        ImageRecord(name: "zeros", kind: "module", bytes: Array(repeating: 0, count: 70_000)))
    var maker = SampleMaker(seed: 38)
    let samples = maker.run(exits: 5)
    var memory = MemoryDigest()
    for number in 0..<70_000 {
        memory.append(.init(number: UInt64(number * 3), hash: random.next()))
    }
    try record(
        samples, end: maker.end(), to: scratch.file("t"), header: header,
        options: TraceOptions(timing: TimeBase(ticksPerSecond: 1, origin: 0)), memory: memory)
    let trace = try TraceReader(path: scratch.file("t"))
    var expected = header
    for index in expected.images.indices { expected.images[index].segments = [] }
    #expect(trace.header == expected)
    #expect(try trace.imageBytes(0) == image)
    #expect(try trace.imageBytes(1) == [])
    #expect(try trace.imageBytes(2) == Array(repeating: 0, count: 70_000))
    #expect(throws: TraceError.self) { try trace.imageBytes(3) }
    #expect(try trace.memoryDigest() == memory)
    #expect(try trace.end()?.event.memory == memory.digest)
    let report = trace.verify()
    #expect(report.isSound && report.hasMemoryDigest && report.soundImages == 3)
    #expect(trace.fileBytes < 2_700_000)
}

@Test func memoryDigestsReplaceOnePage() {
    var random = SeededGenerator(seed: 6)
    func page(_ number: UInt64, _ bytes: [UInt8]) -> MemoryDigest.Page? {
        // SAFETY: the array outlives the call.
        unsafe bytes.withUnsafeBytes { unsafe MemoryDigest.page(number: number, bytes: $0) }
    }
    let zeros = [UInt8](repeating: 0, count: 4096)
    #expect(page(1, zeros) == nil)
    for index in [0, 31, 32, 4095] {
        var one = zeros
        one[index] = 1
        #expect(page(1, one) != nil)
    }
    let contents = (0..<5).map { _ in random.bytes(4096) }
    var a = MemoryDigest()
    for number in 0..<5 { if let p = page(UInt64(number), contents[number]) { a.append(p) } }
    var b = MemoryDigest()
    for number in [3, 0, 4, 1, 2] {
        b.replace(pageNumber: UInt64(number), with: page(UInt64(number), contents[number]))
    }
    #expect(a == b)
    b.replace(pageNumber: 2, with: page(2, contents[0]))
    #expect(a.digest != b.digest)
    #expect(a.differingPages(from: b) == [2])
    b.replace(pageNumber: 2, with: nil)
    b.replace(pageNumber: 4, with: nil)
    #expect(a.differingPages(from: b) == [2, 4])
    #expect(b.differingPages(from: a) == [2, 4])
    b.replace(pageNumber: 2, with: page(2, contents[2]))
    b.replace(pageNumber: 4, with: page(4, contents[4]))
    #expect(a == b)
    #expect(MemoryDigest(pages: a.pages) == a)
    #expect(MemoryDigest(pages: a.pages.reversed()) == nil)
    // Two pages exchanged are another RAM.
    #expect(page(0, contents[1]) != page(1, contents[1]))
}
