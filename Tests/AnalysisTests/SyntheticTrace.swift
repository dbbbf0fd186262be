import Glibc
import Machine
import Testing
import Trace

@testable import Analysis

/// Writes a trace event by event, with registers and times that follow from its own counting.
struct SyntheticTrace: ~Copyable {
    let path: String
    private var writer: TraceWriter
    var registers: GeneralRegisters
    var system = SyntheticTrace.longMode
    /// Nanoseconds since the start.
    private var now: UInt64 = 1000

    /// Flat long mode, ring 0.
    static var longMode: SystemRegisters {
        var system = SystemRegisters()
        system[.cs] = Segment(
            limit: 0xFFFF_FFFF, selector: 8, type: 11, dpl: 0, db: false, l: true, g: true)
        system[.ss] = Segment(limit: 0xFFFF_FFFF, selector: 16, type: 3, dpl: 0, db: true, g: true)
        system[.cr0] = 0x8000_0011
        system[.cr3] = 0x1000
        system[.cr4] = 0x20
        system[.efer] = 0x500
        return system
    }

    static var machine: MachineDescription {
        MachineDescription(
            ramBytes: 64 << 20,
            devices: [
                DeviceDescription(name: "16550a", base: "port 0x3f8", interrupt: "4"),
                DeviceDescription(name: "debug-console", base: "port 0xe9"),
                DeviceDescription(name: "isa-debug-exit", base: "port 0xf4"),
            ])
    }

    init(
        _ path: String, header: TraceHeader = TraceHeader(machine: SyntheticTrace.machine),
        timing: Bool = true, rip: UInt64 = 0x10_0000
    ) throws {
        var writer = try TraceWriter(
            path: path, header: header,
            options: TraceOptions(
                timing: timing ? TimeBase(ticksPerSecond: 1_000_000_000, origin: 0) : nil,
                overwrites: true))
        var registers = GeneralRegisters()
        registers[.rsp] = 0x8_0000
        registers[.rflags] = 0x2
        registers[.rip] = rip
        try writer.start(registers: registers, system: Self.longMode, vCPU: 0)
        self.path = path
        self.registers = registers
        self.writer = writer
    }

    mutating func exit(
        at address: UInt64, _ detail: ExitDetail<UnsafeRawBufferPointer>, rewind: UInt8 = 0,
        flags: ExitFlags = [], took: UInt64 = 8000
    ) throws {
        registers[.rip] = address &+ UInt64(rewind)
        let entered = now
        now += took
        // SAFETY: the pointers are to local copies that outlive the call.
        let (registers, system) = (registers, system)
        let returned = now
        try unsafe withUnsafePointer(to: registers) { registers throws(TraceError) in
            try unsafe withUnsafePointer(to: system) { system throws(TraceError) in
                try unsafe writer.exit(
                    detail, flags: flags, rewind: rewind, registers: registers, system: system,
                    vCPU: 0, entered: entered, returned: returned)
            }
        }
        now += 500
    }

    mutating func out(
        _ port: UInt16, _ bytes: [UInt8], size: UInt8 = 1, at address: UInt64,
        took: UInt64 = 8000
    ) throws {
        try unsafe bytes.withUnsafeBytes { data in
            try unsafe exit(
                at: address,
                .io(
                    isWrite: true, size: size, port: port,
                    count: UInt32(bytes.count / Int(size)), data: data), rewind: 1, took: took)
        }
    }

    mutating func `in`(
        _ port: UInt16, answer: [UInt8], size: UInt8 = 1, at address: UInt64
    ) throws {
        try unsafe exit(
            at: address,
            .io(
                isWrite: false, size: size, port: port, count: UInt32(answer.count / Int(size)),
                data: UnsafeRawBufferPointer(start: nil, count: 0)))
        try self.answer(.io, answer)
    }

    mutating func answer(_ form: AnswerForm, _ bytes: [UInt8]) throws {
        try unsafe bytes.withUnsafeBytes { try unsafe writer.answer(form, $0, vCPU: 0) }
    }

    mutating func completion(_ changes: [Change]) throws {
        try writer.completion(changes, vCPU: 0)
    }

    mutating func interruption(_ interruption: Interruption) throws {
        try writer.interruption(interruption, vCPU: 0)
    }

