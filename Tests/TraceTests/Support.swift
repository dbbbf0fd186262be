import Machine
import TestSupport

@testable import Trace

extension SeededGenerator {
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
    mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) }
    }
    /// Mostly small, sometimes anything.
    mutating func word() -> UInt64 {
        switch below(4) {
        case 0: UInt64(below(16))
        case 1: UInt64(below(65536))
        case 2: next() >> 32
        default: next()
        }
    }
}

/// An event with bytes of its own, to be given to encoder or writer, and compared when read.
enum Sample: Equatable {
    case start(GeneralRegisters, SystemRegisters, UInt8)
    case exit(
        ExitDetail<[UInt8]>, ExitFlags, UInt8, GeneralRegisters, SystemRegisters, UInt8,
        entered: UInt64, returned: UInt64)
    case answer(AnswerForm, [UInt8], UInt8)
    case completion([Change], UInt8)
    case interruption(Interruption, UInt8)
    case deviceWrite(GuestPhysicalAddress, [UInt8], UInt8)
    case end(EndRecord, Digest128?)
}

extension ExitDetail {
    func map<Other>(_ transform: (Bytes) -> Other) -> ExitDetail<Other> {
        switch self {
        case .io(let isWrite, let size, let port, let count, let data):
            .io(isWrite: isWrite, size: size, port: port, count: count, data: transform(data))
        case .mmio(let address, let length, let isWrite, let value):
            .mmio(address: address, length: length, isWrite: isWrite, value: value)
        case .rdmsr(let index, let why): .rdmsr(index: index, why: why)
        case .wrmsr(let index, let why, let value):
            .wrmsr(index: index, why: why, value: value)
        case .hypercall(let number, let isLongMode, let arguments):
            .hypercall(
                number: number, isLongMode: isLongMode, arguments: transform(arguments))
        case .internalError(let suberror, let data):
            .internalError(suberror: suberror, data: transform(data))
        case .failEntry(let reason, let cpu): .failEntry(hardwareReason: reason, cpu: cpu)
        case .systemEvent(let type, let data): .systemEvent(type: type, data: transform(data))
        case .exception(let vector, let code): .exception(vector: vector, errorCode: code)
        case .debug(let exception, let pc, let dr6, let dr7):
            .debug(exception: exception, pc: pc, dr6: dr6, dr7: dr7)
        case .other(let reason, let data): .other(reason, data: transform(data))
        }
    }

    var bytes: Bytes? {
        switch self {
        case .io(_, _, _, _, let data), .hypercall(_, _, let data), .internalError(_, let data),
            .systemEvent(_, let data), .other(_, let data):
            data
        default: nil
        }
    }
}

/// Runs `body` with the detail's bytes at an address.
func withPointers<Result>(
    _ detail: ExitDetail<[UInt8]>, _ body: (ExitDetail<UnsafeRawBufferPointer>) -> Result
) -> Result {
    // SAFETY: the array outlives the call.
    unsafe (detail.bytes ?? []).withUnsafeBytes { bytes in
        let detail = unsafe detail.map { _ in unsafe bytes }
        return unsafe body(detail)
    }
}

extension Sample {
    /// Encodes the event as a row.
    func encode(_ encoder: inout RowEncoder) -> [UInt8] {
        // SAFETY: the buffer has room for a row; pointers are to locals that outlive the calls.
        let buffer = UnsafeMutableRawPointer.allocate(
            byteCount: RowEncoder.maximumRowBytes, alignment: 16)
        defer { unsafe buffer.deallocate() }
        var length = 0
        switch self {
        case .start(let registers, let system, let vCPU):
            length = unsafe encoder.start(
                registers: registers, system: system, vCPU: vCPU, into: buffer)
        case .exit(let detail, let flags, let rewind, var registers, var system, let vCPU, _, _):
            length = unsafe withPointers(detail) { detail in
                unsafe encoder.exit(
                    detail, flags: flags, rewind: rewind, registers: &registers,
                    system: &system, vCPU: vCPU, into: buffer)
            }
        case .answer(let form, let data, let vCPU):
            length = unsafe data.withUnsafeBytes {
                unsafe encoder.answer(form, $0, vCPU: vCPU, into: buffer)
            }
        case .completion(let changes, let vCPU):
            length = unsafe encoder.completion(changes, vCPU: vCPU, into: buffer)
        case .interruption(let interruption, let vCPU):
            length = unsafe encoder.interruption(interruption, vCPU: vCPU, into: buffer)
        case .deviceWrite(let address, let data, let vCPU):
            length = unsafe data.withUnsafeBytes {
                unsafe encoder.deviceWrite(address: address, $0, vCPU: vCPU, into: buffer)
            }
        case .end(let end, let memory):
            length = unsafe encoder.end(end, memory: memory, into: buffer)
        }
        return unsafe Array(UnsafeRawBufferPointer(start: buffer, count: length))
    }

