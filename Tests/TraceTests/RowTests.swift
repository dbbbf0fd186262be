import Machine
import TestSupport
import Testing

@testable import Trace

/// Little-endian bytes of a number.
func le<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
    (0..<MemoryLayout<T>.size).map { UInt8(truncatingIfNeeded: value >> T($0 * 8)) }
}

/// The rows of FORMAT.md's examples, byte by byte.
struct RowLayoutTests {
    let zero = (GeneralRegisters(), SystemRegisters())

    func exit(
        _ detail: ExitDetail<[UInt8]>, rip: UInt64 = 0, flags: ExitFlags = [], rewind: UInt8 = 0,
        vCPU: UInt8 = 0, cr3: UInt64 = 0
    ) -> [UInt8] {
        var encoder = RowEncoder(vCPUCount: 3)
        var (registers, system) = zero
        registers.rip = rip
        system[.cr3] = cr3
        return Sample.exit(
            detail, flags, rewind, registers, system, vCPU, entered: 0, returned: 0
        ).encode(&encoder)
    }

    @Test func portWrite() {
        let row = exit(
            .io(isWrite: true, size: 1, port: 0x3F8, count: 1, data: [0x41]), rip: 0x1002,
            rewind: 1)
        let expected: [UInt8] =
            [0x02]  // kind: exit, vCPU 0
            + [0x02]  // reason: KVM_EXIT_IO
            + [0x00]  // flags
            + [0x01]  // rewind: RIP is after a one-byte OUT
            + [0x00, 0x00, 0x01, 0x00]  // changed registers: bit 16, RIP
            + le(UInt64(0x1002))  // RIP
            + [0x01, 0x01]  // direction: out; size 1
            + [0xF8, 0x03]  // port
            + [0x01, 0x00, 0x00, 0x00]  // count
            + [0x41]  // data
        #expect(row == expected)
    }

    @Test func portReadOfAnotherVCPU() {
        let row = exit(
            .io(isWrite: false, size: 4, port: 0xCFC, count: 1, data: []), vCPU: 2, cr3: 0x5000)
        let expected: [UInt8] =
            [0x82, 0x02]  // kind: exit, a vCPU follows: 2
            + [0x02, 0x01, 0x00]  // reason io, flags: system registers follow, rewind 0
            + [0, 0, 0, 0]  // no changed register
            + le(UInt64(1) << 30)  // changed system words: 30, CR3
            + le(UInt64(0x5000))
            + [0x00, 0x04, 0xFC, 0x0C, 0x01, 0x00, 0x00, 0x00]  // in, size 4, port, count
        #expect(row == expected)
    }

