import Devices
import Execution
import Glibc
import Guest
import KVM
import Testing
import Trace

/// Guests with interrupts and time, recorded and replayed on real KVM.
@Suite(.enabled(if: PCGuest.canRun, PCGuest.whyNot))
struct PCGuestTests {
    private static let virtual = ClockKind.virtual(nanosecondsPerExit: 10_000)
    /// So slow a CPU that the timer has always something to ask for: an interrupt at nearly every
    /// exit, rewritten instructions among them.
    private static let crowded = ClockKind.virtual(nanosecondsPerExit: 3_000_000)

    private static let timer = PCGuest.sample("timer", "30 10")
    private static let entropy = PCGuest.sample("entropy")
    private static let echo = PCGuest.sample(
        "irq-echo", input: "hello\nlonger than the queue of thirty-two bytes\n\nquit\nrest")

    @Test(arguments: [timer, entropy, echo], [ClockKind.host, virtual, crowded])
    func `a recording replays identically`(guest: PCGuest, clock: ClockKind) throws {
        let host = try Host()
        let tape = try guest.record(host, clock)
        #expect(tape.outcome.report.ending == Ending(.halted))
        #expect(try tape.replay(host) == .identical)
    }

    @Test(arguments: [timer, entropy, echo], [virtual, crowded])
    func `two recordings under a virtual clock are the same file`(
        guest: PCGuest, clock: ClockKind
    ) throws {
        let host = try Host()
        let first = try guest.record(host, clock)
        let second = try guest.record(host, clock)
        #expect(try first.bytes() == second.bytes())
        #expect(try first.console() == second.console())
    }

    @Test func `interrupts in mid-flight are found again`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted", "100").record(host, .host)
        #expect(tape.outcome.report.ending == Ending(.halted))
        // It has no exits but those of its handler and of its beginning and end.
        #expect(tape.outcome.report.midFlight.landmarks >= 90)
        #expect(try tape.vectors().allSatisfy { $0 == 0x20 })
        #expect(try tape.replay(host) == .identical)
    }

    // MARK: What the guests say

    @Test(arguments: [ClockKind.host, virtual])
    func `the timer ticks as often as it is told`(clock: ClockKind) throws {
        let tape = try Self.timer.record(try Host(), clock)
        let lines = try tape.console().split(separator: "\n")
        #expect(lines.count == 3)
        #expect(lines.first?.hasPrefix("tick 10 at time stamp ") == true)
        #expect(lines.dropFirst().first?.hasPrefix("tick 20 at time stamp ") == true)
        #expect(lines.last == "done")
        let vectors = try tape.vectors()
        #expect(vectors == [UInt8](repeating: 0x20, count: 30))
    }

    @Test func `typed lines come back in capitals`() throws {
        let tape = try Self.echo.record(try Host(), Self.virtual)
        #expect(
            try tape.console() == """
                irq-echo: type a line; quit ends\r
                hello\r
                HELLO\r
                longer than the queue of thirty-two bytes\r
                LONGER THAN THE QUEUE OF THIRTY-TWO BYTES\r
                \r
                \r
                quit\r

                """)
        let vectors = try tape.vectors()
        #expect(!vectors.isEmpty)
        #expect(vectors.allSatisfy { $0 == 0x24 })
    }

    @Test func `input that ends before quit ends the run in its HLT`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("irq-echo", input: "no end").record(host, Self.virtual)
        #expect(tape.outcome.report.ending == Ending(.halted))
        #expect(try tape.replay(host) == .identical)
    }

    @Test func `time differs from recording to recording, and the trace keeps it`() throws {
        let host = try Host()
        let first = try Self.entropy.record(host, .host)
        let second = try Self.entropy.record(host, .host)
        let (a, b) = (try first.console(), try second.console())
        #expect(a.contains("time-stamp counter: rises, "))
        #expect(a.contains("date: "))
        #expect(a != b)
        #expect(try first.replay(host) == .identical)
        #expect(try second.replay(host) == .identical)
        // Three in each of sixteen rounds, one before and one after; and CPUID's, if they are.
        #expect(try first.rewrittenCount() >= 50)
    }

    // MARK: Ends

    @Test func `a limit of exits amid interrupts replays`() throws {
        let host = try Host()
        let tape = try Self.timer.record(host, Self.crowded) { $0.exitLimit = 151 }
        #expect(tape.outcome.report.ending == Ending(.exitLimit))
        #expect(tape.outcome.report.exitCount == 151)
        #expect(try tape.replay(host) == .identical)
    }

    @Test(arguments: [0, 1, 60, 150] as [UInt64])
    func `a replay stops where it is asked to, amid interrupts`(until: UInt64) throws {
        let host = try Host()
        let tape = try Self.timer.record(host, Self.crowded)
        #expect(try tape.replay(host, until: until) == .identicalSoFar(until + 1))
    }

    @Test func `a guest that mostly sleeps is ended by its time limit at an exit`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("timer", "4000000000 0").record(host, .host) {
            $0.supervision.timeoutMilliseconds = 300
        }
        #expect(tape.outcome.report.ending == Ending(.timeLimit))
        #expect(try tape.replay(host) == .identical)
    }
}

/// Firmware of Debian packages, recorded and replayed on real KVM.
@Suite(.enabled(if: PCGuest.canRun, PCGuest.whyNot))
struct FirmwareTests {
    private static let latest = PCGuest(path: "/usr/share/bochs/BIOS-bochs-latest")
    private static let legacy = PCGuest(path: "/usr/share/bochs/BIOS-bochs-legacy")
    private static let sea = PCGuest(path: "/usr/share/seabios/bios.bin")
    private static let virtual = ClockKind.virtual(nanosecondsPerExit: 10_000)

