import Glibc
import Machine
import TestSupport
import Testing

@testable import Trace

/// The trace that FORMAT.md is pinned by: one OUT, one IN with its answer, the end.
enum Golden {
    static let header = TraceHeader(
        machine: MachineDescription(ramBytes: 0x1_0000), commandLine: "x")

    static var samples: [Sample] {
        var registers = GeneralRegisters()
        let system = SystemRegisters()
        registers.rip = 0x1000
        var result: [Sample] = [.start(registers, system, 0)]
        registers.rip = 0x1004
        registers[.rax] = 0x41
        result.append(
            .exit(
                .io(isWrite: true, size: 1, port: 0x3F8, count: 1, data: [0x41]), [], 1,
                registers, system, 0, entered: 0, returned: 0))
        registers[.rdx] = 0x3FD
        result.append(
            .exit(
                .io(isWrite: false, size: 1, port: 0x3FD, count: 1, data: []), [], 0, registers,
                system, 0, entered: 0, returned: 0))
        result.append(.answer(.io, [0x60], 0))
        return result
    }

    static var end: EndRecord {
        var registers = GeneralRegisters()
        registers.rip = 0x1005
        return EndRecord(reason: .halted, registers: registers, system: SystemRegisters())
    }

    static func record(_ scratch: TemporaryDirectory) throws -> [UInt8] {
        var memory = MemoryDigest()
        memory.append(.init(number: 1, hash: 0x55))
        try TraceTests.record(
            samples, end: end, to: scratch.file("golden"), header: header, memory: memory)
        return try #require(Files.read(scratch.file("golden")))
    }
}

/// Raw payloads and headers of all blocks, in order.
func blocks(_ bytes: [UInt8]) throws -> [(header: BlockHeader, payload: [UInt8])] {
    let trace = try TraceReader(bytes: bytes)
    var loader = trace.makeLoader()
    var offset = UInt64(Prelude.bytes)
    var result: [(BlockHeader, [UInt8])] = []
    while offset < trace.fileBytes {
        let header = try loader.load(at: offset)
        result.append((header, loader.payload.array()))
        offset += header.span
    }
    return result
}

@Test func preludeAndFirstBlockByteByByte() throws {
    let bytes = try Golden.record(TemporaryDirectory())
    let prelude: [UInt8] =
        [0x89, 0x56, 0x4D, 0x54, 0x41, 0x50, 0x45, 0x0A]  // 0 magic: 89 "VMTAPE" 0A
        + [0x01, 0x00]  // 8 write version
        + [0x01, 0x00]  // 10 read version
        + [0x01, 0x00]  // 12 architecture: x86-64
        + [0x40, 0x00]  // 14 length of the prelude
        + [0x00, 0x00, 0x00, 0x00]  // 16 flags: no timing
        + [0x00, 0x10, 0x00, 0x00]  // 20 exits per cell: 4096
        + [0x8A, 0x0A, 0x34, 0xD1, 0x51, 0xFC, 0xE3, 0x70]  // 24 identity
        + Array(repeating: 0, count: 24)  // 32 reserved
    #expect(Array(bytes[..<56]) == prelude)
    // 56 XXH3-64 of the 56 bytes before.
    #expect(Array(bytes[56..<64]) == [0xB6, 0x9C, 0x24, 0xC8, 0xF4, 0xF5, 0xBD, 0xAD])

    let payload: [UInt8] =
        [0x01, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00]  // tag 1, RAM; 8 bytes
        + [0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00]  // 64 KiB
        + [0x02, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00]  // tag 2, vCPUs; 8 bytes
        + [0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]  // one
    let first = try #require(try blocks(bytes).first)
    #expect(first.payload == payload)
    let stored = UInt32(first.header.storedLength)
    let header: [UInt8] =
        [0x89, 0x56, 0x4D, 0x54, 0x42, 0x0D, 0x1A, 0x0A]  // 0 magic: 89 "VMTB" 0D 1A 0A
        + [0x01]  // 8 type: machine
        + [first.header.compression.rawValue]  // 9 compression: LZ4's version decides
        + [0x00, 0x00]  // 10 flags
        + [0x00, 0x00, 0x00, 0x00]  // 12 sequence
        + le(stored)  // 16 stored length
        + [0x20, 0x00, 0x00, 0x00]  // 20 raw length
        + Array(repeating: 0, count: 8)  // 24 first exit
        + [0x00, 0x00, 0x00, 0x00]  // 32 exits
        + [0x00, 0x00, 0x00, 0x00]  // 36 events
        + Array(repeating: 0, count: 8)  // 40 output events so far
        + Array(repeating: 0, count: 8)  // 48 input events so far
        + Array(repeating: 0, count: 48)  // 56 digests: full, output, input
        + Array(repeating: 0, count: 8)  // 104 host time
        + le(first.header.payloadHash)  // 112 XXH3-64 of the stored payload
    #expect(Array(bytes[64..<184]) == header)
    // 120 XXH3-64 of the 120 bytes before, xor identity.
    let check = unsafe header.withUnsafeBytes { unsafe hash64($0) }
    let identity = try TraceReader(bytes: bytes).identity
    #expect(Array(bytes[184..<192]) == le(check ^ identity))
}