    @Test func everyOtherDetail() {
        let head: [UInt8] = [0x00, 0x00, 0, 0, 0, 0]  // flags, rewind, no changed register
        #expect(
            exit(.mmio(address: .init(0xFED4_0000), length: 2, isWrite: true, value: 0xBEEF))
                == [0x02, 6] + head + [2, 1] + le(UInt64(0xFED4_0000)) + [0xEF, 0xBE])
        #expect(
            exit(.mmio(address: .init(0xFED4_0000), length: 4, isWrite: false, value: 0))
                == [0x02, 6] + head + [4, 0] + le(UInt64(0xFED4_0000)))
        #expect(
            exit(.rdmsr(index: 0x10, why: 2))
                == [0x02, 29] + head + le(UInt32(0x10)) + le(UInt32(2)))
        #expect(
            exit(.wrmsr(index: 0x10, why: 2, value: 7))
                == [0x02, 30] + head + le(UInt32(0x10)) + le(UInt32(2)) + le(UInt64(7)))
        let words = Array(UInt8(0)..<48)
        #expect(
            exit(.hypercall(number: 5, isLongMode: true, arguments: words))
                == [0x02, 3] + head + [1] + le(UInt64(5)) + words)
        #expect(
            exit(.internalError(suberror: 1, data: Array(words[..<16])))
                == [0x02, 17] + head + le(UInt32(1)) + [2] + words[..<16])
        #expect(
            exit(.failEntry(hardwareReason: 9, cpu: 1))
                == [0x02, 9] + head + le(UInt64(9)) + le(UInt32(1)))
        #expect(
            exit(.systemEvent(type: 2, data: [])) == [0x02, 24] + head + le(UInt32(2)) + [0])
        #expect(
            exit(.exception(vector: 6, errorCode: 3))
                == [0x02, 1] + head + le(UInt32(6)) + le(UInt32(3)))
        #expect(
            exit(.debug(exception: 1, pc: 2, dr6: 3, dr7: 4))
                == [0x02, 4] + head + le(UInt32(1)) + le(UInt64(2)) + le(UInt64(3))
                + le(UInt64(4)))
        #expect(exit(.other(.hlt, data: [])) == [0x02, 5] + head + [0, 0])
        #expect(
            exit(.other(ExitReason(rawValue: 300), data: [9]))
                == [0x02, 255] + le(UInt32(300)) + head + [1, 0, 9])
        #expect(
            exit(
                .io(isWrite: true, size: 1, port: 0x5A, count: 1, data: [0]),
                flags: .rewrittenInstruction)
                == [0x02, 2, 0x02, 0, 0, 0, 0, 0, 1, 1, 0x5A, 0, 1, 0, 0, 0, 0])
    }

    @Test func answersAndWhatFollows() {
        var encoder = RowEncoder(vCPUCount: 1)
        #expect(Sample.answer(.io, [0x60], 0).encode(&encoder) == [0x03, 0x01, 0x01, 0x00, 0x60])
        #expect(
            Sample.deviceWrite(.init(0x7000), [1, 2], 0).encode(&encoder)
                == [0x06] + le(UInt64(0x7000)) + le(UInt32(2)) + [1, 2])
        #expect(
            Sample.completion(
                [
                    .register(.rcx, 1), .systemWord(28, 2),
                    .event(.exception, vector: 14, errorCode: 0x15), .msr(index: 3, 4),
                    .extendedState(offset: 160, [7]), .memory(.init(5), [6]),
                    .debugWord(5, 8), .extendedControl(index: 0, 9), .noMemory,
                ], 0
            ).encode(&encoder)
                == [0x04, 9, 0] + [1, 2] + le(UInt64(1)) + [2, 28] + le(UInt64(2))
                + [3, 3, 14, 1] + le(UInt32(0x15)) + [4] + le(UInt32(3)) + le(UInt64(4))
                + [5] + le(UInt32(160)) + le(UInt32(1)) + [7]
                + [6] + le(UInt64(5)) + le(UInt32(1)) + [6]
                + [7, 5] + le(UInt64(8)) + [8] + le(UInt32(0)) + le(UInt64(9)) + [9])
    }

    @Test func aStoredPlace() throws {
        var encoder = RowEncoder(vCPUCount: 1)
        var landmark = Landmark(
            registers: GeneralRegisters(), state: Digest128(low: 1, high: 2))
        landmark.stored = StoredPlace(rowCount: 0x102, taskPriorityClass: 9)
        let row = Sample.interruption(
            Interruption(.external, vector: 14, landmark: landmark), 0
        ).encode(&encoder)
        let head: [UInt8] = [0x05, 0, 14, 0x22] + le(UInt32(0)) + le(UInt64(1)) + le(UInt64(2))
        #expect(row == head + le(UInt16(0x102)) + [9])
        // In no completion; with a priority that CR8 does not have; without a landmark.
        for bytes in [
            head + [0, 0, 9], head + [1, 0, 16], [0x05, 0, 14, 0x20, 1, 0, 0] as [UInt8],
        ] {
            // SAFETY: the array outlives the call.
            let view = unsafe bytes.withUnsafeBytes { unsafe try? RowView($0) }
            #expect(view == nil, "\(bytes)")
        }
    }

    @Test func changesThatCompletionsHaveRoomFor() {
        let pages = (0..<40).map {
            Change.memory(.init(UInt64($0) * 4096), Array(repeating: 7, count: 4096))
        }
        let lists = Change.split([.noMemory] + pages + [.register(.rax, 1)])
        #expect(Array(lists.joined()) == [.noMemory] + pages + [.register(.rax, 1)])
        #expect(lists.count == 3)
        var encoder = RowEncoder(vCPUCount: 1)
        for list in lists {
            #expect(Sample.completion(list, 0).encode(&encoder).count <= Limits.completionBytes)
        }
        #expect(Change.split([]).isEmpty)
    }

    @Test func interruptions() {
        var encoder = RowEncoder(vCPUCount: 1)
        #expect(
            Sample.interruption(Interruption(.external, vector: 0x30), 0).encode(&encoder)
                == [0x05, 0, 0x30, 0])
        var registers = GeneralRegisters()
        registers.rip = 8
        let landmark = Landmark(
            registers: registers, state: Digest128(low: 1, high: 2), progress: 3,
            instructions: 4)
        let row = Sample.interruption(
            Interruption(.exception, vector: 14, errorCode: 5, landmark: landmark), 0
        ).encode(&encoder)
        let expected: [UInt8] =
            [0x05, 3, 14]  // kind, exception, vector
            + [0x0F]  // error code, landmark, progress, instructions follow
            + le(UInt32(5))
            + le(UInt32(1) << 16) + le(UInt64(8))  // registers unlike the snapshot: RIP
            + le(UInt64(1)) + le(UInt64(2))  // state digest
            + le(UInt64(3)) + le(UInt64(4))
        #expect(row == expected)
    }

    @Test func landmarksWithParts() throws {
        var encoder = RowEncoder(vCPUCount: 1)
        let pages = [
            MemoryDigest.Page(number: 7, hash: 8), MemoryDigest.Page(number: 9, hash: 0),
        ]
        let cases: [([MemoryDigest.Page]?, UInt16)] = [(pages, 2), ([], 0), (nil, .max)]
        for (listed, count) in cases {
            let landmark = Landmark(
                registers: GeneralRegisters(), state: Digest128(low: 1, high: 2),
                parts: LandmarkParts(processor: 5, memory: 6, pages: listed))
            let row = Sample.interruption(
                Interruption(.external, vector: 14, landmark: landmark), 0
            ).encode(&encoder)
            let told = (listed ?? []).flatMap { le($0.number) + le($0.hash) }
            var expected: [UInt8] = [0x05, 0, 14, 0x12]
            expected += le(UInt32(0)) + le(UInt64(1)) + le(UInt64(2))
            expected += le(UInt64(5)) + le(UInt64(6)) + le(count) + told
            #expect(row == expected)
        }
        // Of more than the limit the first are told.
        let many = (0..<100).map { MemoryDigest.Page(number: $0, hash: 1) }
        let parts = LandmarkParts(processor: 0, memory: 0, pages: many)
        #expect(parts.pages?.count == LandmarkParts.pageLimit)
    }

    @Test func startAndEnd() {
        var encoder = RowEncoder(vCPUCount: 1)
        var (registers, system) = zero
        registers[.rax] = 0x11
        system[.cr0] = 0x22
        let state =
            le(UInt64(0x11)) + Array(repeating: 0, count: 17 * 8)
            + Array(repeating: 0, count: 28 * 8) + le(UInt64(0x22))
            + Array(repeating: 0, count: 10 * 8)
        #expect(Sample.start(registers, system, 0).encode(&encoder) == [0x01] + state)
        let end = EndRecord(
            reason: .debugExit, guestStatus: -2, isInMidFlight: true, registers: registers,
            system: system)
        #expect(
            Sample.end(end, Digest128(low: 3, high: 4)).encode(&encoder)
                == [0x07, 4, 0x07] + le(Int32(-2)) + state + le(UInt64(3)) + le(UInt64(4)))
    }

    @Test func snapshotsAreWhatChangesAreAgainst() {
        var encoder = RowEncoder(vCPUCount: 1)
        var (registers, system) = zero
        registers[.rbx] = 5
        let first = Sample.exit(
            .other(.hlt, data: []), [], 0, registers, system, 0, entered: 0, returned: 0)
        #expect(first.encode(&encoder).count == 1 + 7 + 8 + 2)
        #expect(first.encode(&encoder).count == 1 + 7 + 2)
        system[.cr2] = 1
        encoder.setSnapshot(registers: registers, system: system)
        #expect(encoder.snapshot().system == system)
        #expect(first.encode(&encoder).count == 1 + 7 + 16 + 2)
    }
}