    /// Gives the event to a writer; not for ends.
    func write(_ writer: inout TraceWriter) throws(TraceError) {
        var result: Result<Void, TraceError> = .success(())
        func attempt(_ body: () throws(TraceError) -> Void) {
            do throws(TraceError) { try body() } catch { result = .failure(error) }
        }
        // SAFETY: pointers are to locals and arrays that outlive the calls.
        switch self {
        case .start(let registers, let system, let vCPU):
            try writer.start(registers: registers, system: system, vCPU: vCPU)
        case .exit(
            let detail, let flags, let rewind, var registers, var system, let vCPU,
            let entered, let returned):
            unsafe withPointers(detail) { detail in
                attempt { () throws(TraceError) in
                    try unsafe writer.exit(
                        detail, flags: flags, rewind: rewind, registers: &registers,
                        system: &system, vCPU: vCPU, entered: entered, returned: returned)
                }
            }
        case .answer(let form, let data, let vCPU):
            unsafe data.withUnsafeBytes { bytes in
                attempt { () throws(TraceError) in
                    try unsafe writer.answer(form, bytes, vCPU: vCPU)
                }
            }
        case .completion(let changes, let vCPU): try writer.completion(changes, vCPU: vCPU)
        case .interruption(let interruption, let vCPU):
            try writer.interruption(interruption, vCPU: vCPU)
        case .deviceWrite(let address, let data, let vCPU):
            unsafe data.withUnsafeBytes { bytes in
                attempt { () throws(TraceError) in
                    try unsafe writer.deviceWrite(address: address, bytes, vCPU: vCPU)
                }
            }
        case .end: break
        }
        try result.get()
    }
}

/// Makes runs of random events that a recorder could have seen.
struct SampleMaker {
    var random: SeededGenerator
    var registers: [GeneralRegisters]
    var system: [SystemRegisters]
    var now: UInt64 = 1_000

    init(seed: UInt64, vCPUs: Int = 1) {
        random = SeededGenerator(seed: seed)
        registers = Array(repeating: GeneralRegisters(), count: vCPUs)
        system = Array(repeating: SystemRegisters(), count: vCPUs)
        for vCPU in 0..<vCPUs {
            for index in 0..<18 { registers[vCPU].words[index] = random.word() }
            for index in 0..<39 { system[vCPU].words[index] = random.word() }
        }
    }

    mutating func starts() -> [Sample] {
        registers.indices.map { .start(registers[$0], system[$0], UInt8($0)) }
    }

    mutating func detail() -> ExitDetail<[UInt8]> {
        switch random.below(40) {
        case 0: return .rdmsr(index: UInt32(random.below(4)), why: 1)
        case 1: return .wrmsr(index: UInt32(random.below(4)), why: 2, value: random.word())
        case 2:
            return .hypercall(
                number: random.word(), isLongMode: random.chance(50), arguments: random.bytes(48))
        case 3:
            return .internalError(suberror: 1, data: random.bytes(8 * random.below(17)))
        case 4: return .failEntry(hardwareReason: random.word(), cpu: 3)
        case 5: return .systemEvent(type: 2, data: random.bytes(8 * random.below(17)))
        case 6: return .exception(vector: 6, errorCode: UInt32(random.below(9)))
        case 7: return .debug(exception: 1, pc: random.word(), dr6: 1, dr7: 2)
        case 8: return .other(.hlt, data: [])
        case 9: return .other(ExitReason(rawValue: 255), data: random.bytes(random.below(257)))
        case 10: return .other(ExitReason(rawValue: 70_000), data: random.bytes(3))
        case 11:
            let count = random.below(4097)
            return .io(
                isWrite: true, size: 1, port: 0xE9, count: UInt32(count),
                data: random.bytes(count))
        case 12..<20:
            let length = UInt8(1 + random.below(8))
            let isWrite = random.chance(50)
            let mask = length == 8 ? UInt64.max : (1 << (UInt64(length) * 8)) - 1
            return .mmio(
                address: GuestPhysicalAddress(0xFED4_0000 + UInt64(random.below(64))),
                length: length, isWrite: isWrite, value: isWrite ? random.next() & mask : 0)
        case 20..<30:
            let size = UInt8(1 << random.below(3))
            return .io(
                isWrite: true, size: size, port: UInt16(0x3F8 + random.below(8)), count: 1,
                data: random.bytes(Int(size)))
        default:
            return .io(
                isWrite: false, size: 1, port: UInt16(0x3F8 + random.below(8)),
                count: UInt32(1 + random.below(2)), data: [])
        }
    }