@Test func eventsPayloadByteByByte() throws {
    let bytes = try Golden.record(TemporaryDirectory())
    let found = try #require(try blocks(bytes).first { $0.header.type == .events })
    #expect(found.header.exitCount == 2 && found.header.eventCount == 5)
    #expect(found.header.digests.outputCount == 2 && found.header.digests.inputCount == 1)

    var lengths = [UInt32](repeating: 0, count: 35)
    var columns: [UInt8] = []
    func column(_ number: Int, _ bytes: [UInt8]) {
        lengths[number] = UInt32(bytes.count)
        columns += bytes
    }
    column(0, Array(repeating: 0, count: 57 * 8))  // registers before the first event
    column(1, [0x01, 0x02, 0x02, 0x03, 0x07])  // kinds: start, exit, exit, answer, end
    column(
        3,  // sites
        le(UInt64(0x1004))  // RIP
            + [0x01, 0x01, 0xF8, 0x03, 0x01, 0x00, 0x00, 0x00]  // out, size 1, port 3f8, count 1
            + le(UInt32(2))  // reason io
            + [0x01, 0x00, 0x00, 0x00]  // rewind 1, flags, reserved
            + le(UInt64(0x1004))
            + [0x00, 0x01, 0xFD, 0x03, 0x01, 0x00, 0x00, 0x00]  // in, size 1, port 3fd, count 1
            + le(UInt32(2))
            + [0x00, 0x00, 0x00, 0x00])
    column(4, [0x00, 0x01])  // site of each exit
    column(5, [0x01, 0x01])  // both have a mask unlike the site's last, which was none
    column(6, [0x01, 0x08])  // RAX; RDX
    column(7, [0x82, 0x01])  // RAX: +0x41, zigzag 0x82
    column(10, [0xFA, 0x0F])  // RDX: +0x3FD, zigzag 0x7FA
    column(27, [0x41])  // the byte sent
    column(28, [0x01, 0x01, 0x00])  // answer forms: io, 1 byte
    column(29, [0x00])  // form of each answer
    column(30, [0x60])  // the byte given back
    let start =
        Array(repeating: 0, count: 16 * 8) + le(UInt64(0x1000))
        + Array(repeating: 0, count: 40 * 8)
    let end =
        [0x01, 0x04] + Array(repeating: 0, count: 16 * 8) + le(UInt64(0x1005))
        + Array(repeating: 0, count: 40 * 8)
    let memory = MemoryDigest.Page(number: 1, hash: 0x55).term
    column(
        31,  // everything else, each with its length
        [0xC8, 0x03] + start  // 456
            + [0xDA, 0x03] + end + le(memory.low) + le(memory.high))  // 474
    #expect(found.payload == le(UInt32(35)) + lengths.flatMap { le($0) } + columns)
}

@Test func whatFollowsTheEventsByteByByte() throws {
    let bytes = try Golden.record(TemporaryDirectory())
    let all = try blocks(bytes)
    #expect(all.map { $0.header.type.rawValue } == [1, 2, 3, 7, 16, 18, 30, 31])
    #expect(all.map { $0.header.sequence } == [0, 1, 2, 3, 4, 5, 6, 7])
    // Digest of RAM: count, page numbers as differences, hashes.
    #expect(all[5].payload == [0x01, 0, 0, 0] + [0x01] + le(UInt64(0x55)))
    // The index: no index block before it, six entries of 24 bytes.
    var index = le(UInt64(0)) + le(UInt64(6))
    var offset = UInt64(64)
    for block in all[..<6] {
        index += le(offset) + le(block.header.firstExit) + le(block.header.exitCount)
        index += [block.header.type.rawValue, 0, 0, 0]
        offset += block.header.span
    }
    #expect(all[6].payload == index)
    // The end: exits, events, place of the index, blocks before this one, reserved.
    #expect(
        all[7].payload
            == le(UInt64(2)) + le(UInt64(5)) + le(offset) + le(UInt64(7))
            + Array(repeating: 0, count: 32))
    #expect(all[7].header.compression == .none)
    #expect(bytes.count == Int(offset + all[6].header.span) + 128 + 64)
}

@Test func theDigestsAreWhatTheFormatSays() throws {
    let bytes = try Golden.record(TemporaryDirectory())
    let found = try #require(try blocks(bytes).first { $0.header.type == .events })
    func chain(_ digest: Digest128, _ event: [UInt8]) -> Digest128 {
        Digest128(of: le(digest.low) + le(digest.high) + event)
    }
    var encoder = RowEncoder(vCPUCount: 1)
    var full = Digest128.zero
    let memory = MemoryDigest.Page(number: 1, hash: 0x55).term
    for sample in Golden.samples + [.end(Golden.end, memory)] {
        full = chain(full, sample.encode(&encoder))
    }
    #expect(found.header.digests.full == full)
    let out: [UInt8] =
        [0x02, 0x00]  // exit, vCPU 0
        + le(UInt32(2))  // reason io
        + [0xF8, 0x03, 0x01] + le(UInt32(1))  // port, size, count
        + [0x41]
    let end: [UInt8] = [0x07, 0x00, 0x01, 0x00] + le(UInt32(0))  // end, vCPU 0, halted, no status
    #expect(found.header.digests.output == chain(chain(.zero, out), end))
    #expect(found.header.digests.input == chain(.zero, [0x03, 0x01, 0x01, 0x00, 0x60]))
    // Known answers of XXH3 itself, from the xxHash project's own tool: xxh128sum of nothing.
    #expect(Digest128(of: []).description == "99aa06d3014798d86001c324468d497f")
}