@Test func randomRowsNeverTrap() {
    var random = SeededGenerator(seed: 11)
    var accepted = 0
    for round in 0..<60_000 {
        var row = random.bytes(2 + random.below(round % 5 == 0 ? 700 : 60))
        row[0] = UInt8(1 + random.below(7))
        if round % 7 == 0 { row[0] |= 0x80 }
        // Small counts, so that some get past the first checks.
        for index in row.indices.dropFirst() where random.chance(70) {
            row[index] = UInt8(random.below(3))
        }
        var reader = RowReader(vCPUCount: 2)
        // SAFETY: the array outlives the call.
        let event = unsafe row.withUnsafeBytes { try? unsafe reader.read($0, offset: 0) }
        if event != nil { accepted += 1 }
    }
    #expect(accepted > 30)
}

@Test func cutRowsAreRefused() {
    var maker = SampleMaker(seed: 5)
    var encoder = RowEncoder(vCPUCount: 1)
    for sample in maker.run(exits: 60) {
        let row = sample.encode(&encoder)
        for length in 0..<min(row.count, 600) {
            // SAFETY: the array outlives the call.
            unsafe row[..<length].withUnsafeBytes { bytes in
                let view = unsafe try? RowView(bytes)
                #expect(view == nil)
            }
        }
    }
}

