import Glibc
import Machine
import TestSupport
import Testing

@testable import Trace

/// A recording with a world stream: what is recorded, and what a reader must find.
private struct WorldSample {
    /// How many exits were made before it.
    var exitCount: UInt64
    var event: WorldEvent
}

extension TraceWriter {
    fileprivate mutating func write(_ event: WorldEvent) throws {
        switch event {
        case .clock(let time), .wake(let time), .kick(let time):
            try world(event.kind, microseconds: time)
        case .acknowledge: try world(.acknowledge)
        case .input(let bytes): try worldInput(bytes)
        }
    }
}

/// Exits as `SampleMaker` makes them, with world events between them as they might come.
private func worldSamples(
    seed: UInt64, exits: Int
) -> (samples: [Sample], world: [Int: [WorldEvent]]) {
    var maker = SampleMaker(seed: seed)
    let samples = maker.run(exits: exits)
    var random = SeededGenerator(seed: seed &+ 1)
    var world: [Int: [WorldEvent]] = [:]
    var time: UInt64 = 0
    for index in samples.indices {
        guard case .exit = samples[index] else { continue }
        var events: [WorldEvent] = []
        time &+= UInt64(random.below(random.chance(90) ? 100 : 1_000_000))
        if random.chance(70) { events.append(.clock(microseconds: time)) }
        if random.chance(3) { events.append(.input(random.bytes(random.below(40)))) }
        if random.chance(2) { events.append(.wake(microseconds: time)) }
        if random.chance(2) {
            events.append(.kick(microseconds: time))
            if random.chance(50) { events.append(.acknowledge) }
        }
        if !events.isEmpty { world[index] = events }
    }
    return (samples, world)
}

private func record(
    _ samples: [Sample], _ world: [Int: [WorldEvent]], end: EndRecord?, to path: String,
    hasWorldStream: Bool = true
) throws -> TraceSummary? {
    var options = TraceOptions()
    options.hasWorldStream = hasWorldStream
    var writer = try TraceWriter(path: path, header: sampleHeader(), options: options)
    for (index, sample) in samples.enumerated() {
        try sample.write(&writer)
        for event in world[index] ?? [] { try writer.write(event) }
    }
    guard let end else { return nil }
    return try writer.finish(end, memory: nil)
}

private func expected(
    _ samples: [Sample], _ world: [Int: [WorldEvent]]
) -> [WorldSample] {
    var result: [WorldSample] = []
    var exits: UInt64 = 0
    for (index, sample) in samples.enumerated() {
        if case .exit = sample { exits += 1 }
        for event in world[index] ?? [] where event != .input([]) {
            result.append(WorldSample(exitCount: exits, event: event))
        }
    }
    return result
}

private func read(_ trace: TraceReader, from exit: UInt64 = 0) throws -> [WorldSample] {
    var cursor = try trace.worldEvents(from: exit)
    var result: [WorldSample] = []
    while let next = try cursor.next() {
        result.append(WorldSample(exitCount: next.exitCount, event: next.event))
    }
    return result
}

private func areEqual(_ a: [WorldSample], _ b: [WorldSample]) -> Bool {
    a.count == b.count
        && zip(a, b).allSatisfy { $0.exitCount == $1.exitCount && $0.event == $1.event }
}

