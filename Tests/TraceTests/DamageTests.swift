import Machine
import TestSupport
import Testing

@testable import Trace

/// A trace with several small blocks: exits in three cells would be long, so rows are made large.
func smallTrace(timing: Bool = true) throws -> (bytes: [UInt8], samples: [Sample]) {
    let scratch = try TemporaryDirectory()
    var maker = SampleMaker(seed: 77)
    var samples = maker.run(exits: 12)
    samples.append(.interruption(Interruption(.external, vector: 32), 0))
    let end = maker.end()
    var memory = MemoryDigest()
    memory.append(.init(number: 3, hash: 4))
    memory.append(.init(number: 9, hash: 1))
    try record(
        samples, end: end, to: scratch.file("t"),
        options: TraceOptions(
            timing: timing ? TimeBase(ticksPerSecond: 1_000_000_000, origin: 0) : nil),
        memory: memory)
    let bytes = try #require(Files.read(scratch.file("t")))
    return (bytes, samples.map { $0.withoutStamps } + [.end(end, memory.digest)])
}

/// What can be read of damaged bytes is right: an error at opening, or events that were written.
/// Returns whether the damage was seen.
func readsOnlyTruth(_ bytes: [UInt8], _ samples: [Sample]) -> Bool {
    guard let trace = try? TraceReader(bytes: bytes) else { return true }
    let report = trace.verify()
    if let read = try? readSamples(trace) {
        let isPrefix = read.count <= samples.count && zip(read, samples).allSatisfy { $0 == $1 }
        if !isPrefix { return false }
    }
    if (try? trace.imageBytes(0)).map({ $0 != [0x90, 0xF4] }) ?? false { return false }
    return !report.isSound || !report.isComplete
}

@Test func everyFlippedByteIsSeen() throws {
    let (bytes, samples) = try smallTrace()
    #expect(try readSamples(TraceReader(bytes: bytes)) == samples)
    #expect(try TraceReader(bytes: bytes).verify().isSound)
    var random = SeededGenerator(seed: 1)
    for index in bytes.indices {
        for flip in [UInt8(1) << UInt8(random.below(8)), 0xFF] {
            var damaged = bytes
            damaged[index] ^= flip
            #expect(readsOnlyTruth(damaged, samples), "byte \(index) ^ \(flip)")
        }
    }
}

@Test func everyTruncationIsSeen() throws {
    let (bytes, samples) = try smallTrace()
    for length in 0..<bytes.count {
        #expect(readsOnlyTruth(Array(bytes[..<length]), samples), "\(length) bytes")
    }
    #expect(readsOnlyTruth(bytes + [0], samples))
    #expect(readsOnlyTruth(bytes + Array(repeating: 0, count: 4096), samples))
}

@Test func swappedAndZeroedPiecesAreSeen() throws {
    let (bytes, samples) = try smallTrace()
    var random = SeededGenerator(seed: 2)
    for round in 0..<400 {
        var damaged = bytes
        let length = 1 + random.below(200)
        let from = random.below(bytes.count - length)
        let to = random.below(bytes.count - length)
        for index in 0..<length {
            damaged[to + index] = round % 2 == 0 ? 0 : bytes[from + index]
        }
        if damaged == bytes { continue }
        #expect(readsOnlyTruth(damaged, samples), "round \(round)")
    }
}

@Test func absurdHeadersThatCheckAreRefused() throws {
    let (bytes, _) = try smallTrace()
    let trace = try TraceReader(bytes: bytes)
    let entry = try #require(trace.map.entries.first { $0.type == .events })
    var loader = trace.makeLoader()
    let header = try loader.header(at: entry.offset)
    func patched(_ change: (inout BlockHeader) -> Void) -> [UInt8] {
        var header = header
        change(&header)
        var buffer = ByteBuffer()
        header.append(to: &buffer, identity: trace.identity)
        var result = bytes
        result.replaceSubrange(
            Int(entry.offset)..<Int(entry.offset) + BlockHeader.bytes, with: buffer.array())
        return result
    }
    let changes: [(inout BlockHeader) -> Void] = [
        { $0.storedLength = .max }, { $0.rawLength = .max }, { $0.rawLength = 5 },
        { $0.rawLength = 4 << 20 }, { $0.exitCount = .max }, { $0.exitCount = 4096 },
        { $0.eventCount = .max }, { $0.eventCount = 0 }, { $0.eventCount = 30_000 },
        { $0.firstExit = .max }, { $0.firstExit = 1 << 40 }, { $0.sequence = .max },
        { $0.sequence = 0 }, { $0.flags = 1 }, { $0.compression = .none },
        { $0.type = .machine }, { $0.type = .end }, { $0.type = .index },
        { $0.type = BlockType(rawValue: 99) }, { $0.digests.full.low ^= 1 },
        { $0.digests.output.high ^= 1 }, { $0.digests.inputCount += 1 },
    ]
    for (index, change) in changes.enumerated() {
        let damaged = patched(change)
        guard let trace = try? TraceReader(bytes: damaged) else { continue }
        #expect(!trace.verify().isSound, "change \(index)")
    }
}

