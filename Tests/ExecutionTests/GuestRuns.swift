import Devices
import Execution
import Glibc
import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

/// Whether guests can be run here, and why not.
enum RealKVM {
    static let error: String? = {
        do throws(KVMError) {
            _ = try Hypervisor()
            return nil
        } catch { return error.description }
    }()
    static var isThere: Bool { error == nil }
    static var comment: Comment { "needs KVM: \(error ?? "it is there")" }
}

/// A guest as tests run it.
struct TestGuest: CustomTestStringConvertible, Sendable {
    var name: String
    var path: String
    var commandLine = ""
    var input = ""
    /// How it ends.
    var reason = EndReason.halted
    var status: Int32?
    /// What it prints has this in it.
    var prints = ""
    var memory: UInt64 = 16 << 20

    var testDescription: String { name }

    init(
        _ name: String, _ commandLine: String = "", input: String = "",
        reason: EndReason = .halted, status: Int32? = nil, prints: String = ""
    ) {
        self.name = name
        path = Files.sample(name)
        self.commandLine = commandLine
        self.input = input
        self.reason = reason
        self.status = status
        self.prints = prints
    }

    /// Every sample, and tboot where there is one.
    static let all: [TestGuest] = {
        var guests = [
            TestGuest("add", prints: "4"),
            TestGuest("swift-kernel", "7", prints: "\n"),
            TestGuest(
                "echo", input: "hello\rtape\rexit 3\r", reason: .debugExit, status: 7,
                prints: "OLLEH"),
            TestGuest("echo", input: "quit\r", prints: "> quit"),
            TestGuest("mmio"),
            TestGuest("string-io"),
            TestGuest("gaps", prints: "gaps: all as expected"),
            TestGuest("ring3"),
            TestGuest("syscall", prints: "302 calls, "),
            TestGuest("triple-fault", reason: .shutdown, prints: "round 31"),
            TestGuest("poll", "500"),
            TestGuest("slow", "4 2000"),
        ]
        if let tboot = Files.tboot {
            var guest = TestGuest("tboot")
            guest.path = tboot
            guest.memory = 64 << 20
            guests.append(guest)
        }
        return guests
    }()

    func plan() throws -> LoadPlan {
        try LoadPlan(
            image: GuestFile(path: path), options: LoadOptions(commandLine: commandLine),
            ram: RAMLayout(lengthInBytes: memory))
    }

    /// Records it, with nothing of the host in the trace unless timing is on; `tick` is told how many
    /// exits were recorded.
    func record(
        _ host: borrowing Host, to path: String, timing: Bool = false,
        limits: (inout LiveConfiguration, inout RecordSession.Recording) -> Void = { _, _ in },
        tick: @escaping @Sendable (StopRequest, UInt64) -> Void = { _, _ in }
    ) throws -> RecordOutcome {
        var configuration = LiveConfiguration(plan: try plan())
        var recording = RecordSession.Recording(path: path)
        recording.hasTiming = timing
        limits(&configuration, &recording)
        let devices = try DeviceSet(
            .init(serial: .file(path + ".console")), input: ConsoleInput(bytes: Array(input.utf8)))
        let session = try RecordSession(
            host: host, configuration: configuration, devices: devices, recording: recording)
        let stop = session.stop
        let progress = session.progress
        return try session.run(SessionCallbacks(tick: { _ in tick(stop, progress.exitCount) }))
    }

    /// Replays a trace.
    static func replay(
        _ host: borrowing Host, _ path: String, _ options: ReplayOptions = ReplayOptions()
    ) throws -> ReplayOutcome {
        try ReplaySession(host: host, reader: TraceReader(path: path), options: options)
            .run(SessionCallbacks())
    }

    /// A flat real-mode guest of so many bytes of code.
    static func flat(_ code: [UInt8], in directory: TemporaryDirectory) throws -> TestGuest {
        var guest = TestGuest("flat")
        guest.path = directory.file("flat.bin")
        try Files.write(guest.path, code)
        return guest
    }
}

extension ReplayOutcome {
    /// The verdict in a word.
    var word: String {
        switch verdict {
        case .identical: "identical"
        case .identicalSoFar: "so far"
        case .identicalButIncomplete: "incomplete"
        case .identicalToLastExit: "to last exit"
        case .stopped: "stopped"
        case .diverged(let divergence): "diverged at \(divergence.exitNumber)"
        }
    }
}
