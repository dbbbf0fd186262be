internal import Glibc
internal import Machine
internal import Trace

/// Small real inputs to start from.
struct Seeds {
    /// Where they go: a directory for each target.
    var directory: String
    /// The sample guests, Samples/bin.
    var samples: String

    /// Serves `--make-seeds=DIRECTORY [SAMPLES]`; the status, nil where that is not asked for.
    static func make(_ arguments: [String]) -> Int32? {
        guard arguments.count > 1, arguments[1].hasPrefix("--make-seeds=") else { return nil }
        let samples = arguments.count > 2 ? arguments[2] : "Samples/bin"
        let seeds = Seeds(directory: String(arguments[1].dropFirst(13)), samples: samples)
        return seeds.make() ? 0 : 2
    }

    /// Makes all seeds; false, with a line on standard error, where that fails.
    func make() -> Bool {
        Target.allCases.allSatisfy { target in
            // SAFETY: Swift passes NUL-terminated strings.
            _ = unsafe mkdir(directory, 0o777)
            _ = unsafe mkdir("\(directory)/\(target)", 0o777)
            return seeds(target).allSatisfy { name, bytes in
                let path = "\(directory)/\(target)/\(name)"
                if save(bytes, to: path) { return true }
                complain("vmtape-fuzz: \(path) cannot be written")
                return false
            }
        }
    }

    private func seeds(_ target: Target) -> [(name: String, bytes: [UInt8])] {
        switch target {
        case .trace:
            return [
                ("timed", Self.complete(timing: true)), ("untimed", Self.complete(timing: false)),
                ("partial", Self.record(events: Self.someEvents).trace),
            ]
        case .tail:
            let recording = Self.record(events: Self.someEvents)
            return [("rows", TailTarget.input(fromTail: recording.tail))]
        case .keyframes: return [("two", Self.keyframes())]
        case .image:
            let guests = Self.guests.compactMap { name in
                contents(of: "\(samples)/\(name)").map { (name, [0, 6, 1] + $0) }
            }
            return guests + [
                ("multiboot", [0, 7, 9] + Self.multiboot), ("gzip", [0, 4, 0] + Self.gzip),
                ("firmware", [6, 7, 0] + Self.firmware),
            ]
        case .filter:
            return Self.filters.enumerated().map { ("filter-\($0)", Array($1.utf8)) }
        case .symbols:
            let guests = Self.guests.compactMap { name in
                contents(of: "\(samples)/\(name)").map { (name, [0] + $0) }
            }
            return guests + [("map", [1] + Array(Self.map.utf8))]
        case .debugger:
            return [
                ("lines", [1] + Array(Self.packets.utf8)),
                ("writable", [7] + Array(Self.packets.utf8)),
                ("bytes", [0] + Array(Self.stream.utf8)),
            ]
        }
    }