@Test func randomPayloadsNeverTrap() throws {
    // The columns of a real block, changed, with checks that hold: what a crafted file can do.
    let (bytes, _) = try smallTrace()
    let trace = try TraceReader(bytes: bytes)
    let entry = try #require(trace.map.entries.first { $0.type == .events })
    var loader = trace.makeLoader()
    let header = try loader.load(at: entry.offset)
    let payload = loader.payload.array()
    var random = SeededGenerator(seed: 9)
    var decoder = ColumnDecoder()
    var output = RowBuffer()
    var refused = 0
    for _ in 0..<6_000 {
        var changed = payload
        for _ in 0..<(1 + random.below(3)) {
            changed[random.below(changed.count)] = UInt8(truncatingIfNeeded: random.next())
        }
        // SAFETY: the array outlives the call.
        unsafe changed.withUnsafeBytes { bytes in
            do throws(Malformed) {
                try unsafe decoder.decode(
                    bytes, header: header, vCPUCount: 1, into: &output)
            } catch { refused += 1 }
        }
    }
    #expect(refused > 1_000)
}

@Test func aDamagedBlockLosesOnlyItself() throws {
    let scratch = try TemporaryDirectory()
    var maker = SampleMaker(seed: 78)
    let samples = maker.run(exits: 9_000)
    try record(samples, end: maker.end(), to: scratch.file("t"))
    var bytes = try #require(Files.read(scratch.file("t")))
    let whole = try TraceReader(bytes: bytes)
    let victim = 2
    let summary = try whole.summary(ofBlock: victim)
    bytes[Int(summary.offset) + 200] ^= 4
    let trace = try TraceReader(bytes: bytes)
    #expect(trace.isComplete)
    var cursor = try trace.events()
    var errors: [TraceError] = []
    var exits: [UInt64] = []
    while true {
        do throws(TraceError) {
            guard let event = try cursor.next() else { break }
            if event.kind == .exit, let number = cursor.exitNumber { exits.append(number) }
        } catch { errors.append(error) }
    }
    #expect(errors.count == 1)
    #expect(errors.first?.offset == summary.offset)
    #expect(exits.count == 9_000 - summary.exitCount)
    #expect(!exits.contains { summary.firstExit <= $0 && $0 < summary.endExit })
    let report = trace.verify()
    #expect(report.damages.count == 1)
    #expect(report.damages.first?.lostExits == summary.firstExit..<summary.endExit)
    #expect(report.readableExits == UInt64(exits.count))

    // The same with the block's header: the index still knows where the others are.
    bytes[Int(summary.offset) + 30] ^= 4
    let second = try TraceReader(bytes: bytes).verify()
    #expect(second.readableExits == UInt64(exits.count))
    #expect(second.damages.first?.lostExits == summary.firstExit..<summary.endExit)

    // And without an index.
    let cut = Array(bytes[..<(bytes.count - 300)])
    let third = try TraceReader(bytes: cut)
    #expect(!third.isComplete)
    #expect(third.damages.contains { $0.lostExits == summary.firstExit..<summary.endExit })
    let thirdReport = third.verify()
    #expect(
        thirdReport.readableExits == UInt64(exits.count), "\(thirdReport.damages)")
}

@Test func foreignAndNewerFilesAreRefused() throws {
    func code(_ bytes: [UInt8]) -> TraceError.Code? {
        do throws(TraceError) { _ = try TraceReader(bytes: bytes) } catch { return error.code }
        return nil
    }
    #expect(code([]) == .notATrace)
    #expect(code(Array("hello".utf8)) == .notATrace)
    #expect(code(Array(repeating: 0x7F, count: 5_000)) == .notATrace)
    let (bytes, _) = try smallTrace()
    func prelude(_ change: (inout Prelude) -> Void) -> [UInt8] {
        var prelude = Prelude(identity: 0)
        change(&prelude)
        var buffer = ByteBuffer()
        prelude.append(to: &buffer)
        return buffer.array() + bytes[64...]
    }
    #expect(code(prelude { $0.readVersion = 2 }) == .newerVersion)
    #expect(code(prelude { $0.flags = 1 << 5 }) == .newerVersion)
    #expect(code(prelude { $0.architecture = 2 }) == .newerVersion)
    #expect(code(prelude { $0.flags = 0 }) == .damaged)
}

/// A file full of block magics must not make the reader look at the same bytes again and again.
@Test func resynchronisingIsOnePass() throws {
    let (bytes, samples) = try smallTrace()
    var filler: [UInt8] = []
    for _ in 0..<(200 * 1024 / 8) { filler += le(BlockHeader.magic) }
    let trace = try TraceReader(bytes: bytes + filler)
    #expect(!trace.isComplete)
    #expect(try readSamples(trace) == samples)
    #expect(trace.damages.count == 1)
    #expect(trace.statistics.bytes < 4 * UInt64(bytes.count + filler.count))
}

@Test func damageOfAnyExtentHasADescription() {
    #expect(
        Damage(64, "gone", lostExits: 1..<UInt64.max).description
            == "at byte 64: gone; exits 1..\(UInt64.max - 1) are lost")
    #expect(Damage(nil, "gone", lostExits: 7..<8).description == "gone; exit 7 is lost")
    #expect(Damage(nil, "gone", lostExits: 7..<7).description == "gone")
}