    /// Both clocks, and the file twice.
    private func check(
        _ guest: PCGuest, ends reason: EndReason, prints text: String,
        prepare: (inout LiveConfiguration) -> Void = { _ in }
    ) throws {
        let host = try Host()
        for clock in [ClockKind.host, Self.virtual] {
            let tape = try guest.record(host, clock, prepare)
            #expect(tape.outcome.report.ending.reason == reason)
            #expect(try tape.console().contains(text))
            #expect(try tape.replay(host) == .identical)
            guard clock == Self.virtual else { continue }
            #expect(try tape.bytes() == guest.record(host, clock, prepare).bytes())
        }
    }

    @Test(.enabled(if: latest.isThere, "no \(latest.path): install bochsbios"))
    func `the Bochs BIOS finds nothing to boot`() throws {
        try check(Self.latest, ends: .halted, prints: "No bootable device.")
    }

    @Test(.enabled(if: legacy.isThere, "no \(legacy.path): install bochsbios"))
    func `the legacy Bochs BIOS finds nothing to boot`() throws {
        try check(Self.legacy, ends: .halted, prints: "No bootable device.")
    }

    @Test(.enabled(if: sea.isThere, "no \(sea.path): install seabios"))
    func `SeaBIOS comes to its boot attempts`() throws {
        try check(Self.sea, ends: .exitLimit, prints: "SeaBIOS (version") { $0.exitLimit = 3000 }
    }
}

/// A guest on a PC, as these tests run it.
struct PCGuest: CustomTestStringConvertible, Sendable {
    private static let obstacle: String? = {
        do throws(KVMError) {
            _ = try Hypervisor()
            return nil
        } catch { return error.description }
    }()
    /// Whether guests can be run here.
    static var canRun: Bool { obstacle == nil }
    /// Why not.
    static var whyNot: Comment { "needs KVM: \(obstacle ?? "it is there")" }

    var path: String
    var commandLine = ""
    var input = ""

    var testDescription: String { path.split(separator: "/").last.map(String.init) ?? path }

    var isThere: Bool {
        // SAFETY: Swift passes a NUL-terminated string for the call.
        unsafe access(path, R_OK) == 0
    }

    static func sample(_ name: String, _ commandLine: String = "", input: String = "") -> PCGuest {
        // Tests/ExecutionTests/ is three up from the repository.
        let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
        return PCGuest(
            path: root.joined(separator: "/") + "/Samples/bin/\(name)", commandLine: commandLine,
            input: input)
    }

    /// Records it, with nothing of the host in the trace.
    func record(
        _ host: borrowing Host, _ clock: ClockKind,
        _ prepare: (inout LiveConfiguration) -> Void = { _ in }
    ) throws -> PCTape {
        let plan = try LoadPlan(
            image: GuestFile(path: path), options: LoadOptions(commandLine: commandLine),
            ram: RAMLayout(lengthInBytes: 32 << 20))
        var configuration = LiveConfiguration(plan: plan)
        configuration.clock = clock
        // Far more than any of them takes: a test ends, whatever happens.
        configuration.supervision.timeoutMilliseconds = 300_000
        prepare(&configuration)
        var pc = PCConfiguration(
            memoryBelow4GiB: plan.ram.lowLength, memoryAbove4GiB: plan.ram.highLength)
        pc.startDate = 1_767_225_600
        let tape = try PCTape()
        var recording = RecordSession.Recording(path: tape.path)
        recording.hasTiming = false
        let devices = try DeviceSet(
            .init(serial: .file(tape.consolePath), machine: .pc, pc: pc),
            input: ConsoleInput(bytes: Array(input.utf8)))
        tape.setOutcome(
            try RecordSession(
                host: host, configuration: configuration, devices: devices, recording: recording
            ).run(SessionCallbacks()))
        return tape
    }
}

/// A recording in a directory of its own, removed with it.
final class PCTape {
    private let directory: String
    private var recorded: RecordOutcome?

    /// What a replay came to, as far as these tests want to know.
    enum Verdict: Equatable {
        case identical
        case identicalSoFar(UInt64)
        case other(String)
    }

    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    init() throws(Failure) {
        var template = Array("/tmp/vmtape-pc-XXXXXX".utf8CString)
        // SAFETY: the template is a string that ends with a zero and may be written to.
        guard unsafe mkdtemp(&template) != nil else {
            throw Failure(description: "mkdtemp: errno \(errno)")
        }
        let bytes = template.dropLast().map { UInt8(bitPattern: $0) }
        directory = String(decoding: bytes, as: UTF8.self)
    }

    deinit {
        // SAFETY: Swift passes NUL-terminated strings for the calls.
        for path in [path, path + ".partial", consolePath] { unsafe _ = unlink(path) }
        unsafe _ = rmdir(directory)
    }

    var path: String { directory + "/guest.vmtape" }
    var consolePath: String { directory + "/console" }

    fileprivate func setOutcome(_ outcome: RecordOutcome) { recorded = outcome }

    var outcome: RecordOutcome {
        guard let recorded else { preconditionFailure("asked for before it was recorded") }
        return recorded
    }

    func bytes() throws -> [UInt8] { try GuestFile(path: path).bytes }

    func console() throws -> String {
        String(decoding: try GuestFile(path: consolePath).bytes, as: UTF8.self)
    }

    /// The vectors of its interrupts, in order.
    func vectors() throws -> [UInt8] {
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

    func replay(_ host: borrowing Host, until: UInt64? = nil) throws -> Verdict {
        var options = ReplayOptions()
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