    private static let guests = ["add", "poll", "echo", "ring3"]
    private static let filters = [
        "reason == io && port == 0x3f8", "exit in 1..5 || !(write)", "rip >= 0x1000",
        "size == 4 and not (port in [0x60, 0x64])", "mmio", "rax != 0xFFFFFFFFFFFFFFFF",
        "symbol ~ \"main*\"",
    ]
    private static let map = """
        0000000000100000 T _start
        0000000000100010 t $s6Kernel4mainyyF
        ffffffff81000000 D jiffies [module]

        """
    /// A packet of each family.
    private static let packets = """
        qSupported:swbreak+;hwbreak+;error-message+
        !
        qXfer:features:read:target.xml:0,ffb
        qXfer:memory-map:read::0,100
        qXfer:exec-file:read::0,100
        vFile:open:2f6775657374,0,0
        vFile:pread:3,4000,10
        vFile:fstat:3
        qfThreadInfo
        qThreadExtraInfo,2
        Hg2
        Hc-1
        T1
        ?
        g
        p10
        P0=0102030405060708
        m0,10
        xfffffffffffff000,20
        Mfffffffffffff000,2:abcd
        X0,4:}]#$*
        Qqemu.PhyMemMode:1
        Z0,1000,1
        Z2,2000,8
        z0,1000,1
        vCont;s:1;c
        vCont;r1000,1010:2
        bs
        bc
        C05
        qRcmd,676f746f2031372b34
        qRcmd,6c6173742d777269746520307831303030
        qRcmd,6578697473203520
        vKill;1
        vRun;
        D

        """
    /// Good and bad frames.
    private static let stream =
        "+$g#67-$m0,4#fd+$QStartNoAckMode#b0$0* #7a$X0,1:}\u{3}#00\u{3}$c#63\u{3}$m0$?#3f$k#6b"
    /// A multiboot header with addresses (an a.out-kludge), and an instruction.
    private static let multiboot: [UInt8] = {
        let words: [UInt32] = [
            0x1BAD_B002, 0x0001_0003, 0 &- 0x1BAD_B002 &- 0x0001_0003, 0x10_0000, 0x10_0000, 0, 0,
            0x10_0020,
        ]
        return words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) } }
            + [0xF4]
    }()
    /// 64 KiB that jump where a CPU starts.
    private static let firmware: [UInt8] = {
        var bytes = [UInt8](repeating: 0xF4, count: 64 << 10)
        bytes[bytes.count - 16] = 0xEB
        bytes[bytes.count - 15] = 0xFE
        return bytes
    }()
    /// `\xF4\x0A` by gzip, stored.
    private static let gzip: [UInt8] = [
        0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 0, 0xFD, 0xFF, 0xF4, 0x0A, 0x9D, 0x2B, 0x5C, 0xE5,
        2, 0, 0, 0,
    ]

    // MARK: Traces

    private static let header = TraceHeader(
        machine: MachineDescription(
            ramBytes: 1 << 20, devices: [.init(name: "16550a", base: "port 0x3f8")],
            properties: [Property("tsc", "native")]),
        images: [
            ImageRecord(
                name: "guest", kind: "flat-real", bytes: [0xB0, 0x41, 0xE6, 0x80, 0xF4],
                properties: [Property("loader", "1")])
        ], commandLine: "a b",
        observed: ObservedFacts(creationNanoseconds: 1, command: ["vmtape"], hostName: "host"))

    private static func path() -> String { "/tmp/vmtape-fuzz-\(getpid()).vmtape" }

    private static func options(timing: Bool) -> TraceOptions {
        TraceOptions(
            timing: timing ? TimeBase(ticksPerSecond: 1_000_000, origin: 5) : nil,
            overwrites: true)
    }

    /// A complete trace with events of every kind.
    static func complete(timing: Bool) -> [UInt8] {
        let path = path()
        // SAFETY: Swift passes a NUL-terminated string.
        defer { unsafe unlink(path) }
        do {
            var writer = try TraceWriter(
                path: path, header: header, options: options(timing: timing))
            try someEvents(&writer)
            var memory = MemoryDigest()
            let page = [UInt8](repeating: 0xF4, count: 4096)
            // SAFETY: the pointer covers one page during the call.
            if let page = unsafe page.withUnsafeBytes({
                unsafe MemoryDigest.page(number: 1, bytes: $0)
            }) {
                memory.append(page)
            }
            _ = try writer.finish(
                EndRecord(
                    reason: .halted, guestStatus: 3, registers: GeneralRegisters(),
                    system: SystemRegisters()), memory: memory)
        } catch { complain("vmtape-fuzz: \(error)") }
        return contents(of: path) ?? []
    }

    /// Two keyframes and three pages, one of which both have.
    private static func keyframes() -> [UInt8] {
        let path = path()
        // SAFETY: Swift passes a NUL-terminated string.
        defer { unsafe unlink(path) }
        do {
            var writer = try KeyframeFileWriter(path: path, key: KeyframesTarget.key)
            for seed: UInt8 in 1...3 {
                let page = [UInt8](repeating: seed, count: 4096)
                // SAFETY: the pointer covers one page during the call.
                _ = try unsafe page.withUnsafeBytes { try unsafe writer.add(page: $0) }
            }
            for number: UInt64 in 0..<2 {
                try writer.add(
                    KeyframeRecord(
                        position: Position(
                            exitCount: 3 + number, instructions: 17, ring3: number == 0 ? nil : 4),
                        memory: Digest128(low: 5, high: 6),
                        parts: [.init(tag: 16, words: [1, .max]), .init(tag: 30, words: [])],
                        pages: [
                            .init(slot: 0, content: 0), .init(slot: 9, content: nil),
                            .init(slot: 30, content: UInt32(number) + 1),
                        ], written: [0, 9, 12, 30]))
            }
            _ = try writer.finish()
        } catch { complain("vmtape-fuzz: \(error)") }
        return contents(of: path) ?? []
    }

    /// What a killed recording leaves.
    static func record(
        events: (inout TraceWriter) throws -> Void
    ) -> (trace: [UInt8], tail: [UInt8]) {
        let path = path()
        // SAFETY: Swift passes NUL-terminated strings.
        defer {
            unsafe unlink(path + ".partial")
            unsafe unlink(path + ".partial-tail")
        }
        do {
            var writer = try TraceWriter(path: path, header: header, options: options(timing: true))
            try events(&writer)
        } catch { complain("vmtape-fuzz: \(error)") }
        return (contents(of: path + ".partial") ?? [], contents(of: path + ".partial-tail") ?? [])
    }

    /// Events of every kind.
    static func someEvents(_ writer: inout TraceWriter) throws {
        var registers = GeneralRegisters()
        var system = SystemRegisters()
        try writer.start(registers: registers, system: system)
        var ticks: UInt64 = 10
        for round: UInt64 in 0..<6 {
            registers.rip = 0x1000 + round * 2
            registers[.rax] = round &* 0x1234_5678_9ABC
            if round == 3 { system[.cr3] = 0x5000 }
            var bytes: [UInt8] = [UInt8(round), 2, 3, 4]
            // SAFETY: pointers to locals, valid during the call; so in what follows.
            try unsafe bytes.withUnsafeMutableBytes { buffer in
                let data = UnsafeRawBufferPointer(buffer)
                let details: [ExitDetail<UnsafeRawBufferPointer>] = unsafe [
                    .io(isWrite: true, size: 2, port: 0x3F8, count: 2, data: data),
                    .io(
                        isWrite: false, size: 4, port: 0xCFC, count: 1,
                        data: .init(start: nil, count: 0)),
                    .mmio(
                        address: .init(0xFED4_0000), length: 4, isWrite: round % 2 == 0, value: 7),
                    .rdmsr(index: 0x10, why: 1), .wrmsr(index: 0x10, why: 1, value: 5),
                    .exception(vector: 14, errorCode: 2),
                    .debug(exception: 1, pc: 0x1000, dr6: 1, dr7: 2),
                    .failEntry(hardwareReason: 7, cpu: 0),
                    .other(.hlt, data: data),
                ]
                for index in unsafe details.indices {
                    try unsafe writer.exit(
                        details[index], rewind: 2, registers: &registers, system: &system,
                        entered: ticks, returned: ticks + 5)
                    ticks += 9
                }
                try unsafe writer.answer(.io, data)
                try unsafe writer.deviceWrite(address: .init(0x2000), data)
            }
            try writer.completion([
                .register(.rax, 1), .systemWord(3, 4), .msr(index: 0x10, 5),
                .event(.exception, vector: 3, errorCode: nil),
                .extendedState(offset: 512, [1, 2]), .memory(.init(0x3000), [1, 2, 3]),
            ])
            try writer.interruption(
                Interruption(
                    .external, vector: 32, errorCode: nil,
                    landmark: round % 2 == 0
                        ? nil
                        : Landmark(
                            registers: registers, state: Digest128(low: 1, high: 2), progress: 9,
                            instructions: 4)))
        }
    }
}