    mutating func deviceWrite(_ address: UInt64, _ bytes: [UInt8]) throws {
        try unsafe bytes.withUnsafeBytes {
            try unsafe writer.deviceWrite(address: GuestPhysicalAddress(address), $0, vCPU: 0)
        }
    }

    /// Completes the trace and returns its path.
    consuming func finish(_ reason: EndReason = .halted, status: Int32? = nil) throws -> String {
        let record = EndRecord(
            reason: reason, guestStatus: status, registers: registers, system: system)
        let path = path
        _ = try writer.finish(record, memory: nil)
        return path
    }

    /// Leaves the trace incomplete, as a crash would, and returns the path of what is there.
    consuming func abandon() -> String { path + ".partial" }
}

/// Names for the addresses of the synthetic guest.
func syntheticNames() -> AddressNames {
    AddressNames { address in
        switch address {
        case 0x10_0000..<0x10_0100:
            AddressName(
                function: "kmain.putc(Swift.UInt8) -> ()", shortFunction: "putc",
                offset: address - 0x10_0000, file: "/src/kernel/console.swift",
                line: 30 + Int(address & 0xF))
        case 0x10_0100..<0x10_0200:
            AddressName(function: "kmain", offset: address - 0x10_0100)
        default: nil
        }
    }
}

/// A guest that shows every kind of event.
func writeShowcase(_ path: String, timing: Bool = true, greeting: String = "Hi\n") throws -> String
{
    let header = TraceHeader(
        machine: SyntheticTrace.machine,
        requestedCPUID: [CPUIDEntry(function: 1, eax: 1, ebx: 2, ecx: 3, edx: 4)],
        observedCPUID: [CPUIDEntry(function: 1, eax: 1, ebx: 2, ecx: 3, edx: 4)],
        hostFacts: HostFacts([HostFact("kvm.kind", "test", .behaviour)]),
        images: [
            ImageRecord(
                name: "kernel.elf", kind: "elf64", bytes: Array(repeating: 0x90, count: 600),
                properties: [Property("entry", "0x100000")])
        ],
        commandLine: "console=ttyS0",
        observed: ObservedFacts(
            creationNanoseconds: 1_700_000_000_000_000_000, command: ["vmtape", "record"],
            hostName: "testhost"))
    var trace = try SyntheticTrace(path, header: header, timing: timing)
    try trace.out(0x3FB, [0x80], at: 0x10_0000)
    try trace.out(0x3F8, [0x01], at: 0x10_0004)
    try trace.out(0x3FB, [0x03], at: 0x10_0008)
    for byte in greeting.utf8 {
        trace.registers[.rax] = 0x3FD
        try trace.in(0x3FD, answer: [0x60], at: 0x10_0010)
        trace.registers[.rax] = UInt64(byte)
        try trace.out(0x3F8, [byte], at: 0x10_0018)
    }
    try trace.out(0xE9, Array("a string\n".utf8), at: 0x10_0020)
    try trace.out(0xCF8, [0x00, 0x00, 0x00, 0x80], size: 4, at: 0x10_0100)
    try trace.interruption(Interruption(.external, vector: 0x20))
    try unsafe trace.exit(
        at: 0x10_0110,
        .mmio(
            address: GuestPhysicalAddress(0xFEE0_0020), length: 4, isWrite: false, value: 0))
    try trace.answer(.mmio, [0x01, 0, 0, 0])
    try unsafe trace.exit(
        at: 0x10_0114,
        .mmio(
            address: GuestPhysicalAddress(0xFEE0_00B0), length: 4, isWrite: true, value: 0x1234))
    try unsafe trace.exit(at: 0x10_0120, .rdmsr(index: 0x1B, why: 2))
    try trace.answer(.msr, [0, 0, 9, 0xE0, 0xFE, 0, 0, 0, 0])
    try unsafe trace.exit(at: 0x10_0122, .wrmsr(index: 0x1B, why: 2, value: 0xFEE0_0900))
    try trace.answer(.msr, [1])
    try trace.out(0x5A, [0x07], at: 0x10_0130)
    trace.system[.cr3] = 0x9000
    trace.system[.ss].dpl = 3
    trace.registers[.r9] = 0xFFFF_FFFF_8000_0000
    try unsafe trace.exit(at: 0x4000_0000, .plain(.hlt))
    try trace.interruption(
        Interruption(
            .exception, vector: 14, errorCode: 4,
            landmark: Landmark(
                registers: trace.registers, state: Digest128(low: 1, high: 2), instructions: 77)))
    try trace.deviceWrite(0x5000, [1, 2, 3, 4])
    try trace.completion([.register(.rax, 5), .systemWord(30, 0x1000), .msr(index: 0x10, 7)])
    try unsafe trace.exit(at: 0x10_0140, .plain(.hlt))
    return try trace.finish(.debugExit, status: 3)
}

