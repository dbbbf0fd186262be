import Devices
import Execution
import Guest
import TestSupport
import Testing
import Trace

/// A guest on a PC, as these tests run it.
struct PCGuest: CustomTestStringConvertible, Sendable {
    var path: String
    var commandLine = ""
    var input = ""
    var machine = MachineKind.pc

    var testDescription: String { path.split(separator: "/").last.map(String.init) ?? path }

    var isThere: Bool { Files.exists(path) }

    static func sample(
        _ name: String, _ commandLine: String = "", input: String = "",
        machine: MachineKind = .pc
    ) -> PCGuest {
        PCGuest(
            path: Files.sample(name), commandLine: commandLine, input: input, machine: machine)
    }

    /// A file of one of Debian's packages, which may not be there.
    static func debian(_ path: String, input: String = "") -> PCGuest {
        PCGuest(path: Files.guest(path) ?? path, input: input)
    }

    /// Records it, with nothing of the host in the trace.
    func record(
        _ host: borrowing Host, _ clock: ClockKind,
        _ prepare: (inout LiveConfiguration) -> Void = { _ in }
    ) throws -> PCTape {
        let plan = try LoadPlan(
            image: GuestFile(path: path),
            options: LoadOptions(
                commandLine: commandLine, tables: machine.hasAPIC ? .apic : nil),
            ram: RAMLayout(lengthInBytes: 32 << 20))
        var configuration = LiveConfiguration(plan: plan)
        configuration.clock = clock
        // Far more than any of them takes: a test ends, whatever happens.
        configuration.supervision.timeoutMilliseconds = 300_000
        prepare(&configuration)
        var pc = PCConfiguration(
            memoryBelow4GiB: plan.ram.lowLength, memoryAbove4GiB: plan.ram.highLength)
        pc.startDate = 1_767_225_600
        let directory = try TemporaryDirectory()
        var recording = RecordSession.Recording(path: PCTape.path(directory))
        recording.hasTiming = false
        let devices = try DeviceSet(
            .init(
                serial: .file(PCTape.consoles(directory)[0]),
                debugConsole: .file(PCTape.consoles(directory)[1]), machine: machine, pc: pc),
            input: ConsoleInput(bytes: Array(input.utf8)))
        let outcome = try RecordSession(
            host: host, configuration: configuration, devices: devices, recording: recording
        ).run(SessionCallbacks())
        return PCTape(directory: directory, outcome: outcome)
    }
}

/// A recording in a directory of its own, which goes when the tape goes.
struct PCTape {
    let directory: TemporaryDirectory
    /// What the recording came to.
    let outcome: RecordOutcome

    /// What a replay came to, as far as these tests want to know.
    enum Verdict: Equatable {
        case identical
        case identicalSoFar(UInt64)
        case other(String)
    }

    fileprivate static func path(_ directory: TemporaryDirectory) -> String {
        directory.file("guest.vmtape")
    }

    /// The serial port's file and the debug consoles'.
    fileprivate static func consoles(_ directory: TemporaryDirectory) -> [String] {
        [directory.file("console"), directory.file("debug-console")]
    }

    var path: String { Self.path(directory) }

    func bytes() throws -> [UInt8] { try GuestFile(path: path).bytes }

    /// What it printed: the serial port's, then the debug consoles'.
    func console() -> String {
        let bytes = Self.consoles(directory).flatMap { Files.read($0) ?? [] }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The vectors of its interrupts, in order.
    func vectors() throws -> [UInt8] { try Self.vectors(path) }

    static func vectors(_ path: String) throws -> [UInt8] {
        var vectors: [UInt8] = []
        var cursor = try TraceReader(path: path).events()
        while let event = try cursor.next() {
            if case .interruption(_, let vector, _, _) = event {
                vectors.append(vector)
            }
        }
        return vectors
    }

    /// How many exits stand for a rewritten instruction.
    func rewrittenCount() throws -> Int {
        var count = 0
        var cursor = try TraceReader(path: path).events()
        while let event = try cursor.next() {
            if case .exit(let exit) = event, exit.flags.contains(.rewrittenInstruction) {
                count += 1
            }
        }
        return count
    }

    func replay(
        _ host: borrowing Host, until: UInt64? = nil, usesCounter: Bool = true
    ) throws -> Verdict {
        var options = ReplayOptions()
        options.usesCounter = usesCounter
        options.until = until
        let outcome = try ReplaySession(
            host: host, reader: TraceReader(path: path), options: options
        ).run(SessionCallbacks())
        switch outcome.verdict {
        case .identical: return .identical
        case .identicalSoFar: return .identicalSoFar(outcome.verifiedExits)
        case .diverged(let divergence):
            return .other("diverged at exit \(divergence.exitNumber): \(divergence)")
        default: return .other("\(outcome.verdict)")
        }
    }
}
