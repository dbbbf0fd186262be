import Devices
import Execution
import Glibc
import KVM
import Machine
import Synchronization
import TestSupport
import Testing
import Trace

/// Real guests on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct RecordReplayTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("guest.vmtape")
    }

    @Test(arguments: TestGuest.all)
    func `what is recorded is replayed`(_ guest: TestGuest) throws {
        let host = try Host()
        let recorded = try guest.record(host, to: path, timing: true)
        #expect(recorded.report.ending == Ending(guest.reason, guestStatus: guest.status))
        #expect(recorded.summary.exitCount == recorded.report.exitCount)
        #expect(Files.text(path + ".console")?.contains(guest.prints) == true)
        #expect(Files.mode(path) == 0o600)
        #expect(Files.names(in: directory.path).filter { $0.contains("partial") } == [])

        let reader = try TraceReader(path: path)
        #expect(reader.isComplete)
        #expect(reader.exitCount == recorded.report.exitCount)
        #expect(reader.verify().isSound)
        #expect(try reader.end()?.registers == recorded.report.registers)

        let replayed = try TestGuest.replay(host, path)
        #expect(replayed.word == "identical")
        #expect(replayed.verifiedExits == recorded.report.exitCount)
        #expect(replayed.report.registers == recorded.report.registers)
        #expect(replayed.report.systemRegisters == recorded.report.systemRegisters)
        #expect(replayed.report.ending == recorded.report.ending)
    }

    @Test(arguments: TestGuest.all)
    func `without timing, equal runs are equal files`(_ guest: TestGuest) throws {
        let host = try Host()
        _ = try guest.record(host, to: path)
        let other = directory.file("again.vmtape")
        _ = try guest.record(host, to: other)
        let bytes = try #require(Files.read(path))
        #expect(bytes == Files.read(other))
        #expect(!bytes.isEmpty)
    }

    @Test func `completions can be left off`() throws {
        let host = try Host()
        let guest = TestGuest("gaps")
        let outcome = try guest.record(host, to: path) { configuration, _ in
            configuration.completesInstructions = false
        }
        // Where ring 0 runs on hardware there is nothing to complete.
        let reader = try TraceReader(path: path)
        #expect(reader.header.machine.properties.contains(Property("completions", "off")))
        #expect(
            outcome.report.ending == Ending(.internalError)
                || Files.text(path + ".console")?.contains("all as expected") == true)
        #expect(try TestGuest.replay(host, path).word == "identical")
    }

    @Test func `run, record and replay make the same exits`() throws {
        let host = try Host()
        let guest = TestGuest("swift-kernel")
        let recorded = try guest.record(host, to: path)
        var session = try RunSession(
            host: host, configuration: LiveConfiguration(plan: guest.plan()),
            devices: .init(.init(serial: .none)))
        let report = try session.run(SessionCallbacks())
        #expect(report.exitCount == recorded.report.exitCount)
        #expect(report.registers == recorded.report.registers)
        #expect(report.ending == recorded.report.ending)
    }

    @Test func `replay stops where it is asked to`() throws {
        let host = try Host()
        _ = try TestGuest("swift-kernel").record(host, to: path)
        var options = ReplayOptions()
        for until in [0, 17] as [UInt64] {
            options.until = until
            let outcome = try TestGuest.replay(host, path, options)
            #expect(outcome.word == "so far")
            #expect(outcome.verifiedExits == until + 1)
        }
        options.until = .max
        #expect(try TestGuest.replay(host, path, options).word == "identical")
    }

    // MARK: Limits

    @Test(arguments: [UInt64(1), 2, 999, 1000])
    func `a limit on exits ends a run there, and replays`(_ limit: UInt64) throws {
        let host = try Host()
        let outcome = try TestGuest("poll", "500").record(host, to: path) { configuration, _ in
            configuration.exitLimit = limit
        }
        #expect(outcome.report.ending == Ending(.exitLimit))
        #expect(outcome.report.exitCount == limit)
        #expect(try TraceReader(path: path).end()?.event.reason == .exitLimit)
        let replayed = try TestGuest.replay(host, path)
        #expect(replayed.word == "identical")
        #expect(replayed.verifiedExits == limit)
    }

    @Test func `a limit on size ends a run at an exit, and replays`() throws {
        let host = try Host()
        let outcome = try TestGuest("poll", "4000000000").record(host, to: path) {
            configuration, recording in
            recording.maximumBytes = 40_000
            configuration.supervision.tickMilliseconds = 1
        }
        #expect(outcome.report.ending == Ending(.sizeLimit))
        #expect(outcome.summary.fileBytes >= 40_000)
        #expect(try TraceReader(path: path).end()?.event.reason == .sizeLimit)
        #expect(try TestGuest.replay(host, path).word == "identical")
    }

    @Test func `time that runs out ends a run at an exit where there is one`() throws {
        let host = try Host()
        let outcome = try TestGuest("poll", "4000000000").record(host, to: path) {
            configuration, _ in
            configuration.supervision.timeoutMilliseconds = 20
            configuration.supervision.graceMilliseconds = 60_000
            configuration.supervision.tickMilliseconds = 1
        }
        #expect(outcome.report.ending == Ending(.timeLimit))
        #expect(try TestGuest.replay(host, path).word == "identical")
    }

    /// Guests that compute for ever: with no exit at all, and after three.
    @Test(
        arguments: [
            [0xEB, 0xFE], [0xE6, 0x80, 0xE4, 0x60, 0xE6, 0x80, 0xEB, 0xFE],
        ] as [[UInt8]])
    func `a guest that never exits is ended in mid-flight, and replays to its last exit`(
        _ code: [UInt8]
    ) throws {
        let host = try Host()
        let guest = try TestGuest.flat(code, in: directory)
        let exits: UInt64 = code.count == 2 ? 0 : 3
        let ticks = Atomic<Int>(0)
        let outcome = try guest.record(host, to: path) { configuration, _ in
            configuration.supervision.graceMilliseconds = 10
            configuration.supervision.tickMilliseconds = 1
        } tick: { stop, made in
            // The last exit is recorded a moment before the loop looks for an end: well after it.
            guard made == exits, ticks.add(1, ordering: .relaxed).newValue > 50 else { return }
            stop.request(.timeLimit)
        }
        #expect(outcome.report.ending == Ending(.timeLimit, isInMidFlight: true))
        #expect(outcome.report.exitCount == exits)
        let reader = try TraceReader(path: path)
        #expect(reader.isComplete)
        #expect(try reader.end()?.event.isInMidFlight == true)
        let replayed = try TestGuest.replay(host, path)
        #expect(replayed.word == "to last exit")
        #expect(replayed.verifiedExits == outcome.report.exitCount)
    }

    @Test func `who asks for an end gets one, and the trace is complete`() throws {
        let host = try Host()
        let outcome = try TestGuest("poll", "4000000000").record(host, to: path) {
            configuration, _ in
            configuration.supervision.tickMilliseconds = 1
        } tick: { stop, _ in
            stop.request(.user)
        }
        #expect(outcome.report.ending == Ending(.interrupted))
        #expect(try TestGuest.replay(host, path).word == "identical")
    }

    // MARK: What cannot go on

    @Test func `an instruction KVM cannot emulate ends the run with its bytes`() throws {
        let host = try Host()
        guard let code = Self.unemulated(host) else { return }
        let guest = try TestGuest.flat(code, in: directory)
        let outcome = try guest.record(host, to: path)
        guard outcome.report.ending.reason == .internalError else {
            // Where real mode runs on hardware, the instruction works or raises an exception.
            return
        }
        let fault = try #require(outcome.report.fault)
        #expect(fault.instructionBytes.starts(with: code.prefix(2)))
        #expect(fault.disassembly != nil)
        #expect(try TestGuest.replay(host, path).word == "identical")
    }

    /// Something this host's KVM was seen not to emulate, in 16-bit code.
    private static func unemulated(_ host: borrowing Host) -> [UInt8]? {
        guard host.probe.facts["kvm.unemulated"] != "none" else { return nil }
        // pmulhuw mm0, mm0; hlt
        return [0x0F, 0xE4, 0xC0, 0xF4]
    }

    // MARK: A trace that is not this host's or this guest's

    @Test func `a guest that is not the one recorded diverges`() throws {
        let host = try Host()
        // in al, 0x60; out 0x80, al; hlt
        let guest = try TestGuest.flat([0xE4, 0x60, 0xE6, 0x80, 0xF4], in: directory)
        _ = try guest.record(host, to: path)
        var reader = try TraceReader(path: path)
        // The image in the trace sends to another port.
        var header = reader.header
        header.images = [
            ImageRecord(
                name: header.images[0].name, kind: header.images[0].kind,
                bytes: [0xE4, 0x60, 0xE6, 0x81, 0xF4], properties: header.images[0].properties)
        ]
        let forged = directory.file("forged.vmtape")
        try Self.rewrite(reader, header: header, to: forged)
        reader = try TraceReader(path: forged)
        let outcome = try TestGuest.replay(host, forged)
        guard case .diverged(let divergence) = outcome.verdict else {
            Issue.record("the verdict is \(outcome.word)")
            return
        }
        #expect(divergence.exitNumber == 1)
        #expect(divergence.registerDifferences == [])
        #expect(!divergence.causes.isEmpty)
        guard case .exit(let happened)? = divergence.actual?.event,
            case .io(true, 1, 0x81, 1, _) = happened.detail
        else {
            Issue.record("not an OUT to 0x81: \(String(describing: divergence.actual?.event))")
            return
        }
    }

    @Test func `RAM that differs at the end is found, and says where`() throws {
        let host = try Host()
        // mov byte [0x9000], 7; hlt: the same exits and registers whatever is stored.
        let guest = try TestGuest.flat(
            [0xC6, 0x06, 0x00, 0x90, 0x07, 0xF4], in: directory)
        _ = try guest.record(host, to: path)
        let reader = try TraceReader(path: path)
        var header = reader.header
        header.images = [
            ImageRecord(
                name: header.images[0].name, kind: header.images[0].kind,
                bytes: [0xC6, 0x06, 0x00, 0x90, 0x08, 0xF4],
                properties: header.images[0].properties)
        ]
        let forged = directory.file("forged.vmtape")
        try Self.rewrite(reader, header: header, to: forged)
        let outcome = try TestGuest.replay(host, forged)
        guard case .diverged(let divergence) = outcome.verdict, divergence.place == .end else {
            Issue.record("the verdict is \(outcome.word)")
            return
        }
        #expect(outcome.verifiedExits == 1)
        // The code, and what it stored.
        #expect(divergence.differingPages.contains(9))
        #expect(divergence.differingPages.count == 2)
        #expect(divergence.registerDifferences == [])
    }

    @Test func `a host that behaves differently refuses, unless forced`() throws {
        let host = try Host()
        _ = try TestGuest("add").record(host, to: path)
        let reader = try TraceReader(path: path)
        var header = reader.header
        let index = try #require(
            header.hostFacts.facts.firstIndex { $0.name == "kvm.rip.real.hlt" })
        header.hostFacts.facts[index].value = "elsewhere"
        header.images = [
            ImageRecord(
                name: header.images[0].name, kind: header.images[0].kind,
                bytes: try reader.imageBytes(0), properties: header.images[0].properties)
        ]
        let forged = directory.file("forged.vmtape")
        try Self.rewrite(reader, header: header, to: forged)
        #expect {
            _ = try TestGuest.replay(host, forged)
        } throws: { error in
            let text = String(describing: error)
            return text.contains("kvm.rip.real.hlt") && text.contains("--force")
        }
        var options = ReplayOptions()
        options.isForced = true
        #expect(try TestGuest.replay(host, forged, options).word == "identical")
    }

    /// Writes a trace again with another header.
    private static func rewrite(
        _ reader: TraceReader, header: TraceHeader, to path: String
    ) throws {
        var writer = try TraceWriter(path: path, header: header)
        var cursor = try reader.events()
        while let event = try cursor.next() {
            let (registers, system) = (cursor.registers, cursor.system)
            switch event {
            case .start: try writer.start(registers: registers, system: system)
            case .exit(let exit):
                // SAFETY: the pointers and the bytes are locals that outlive the calls.
                try unsafe withUnsafePointer(to: registers) { registers in
                    try unsafe withUnsafePointer(to: system) { system in
                        var bytes: [UInt8] = []
                        if case .io(true, _, _, _, let data) = exit.detail {
                            bytes = cursor.array(data)
                        }
                        try unsafe bytes.withUnsafeBytes { bytes in
                            let detail: ExitDetail<UnsafeRawBufferPointer>
                            switch exit.detail {
                            case .io(let isWrite, let size, let port, let count, _):
                                unsafe detail = .io(
                                    isWrite: isWrite, size: size, port: port, count: count,
                                    data: bytes)
                            default: unsafe detail = .plain(exit.reason)
                            }
                            try unsafe writer.exit(
                                detail, rewind: exit.rewind, registers: registers, system: system,
                                entered: 0, returned: 0)
                        }
                    }
                }
            case .answer(let form, let data):
                try unsafe cursor.array(data).withUnsafeBytes { try unsafe writer.answer(form, $0) }
            case .end(let end):
                _ = try writer.finish(
                    EndRecord(reason: end.reason, registers: registers, system: system),
                    memory: reader.memoryDigest())
                return
            default: throw SupportError("an event these guests do not have")
            }
        }
    }
}