@Suite struct WorldStreamTests {
    @Test func `what was recorded is read, and the events are those of a trace without`() throws {
        let scratch = try TemporaryDirectory()
        let (samples, world) = worldSamples(seed: 5, exits: 9_000)
        var maker = SampleMaker(seed: 6)
        let end = maker.end()
        let with = try #require(try record(samples, world, end: end, to: scratch.file("with")))
        let without = try #require(
            try record(samples, world, end: end, to: scratch.file("without"), hasWorldStream: false)
        )
        #expect(with.digests == without.digests && with.eventCount == without.eventCount)
        let trace = try TraceReader(path: scratch.file("with"))
        let plain = try TraceReader(path: scratch.file("without"))
        #expect(trace.hasWorldStream && !plain.hasWorldStream)
        #expect(try readSamples(trace) == readSamples(plain))
        #expect(trace.eventBlockCount == plain.eventBlockCount)
        for block in 0..<trace.eventBlockCount {
            #expect(
                try trace.summary(ofBlock: block).digests == plain.summary(ofBlock: block).digests)
        }
        #expect(trace.verify().isSound)
        let all = expected(samples, world)
        #expect(all.count > 6_000)
        #expect(areEqual(try read(trace), all))
        #expect(try read(plain).isEmpty)
        var cursor = try trace.events()
        while try cursor.next() != nil {}
        #expect(cursor.worldSize.events == UInt64(all.count))
        // A byte of time or kind at the least for each, and no more than its row.
        #expect((UInt64(all.count)...13 * UInt64(all.count)).contains(cursor.worldSize.bytes))
        var plainCursor = try plain.events()
        while try plainCursor.next() != nil {}
        #expect(plainCursor.worldSize == WorldSize())
        for exit: UInt64 in [1, 2, 4095, 4096, 4097, 8_999] {
            #expect(
                areEqual(try read(trace, from: exit), all.filter { $0.exitCount > exit }),
                "from exit \(exit)")
        }
    }

    @Test func `nothing of it is lost with a recorder that dies`() throws {
        let scratch = try TemporaryDirectory()
        let (samples, world) = worldSamples(seed: 15, exits: 5_000)
        _ = try record(samples, world, end: nil, to: scratch.file("t"))
        let trace = try TraceReader(path: scratch.file("t"))
        #expect(!trace.isComplete && trace.hasWorldStream && trace.damages.isEmpty)
        #expect(areEqual(try read(trace), expected(samples, world)))
        #expect(try readSamples(trace) == samples.map { $0.withoutStamps })
    }

    @Test func `more than a block takes goes into the next`() throws {
        let scratch = try TemporaryDirectory()
        var maker = SampleMaker(seed: 25)
        let samples = maker.run(exits: 3)
        let exits = samples.indices.filter { if case .exit = samples[$0] { true } else { false } }
        let many = (0..<40_000).map { WorldEvent.kick(microseconds: UInt64($0) * 1000) }
        let world = [exits[1]: many + [.input(Array(repeating: 7, count: 9_000))]]
        // Input is cut into world events of 4096 bytes.
        let cut = [
            exits[1]: many + [4096, 4096, 808].map { .input(Array(repeating: 7, count: $0)) }
        ]
        _ = try record(samples, world, end: nil, to: scratch.file("partial"))
        let partial = try TraceReader(path: scratch.file("partial"))
        #expect(partial.damages.isEmpty)
        #expect(areEqual(try read(partial), expected(samples, cut)))
        _ = try record(samples, world, end: maker.end(), to: scratch.file("t"))
        let trace = try TraceReader(path: scratch.file("t"))
        #expect(trace.eventBlockCount > 4)
        #expect(trace.verify().isSound)
        #expect(areEqual(try read(trace), expected(samples, cut)))
    }

    @Test func `an empty world stream costs three lengths a block and nothing else`() throws {
        let scratch = try TemporaryDirectory()
        var maker = SampleMaker(seed: 35)
        let samples = maker.run(exits: 10)
        let end = maker.end()
        _ = try record(samples, [:], end: end, to: scratch.file("with"))
        _ = try record(samples, [:], end: end, to: scratch.file("without"), hasWorldStream: false)
        let withBytes = try #require(Files.read(scratch.file("with")))
        let withoutBytes = try #require(Files.read(scratch.file("without")))
        let (with, without) = (try blocks(withBytes), try blocks(withoutBytes))
        for (a, b) in zip(with, without) where a.header.type == .events {
            #expect(a.payload.count == b.payload.count + 12)
        }
    }

    /// FORMAT.md, "World stream", byte by byte.
    @Test func `the columns are as the format says`() throws {
        let scratch = try TemporaryDirectory()
        var registers = GeneralRegisters()
        let system = SystemRegisters()
        func poll(_ rip: UInt64) -> Sample {
            registers.rip = rip
            return .exit(
                .io(isWrite: false, size: 1, port: 0x40, count: 1, data: []), [], 0, registers,
                system, 0, entered: 0, returned: 0)
        }
        let samples = [poll(0x1000), poll(0x1000), poll(0x1000), poll(0x2000), poll(0x2000)]
        let world: [Int: [WorldEvent]] = [
            0: [.clock(microseconds: 5)],
            1: [.clock(microseconds: 7)],
            2: [.clock(microseconds: 135), .input([0x41, 0x42])],
            4: [.kick(microseconds: 136), .acknowledge],
        ]
        _ = try record(
            samples, world,
            end: EndRecord(reason: .halted, registers: registers, system: system),
            to: scratch.file("t"))
        let bytes = try #require(Files.read(scratch.file("t")))
        #expect(bytes[16..<20] == [0x00, 0x00, 0x01, 0x00])  // flags: bit 16, a world stream
        let found = try #require(try blocks(bytes).first { $0.header.type == .events })
        #expect(found.header.eventCount == 6)
        #expect(Array(found.payload[..<4]) == le(UInt32(38)))
        let columns: [[UInt8]] = [
            [0x01, 0x01, 0x40]  // 35: place 1, one event: clock (the site's first exit)
                + [0x02, 0x02, 0x40, 0x44]  // two further on, two: clock, input
                + [0x02, 0x02, 0x42, 0x43],  // two further on, two: kick, acknowledge
            [0x05, 0x02, 0x80, 0x01, 0x01],  // 36: 5, +2, +128, +1
            [0x02, 0x41, 0x42],  // 37: two bytes
        ]
        let lengths = columns.flatMap { le(UInt32($0.count)) }
        #expect(Array(found.payload[(4 + 35 * 4)..<(4 + 38 * 4)]) == lengths)
        #expect(Array(found.payload.suffix(11 + 5 + 3)) == columns.flatMap { $0 })
    }

    @Test func `rows in a side file are as the format says`() throws {
        let scratch = try TemporaryDirectory()
        var options = TraceOptions()
        options.hasWorldStream = true
        options.ringSlots = 2
        var writer = try TraceWriter(
            path: scratch.file("t"), header: Golden.header, options: options)
        try writer.write(.wake(microseconds: 0x0102))
        try writer.write(.acknowledge)
        try writer.write(.input([9, 8]))
        let bytes = try #require(Files.read(scratch.file("t.partial-tail")))
        #expect(Array(bytes[16..<24]) == le(UInt64(598_016)))  // bytes from slot to slot
        #expect(Array(bytes[28..<32]) == le(UInt32(2)))  // flags: world events
        let frames = Array(bytes[(4096 + 576)...])
        #expect(Array(frames[..<4]) == le(UInt32(9)))
        #expect(Array(frames[8..<17]) == [0x41] + le(UInt64(0x0102)))
        #expect(Array(frames[17..<21]) == le(UInt32(1)))
        #expect(frames[25] == 0x43)
        #expect(Array(frames[26..<30]) == le(UInt32(5)))
        #expect(Array(frames[34..<39]) == [0x44, 0x02, 0x00, 9, 8])
    }

    @Test func `crafted columns are refused or read, and never trap`() throws {
        let scratch = try TemporaryDirectory()
        let (samples, world) = worldSamples(seed: 45, exits: 300)
        var maker = SampleMaker(seed: 46)
        _ = try record(samples, world, end: maker.end(), to: scratch.file("t"))
        let bytes = try #require(Files.read(scratch.file("t")))
        let found = try #require(try blocks(bytes).first { $0.header.type == .events })
        // Only the world's columns, which come last.
        let lengths = (35..<38).map { column in
            (0..<4).reduce(0) { $0 | Int(found.payload[4 + column * 4 + $1]) << ($1 * 8) }
        }
        let size = lengths.reduce(0, +)
        #expect(size > 300)
        var random = SeededGenerator(seed: 47)
        var decoder = ColumnDecoder()
        var output = RowBuffer()
        var refused = 0
        for _ in 0..<5_000 {
            var changed = found.payload
            for _ in 0..<(1 + random.below(3)) {
                changed[changed.count - 1 - random.below(size)] = UInt8(
                    truncatingIfNeeded: random.next())
            }
            // SAFETY: the array outlives the call.
            unsafe changed.withUnsafeBytes { bytes in
                do throws(Malformed) {
                    try unsafe decoder.decode(
                        bytes, header: found.header, vCPUCount: 1, into: &output)
                } catch { refused += 1 }
            }
        }
        #expect(refused > 500)
    }

    @Test func `a damaged block ends the stream there, with its place`() throws {
        let scratch = try TemporaryDirectory()
        let (samples, world) = worldSamples(seed: 55, exits: 9_000)
        var maker = SampleMaker(seed: 56)
        _ = try record(samples, world, end: maker.end(), to: scratch.file("t"))
        var bytes = try #require(Files.read(scratch.file("t")))
        let victim = try TraceReader(bytes: bytes).summary(ofBlock: 1)
        bytes[Int(victim.offset) + 200] ^= 4
        var cursor = try TraceReader(bytes: bytes).worldEvents()
        var failure: TraceError?
        var last: UInt64 = 0
        do throws(TraceError) {
            while let next = try cursor.next() { last = next.exitCount }
        } catch { failure = error }
        #expect(failure?.offset == victim.offset)
        #expect(last <= victim.firstExit && last + 20 > victim.firstExit)
    }

    @Test func `digests before an exit are those a reader rolls`() throws {
        let scratch = try TemporaryDirectory()
        let (samples, world) = worldSamples(seed: 65, exits: 5_000)
        var maker = SampleMaker(seed: 66)
        let summary = try #require(
            try record(samples, world, end: maker.end(), to: scratch.file("t")))
        let trace = try TraceReader(path: scratch.file("t"))
        var roller = DigestRoller()
        var cursor = try trace.events()
        var wanted: Set<UInt64> = [0, 1, 4095, 4096, 4999]
        while let event = try cursor.next() {
            if event.kind == .exit, let number = cursor.exitNumber, wanted.remove(number) != nil {
                #expect(try trace.digests(before: number) == roller.digests, "exit \(number)")
            }
            roller.add(cursor.row)
        }
        #expect(wanted.isEmpty)
        #expect(try trace.digests(before: 5_000) == summary.digests)
    }
}