/// A long trace: a guest that polls a UART. `change` may alter an exit's character.
func writePolling(
    _ path: String, exits: UInt64, timing: Bool = false,
    header: TraceHeader = TraceHeader(machine: SyntheticTrace.machine),
    character: (UInt64) -> UInt8 = { 0x61 + UInt8($0 % 26) },
    status: (UInt64) -> UInt8 = { _ in 0x60 }, finishes: Bool = true
) throws -> String {
    var trace = try SyntheticTrace(path, header: header, timing: timing)
    var number: UInt64 = 0
    while number < exits {
        trace.registers[.rcx] = number
        if number % 2 == 0 {
            try trace.in(0x3FD, answer: [status(number)], at: 0x10_0010)
        } else {
            trace.registers[.rax] = UInt64(character(number))
            try trace.out(0x3F8, [character(number)], at: 0x10_0018)
        }
        number += 1
    }
    return finishes ? try trace.finish() : trace.abandon()
}

/// Compares text with a file under Snapshots; VMTAPE_UPDATE_SNAPSHOTS=1 writes the file instead.
func expectSnapshot(
    _ text: String, _ name: String, file: String = #filePath,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    let directory = file.split(separator: "/").dropLast().joined(separator: "/")
    let path = "/\(directory)/Snapshots/\(name)"
    // SAFETY: getenv's string is read at once.
    if unsafe getenv("VMTAPE_UPDATE_SNAPSHOTS") != nil {
        guard let stream = unsafe fopen(path, "w") else {
            Issue.record("\(path) cannot be written", sourceLocation: sourceLocation)
            return
        }
        let bytes = Array(text.utf8)
        // SAFETY: the array is alive through the call.
        _ = unsafe bytes.withUnsafeBytes { unsafe fwrite($0.baseAddress, 1, $0.count, stream) }
        unsafe fclose(stream)
        return
    }
    guard let wanted = readText(path) else {
        Issue.record(
            "\(path) is missing: run with VMTAPE_UPDATE_SNAPSHOTS=1",
            sourceLocation: sourceLocation)
        return
    }
    guard wanted != text else { return }
    let lines = (
        wanted.split(separator: "\n", omittingEmptySubsequences: false),
        text.split(separator: "\n", omittingEmptySubsequences: false)
    )
    let first = zip(lines.0, lines.1).enumerated().first { $1.0 != $1.1 }
    Issue.record(
        """
        \(name) differs from line \((first?.offset ?? min(lines.0.count, lines.1.count)) + 1) on:
          expected: \(first.map { String($1.0) } ?? "\(lines.0.count) lines")
          is:       \(first.map { String($1.1) } ?? "\(lines.1.count) lines")
        run with VMTAPE_UPDATE_SNAPSHOTS=1 if this is meant
        """, sourceLocation: sourceLocation)
}

/// A file's content as text.
func readText(_ path: String) -> String? {
    readBytes(path).map { String(decoding: $0, as: UTF8.self) }
}

/// A file's content.
func readBytes(_ path: String) -> [UInt8]? {
    guard let stream = unsafe fopen(path, "r") else { return nil }
    defer { unsafe fclose(stream) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while true {
        // SAFETY: the chunk has room for as many bytes as are asked for.
        let count = unsafe chunk.withUnsafeMutableBytes {
            unsafe fread($0.baseAddress, 1, $0.count, stream)
        }
        if count == 0 { break }
        bytes.append(contentsOf: chunk[..<count])
    }
    return bytes
}