@Test(arguments: [UInt64](20...27))
func columnsGiveTheRowsBack(seed: UInt64) throws {
    let vCPUs = seed % 2 == 0 ? 1 : 4
    var maker = SampleMaker(seed: seed, vCPUs: vCPUs)
    var encoder = RowEncoder(vCPUCount: vCPUs)
    var columns = ColumnEncoder(
        vCPUCount: vCPUs, timing: TimeBase(ticksPerSecond: 1_000_000_000, origin: 0))
    var decoder = ColumnDecoder()
    var payload = ByteBuffer()
    var output = RowBuffer()
    // Three blocks, so that registers carry over and sites do not.
    var samples = maker.starts()
    for _ in 0..<3 {
        for _ in 0..<150 {
            samples.append(maker.exit())
            if maker.random.chance(50) { samples.append(maker.follower()) }
        }
        var header = BlockHeader(type: .events, sequence: 0)
        var rows: [[UInt8]] = []
        var times: [(UInt64, UInt64)] = []
        var previous: UInt64 = 0
        for sample in samples {
            let row = sample.encode(&encoder)
            rows.append(row)
            header.eventCount += 1
            var stamps: Stamps?
            if case .exit(_, _, _, _, _, _, let entered, let returned) = sample {
                header.exitCount += 1
                stamps = Stamps(
                    entered: entered, returned: returned, previousReturned: previous)
                times.append((returned - entered, entered - previous))
                previous = returned
            }
            // SAFETY: the array outlives the call.
            try unsafe row.withUnsafeBytes {
                unsafe columns.add($0, try RowView($0), stamps)
            }
        }
        columns.finishBlock(into: &payload)
        try unsafe decoder.decode(
            payload.bytes, header: header, vCPUCount: vCPUs, into: &output)
        #expect(output.ends.count == rows.count)
        for (index, row) in rows.enumerated() {
            #expect(unsafe Array(output.row(index)) == row, "row \(index)")
        }
        #expect(output.times.count == times.count)
        samples = []
    }
}

@Test func sumsOfTimesDoNotDrift() {
    var random = SeededGenerator(seed: 3)
    var quantiser = TimeQuantiser()
    var column = ByteBuffer()
    var long = ByteBuffer()
    var sum: UInt64 = 0
    for _ in 0..<10_000 {
        let time = random.next() >> (24 + UInt64(random.below(40)))
        sum += time
        quantiser.add(time, .guest, to: &column, long: &long)
    }
    var read: UInt64 = 0
    // SAFETY: the readers live as long as the buffers.
    var longReader = unsafe ByteReader(long.bytes, "times")
    for code in column.array() {
        read +=
            code == TimeQuantiser.escape
            ? (try? longReader.varint()) ?? 0 : TimeQuantiser.nanoseconds(code)
    }
    let error = read > sum ? read - sum : sum - read
    // One step of the largest code that is no escape.
    #expect(error <= 1 << 31)
    #expect(sum > 1 << 44)
}

@Test func aTimeIsAtMostSixPercentOff() {
    for exponent in 0..<34 {
        for extra in 0..<16 {
            let time = (UInt64(16 + extra) << UInt64(exponent)) / 16
            let code = TimeQuantiser.code(time)
            if code == TimeQuantiser.escape {
                #expect(time >= 28_000_000_000)
                continue
            }
            let read = TimeQuantiser.nanoseconds(code)
            let error = read > time ? read - time : time - read
            #expect(error <= max(1, time / 16), "\(time) read as \(read)")
        }
    }
    for code in UInt8(0)..<255 {
        #expect(TimeQuantiser.code(TimeQuantiser.nanoseconds(code)) == code || code == 254)
    }
}