@Test func sideFileByteByByte() throws {
    let scratch = try TemporaryDirectory()
    var options = TraceOptions(timing: TimeBase(ticksPerSecond: 7, origin: 5))
    options.ringSlots = 2
    var writer = try TraceWriter(
        path: scratch.file("t"), header: Golden.header, options: options)
    for sample in Golden.samples.prefix(2) { try sample.write(&writer) }
    let bytes = try #require(Files.read(scratch.file("t.partial-tail")))
    let identity = try TraceReader(path: scratch.file("t")).identity
    let stride = UInt64(SideSlot.stride(vCPUCount: 1))
    #expect(stride == 462_848)
    let header: [UInt8] =
        [0x89, 0x56, 0x4D, 0x54, 0x41, 0x49, 0x4C, 0x0A]  // 0 magic: 89 "VMTAIL" 0A
        + le(UInt32(1))  // 8 version
        + le(UInt32(2))  // 12 slots
        + le(stride)  // 16 bytes from slot to slot
        + le(UInt32(1))  // 24 vCPUs
        + le(UInt32(1))  // 28 flags: timing
        + le(UInt64(7))  // 32 ticks per second
        + le(UInt64(5))  // 40 ticks at the start
        + le(identity)  // 48
        + le(UInt32(4))  // 56 sequence number of the first block of events
        + le(UInt32(0))  // 60 reserved
    #expect(Array(bytes[..<64]) == header)
    #expect(bytes.count == 4096 + 2 * Int(stride))
    let slot = Array(bytes[4096...])
    // 0 committed, 8 ordinal, 16 first exit, 24 return before it; 64 registers; 576 frames.
    let startFrame = 8 + 457
    let exitFrame = 8 + 16 + 33
    #expect(Array(slot[..<8]) == le(UInt64(startFrame + exitFrame)))
    #expect(Array(slot[8..<32]) == le(UInt64(1)) + le(UInt64(0)) + le(UInt64(5)))
    #expect(Array(slot[64..<520]) == Array(repeating: 0, count: 456))
    #expect(Array(slot[576..<580]) == le(UInt32(457)))
    let second = 576 + startFrame
    #expect(Array(slot[second..<second + 4]) == le(UInt32(33) | 1 << 31))
    #expect(Array(slot[second + 8..<second + 24]) == le(UInt64(0)) + le(UInt64(0)))
    let row = Array(slot[second + 24..<second + 24 + 33])
    #expect(row.first == 0x02 && row.last == 0x41)
    // The check of a frame: XXH3-64 of stamps and row, seeded by slot, place and length.
    let seed = UInt64(1) << 24 ^ UInt64(startFrame) ^ UInt64(UInt32(33) | 1 << 31) << 32
    let check = unsafe slot[(second + 8)..<(second + 57)].withUnsafeBytes {
        unsafe hash64($0, seed: seed)
    }
    #expect(Array(slot[second + 4..<second + 8]) == le(UInt32(truncatingIfNeeded: check)))
}

/// The golden file reads as it always did, and today's writer writes it, compression apart (other
/// versions of LZ4 may compress otherwise). `VMTAPE_UPDATE_GOLDEN=1` writes it anew.
@Test func theGoldenFileHolds() throws {
    let path = goldenDirectory() + "/format-1.vmtape"
    let bytes = try Golden.record(TemporaryDirectory())
    if unsafe getenv("VMTAPE_UPDATE_GOLDEN") != nil { try Files.write(path, bytes) }
    let golden = try #require(Files.read(path), "run with VMTAPE_UPDATE_GOLDEN=1 to make it")
    #expect(try readSamples(TraceReader(bytes: golden)) == readSamples(TraceReader(bytes: bytes)))
    #expect(try TraceReader(bytes: golden).verify().isSound)
    #expect(golden[..<64] == bytes[..<64])
    let (old, new) = (try blocks(golden), try blocks(bytes))
    #expect(old.count == new.count)
    for (a, b) in zip(old, new) where a.header.type != .index && a.header.type != .end {
        #expect(a.payload == b.payload, "the payload of the \(a.header.type.name) block")
        #expect(a.header.digests == b.header.digests)
        #expect(a.header.firstExit == b.header.firstExit)
        #expect(a.header.exitCount == b.header.exitCount)
        #expect(a.header.eventCount == b.header.eventCount)
    }
}

private func goldenDirectory(_ file: String = #filePath) -> String {
    let parts = file.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
    return parts.joined(separator: "/") + "/traces/golden"
}