    mutating func exit() -> Sample {
        let vCPU = random.below(registers.count)
        for _ in 0..<random.below(4) {
            registers[vCPU].words[random.below(16)] = random.word()
        }
        if random.chance(80) { registers[vCPU].rip = 0x1000 + UInt64(random.below(24)) * 5 }
        if random.chance(5) { registers[vCPU].rip = random.next() }
        if random.chance(10) {
            for _ in 0..<(1 + random.below(5)) {
                system[vCPU].words[random.below(39)] = random.word()
            }
        }
        let entered = now + UInt64(random.below(5_000))
        now = entered + UInt64(random.chance(1) ? 90_000_000_000 : random.below(30_000))
        return .exit(
            detail(), random.chance(5) ? .rewrittenInstruction : [], UInt8(random.below(16)),
            registers[vCPU], system[vCPU], UInt8(vCPU), entered: entered, returned: now)
    }

    mutating func follower() -> Sample {
        let vCPU = UInt8(random.below(registers.count))
        switch random.below(12) {
        case 0:
            return .completion(
                [
                    .register(.rax, random.word()), .systemWord(30, random.word()),
                    .event(.exception, vector: 3, errorCode: random.chance(50) ? 4 : nil),
                    .msr(index: 0x10, random.word()),
                    .extendedState(offset: 160, random.bytes(random.below(40))),
                    .memory(.init(random.word()), random.bytes(random.below(300))),
                    .debugWord(5, now), .extendedControl(index: 0, 7), .noMemory,
                ], vCPU)
        case 1:
            var at = registers[Int(vCPU)]
            at.rip = random.word()
            at.words[random.below(16)] = random.word()
            var interruption = Interruption(
                .external, vector: 0x30, errorCode: random.chance(20) ? 5 : nil,
                landmark: random.chance(30)
                    ? nil
                    : Landmark(
                        registers: at,
                        state: .init(low: random.next(), high: random.next()),
                        progress: random.chance(50) ? random.word() : nil,
                        instructions: random.chance(50) ? random.word() : nil))
            if let low = interruption.landmark?.state.low, low % 5 == 0 {
                interruption.landmark?.stored = StoredPlace(
                    rowCount: UInt16(1 + low % 3), taskPriorityClass: 2)
            }
            return .interruption(interruption, vCPU)
        case 2:
            return .deviceWrite(
                .init(random.word()), random.bytes(random.below(600)), vCPU)
        case 3: return .answer(.cpuid, random.bytes(16), vCPU)
        case 4: return .answer(.msr, random.bytes(9), vCPU)
        case 5: return .answer(.io, random.bytes(random.below(4097)), vCPU)
        default: return .answer(.io, random.bytes(1), vCPU)
        }
    }

    mutating func end() -> EndRecord {
        EndRecord(
            reason: .debugExit, guestStatus: 33, registers: registers[0], system: system[0])
    }

    /// A run of so many exits, without its end.
    mutating func run(exits: Int) -> [Sample] {
        var result = starts()
        for _ in 0..<exits {
            result.append(exit())
            while random.chance(40) { result.append(follower()) }
        }
        return result
    }
}

func sampleHeader(vCPUs: Int = 1, image: [UInt8] = [0x90, 0xF4]) -> TraceHeader {
    TraceHeader(
        machine: MachineDescription(
            ramBytes: 1 << 20, vCPUCount: vCPUs,
            devices: [DeviceDescription(name: "uart16550", base: "port 0x3f8..0x3ff")],
            properties: [Property("clock", "host")]),
        requestedCPUID: [CPUIDEntry(function: 1, eax: 2, ebx: 3, ecx: 4, edx: 5)],
        observedCPUID: [
            CPUIDEntry(
                function: 7, index: 1, isIndexSignificant: true, eax: 2, ebx: 3, ecx: 4, edx: 5)
        ],
        hostFacts: HostFacts([HostFact("kernel", "6.18", .behaviour)]),
        images: [
            ImageRecord(
                name: "a.bin", kind: "flat16", bytes: image,
                properties: [Property("entry", "0x1000")])
        ],
        commandLine: "console=ttyS0",
        rewrittenSites: [
            RewrittenSite(
                address: .init(0x1234), linearAddress: .init(0xFFFF_FFFF_8000_1234),
                original: [0x0F, 0x31], replacement: [0xE6, 0x5A])
        ],
        observed: ObservedFacts(
            creationNanoseconds: 5, command: ["vmtape", "record"], hostName: "h",
            properties: [Property("x", "y")]))
}

/// Records samples into a file and completes it.
@discardableResult
func record(
    _ samples: [Sample], end: EndRecord, to path: String, header: TraceHeader = sampleHeader(),
    options: TraceOptions = TraceOptions(), memory: MemoryDigest? = nil
) throws -> TraceSummary {
    var writer = try TraceWriter(path: path, header: header, options: options)
    for sample in samples { try sample.write(&writer) }
    return try writer.finish(end, memory: memory)
}
