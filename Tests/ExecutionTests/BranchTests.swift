import Devices
import Guest
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// Devices that are run again beside their tape, and runs that leave it, on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct BranchTests {
    private static let virtual = ClockKind.virtual(nanosecondsPerExit: 10_000)
    private static let timer = PCGuest.sample("timer", "30 10")
    private static let echo = PCGuest.sample(
        "irq-echo", input: "hello\nlonger than the queue of thirty-two bytes\n\nquit\nrest")
    private static let sea = PCGuest(path: "/usr/share/seabios/bios.bin")
    private static let bochs = PCGuest(path: "/usr/share/bochs/BIOS-bochs-latest")

    /// Runs a trace with its devices.
    private static func branch(
        _ host: borrowing Host, _ path: String, console: String = "",
        _ prepare: (inout BranchOptions) -> Void = { _ in }
    ) throws -> BranchOutcome {
        var options = BranchOptions()
        options.supervision.timeoutMilliseconds = 300_000
        prepare(&options)
        var session = try BranchSession(
            host: host, reader: TraceReader(path: path), options: options,
            console: ConsoleInput(bytes: Array(console.utf8)))
        return try session.run(SessionCallbacks())
    }

    /// Runs the devices over the whole tape.
    private static func rerun(_ host: borrowing Host, _ path: String) throws -> String {
        let outcome = try branch(host, path)
        if case .endOfTape = outcome.verdict { return "as recorded" }
        return "\(outcome.verdict)"
    }

    /// The kinds in a world stream, each once.
    private static func kinds(_ path: String) throws -> Set<WorldEvent.Kind> {
        var cursor = try TraceReader(path: path).worldEvents()
        var kinds: Set<WorldEvent.Kind> = []
        while let next = try cursor.next() { kinds.insert(next.event.kind) }
        return kinds
    }

    // MARK: Run again

    @Test(
        arguments: [
            timer, echo, PCGuest.sample("entropy"),
            PCGuest.sample("apic-timer", machine: .pcAPIC),
        ],
        [ClockKind.host, virtual, .virtual(nanosecondsPerExit: 3_000_000)])
    func `devices that are run again answer as they did`(
        guest: PCGuest, clock: ClockKind
    ) throws {
        let host = try Host()
        let tape = try guest.record(host, clock)
        #expect(try Self.rerun(host, tape.path) == "as recorded")
        // Under a virtual clock, time follows from the exits.
        #expect(try Self.kinds(tape.path).contains(.clock) == (clock == .host))
    }

    @Test func `interrupts in mid-flight are raised again`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted", "100").record(host, .host)
        #expect(tape.outcome.report.midFlight.landmarks >= 90)
        #expect(try Self.kinds(tape.path).isSuperset(of: [.kick, .acknowledge]))
        #expect(try Self.rerun(host, tape.path) == "as recorded")
    }

    @Test func `a bare machine needs its input alone`() throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        let path = directory.file("echo.vmtape")
        _ = try TestGuest("echo", input: "hello\rexit 3\r").record(host, to: path)
        #expect(try Self.kinds(path) == [.input])
        #expect(try Self.rerun(host, path) == "as recorded")
    }

    @Test(
        .enabled(if: sea.isThere, "no \(sea.path): install seabios"),
        arguments: [ClockKind.host, virtual])
    func `SeaBIOS finds its devices as they were`(clock: ClockKind) throws {
        let host = try Host()
        let tape = try Self.sea.record(host, clock) { $0.exitLimit = 3500 }
        #expect(try Self.rerun(host, tape.path) == "as recorded")
    }

    @Test(.enabled(if: bochs.isThere, "no \(bochs.path): install bochsbios"))
    func `the Bochs BIOS finds its devices as they were`() throws {
        let host = try Host()
        let tape = try Self.bochs.record(host, .host)
        #expect(try Self.rerun(host, tape.path) == "as recorded")
    }

    @Test func `devices that answer otherwise are told of`() throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        let path = directory.file("echo.vmtape")
        // Without a world stream the serial port never gets what was typed.
        _ = try TestGuest("echo", input: "hello\rexit 3\r").record(
            host, to: path, limits: { $1.hasWorldStream = false })
        let outcome = try Self.branch(host, path)
        guard case .disagreement(let disagreement) = outcome.verdict else {
            Issue.record("\(outcome.verdict)")
            return
        }
        #expect(disagreement.exitNumber == outcome.report.exitCount)
        #expect(disagreement.what.hasPrefix("port 0x3f"))
        #expect(disagreement.what.contains("from the devices, and the tape has"))
    }

    // MARK: Going live

    @Test(arguments: [ClockKind.host, virtual], [1, 2, 3])
    func `the timer guest runs on to its end, and its new trace replays`(
        clock: ClockKind, quarter: UInt64
    ) throws {
        let host = try Host()
        let tape = try Self.timer.record(host, clock)
        let middle = tape.outcome.report.exitCount * quarter / 4
        let child = tape.directory.file("child.vmtape")
        let console = tape.directory.file("child-console")
        let outcome = try Self.branch(host, tape.path) {
            $0.liveFrom = Position(after: middle)
            $0.consoles.serial = .file(console)
            $0.recording = RecordSession.Recording(path: child)
        }
        guard case .live(let ending) = outcome.verdict else {
            Issue.record("\(outcome.verdict)")
            return
        }
        #expect(ending == Ending(.halted))
        #expect(outcome.summary?.exitCount == outcome.report.exitCount)
        // What was printed on tape is not printed again.
        let printed = String(decoding: Files.read(console) ?? [], as: UTF8.self)
        #expect(printed.hasSuffix("done\n"))
        #expect(!printed.isEmpty && printed.count < tape.console().count)
        #expect(clock == .host || tape.console().hasSuffix(printed))
        let replay = try TestGuest.replay(host, child)
        #expect(replay.word == "identical")
        #expect(replay.verifiedExits == outcome.report.exitCount)
        #expect(try Self.rerun(host, child) == "as recorded")
        // It names where it comes from.
        let reader = try TraceReader(path: child)
        let original = try TraceReader(path: tape.path)
        let parent = try #require(reader.header.parent)
        #expect(parent.name == "guest.vmtape" && parent.identity == original.identity)
        #expect(parent.exit == middle + 1)
        #expect(try parent.digest == original.digests(before: middle + 1).full)
        #expect(reader.header.images == original.header.images)
        // Every tick came, and under the virtual clock the run is the one that was.
        #expect(tape.console().split(separator: "\n").last == "done")
        if clock != .host {
            #expect(
                try reader.digests(before: .max).full == original.digests(before: .max).full)
        }
    }

    @Test func `a live run takes new input from where the old was left`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("irq-echo", input: "hello\n").record(host, .host)
        // Where the first line has come back.
        var cursor = try TraceReader(path: tape.path).events()
        var position: Position?
        while let event = try cursor.next() {
            guard case .exit(let exit) = event, let number = cursor.exitNumber,
                case .io(true, _, 0x3F8, _, let data) = exit.detail,
                cursor.array(data) == [UInt8(ascii: "O")]
            else { continue }
            position = Position(after: number)
            break
        }
        let from = try #require(position)
        let console = tape.directory.file("child-console")
        let child = tape.directory.file("child.vmtape")
        let outcome = try Self.branch(host, tape.path, console: "again\nquit\n") {
            $0.liveFrom = from
            $0.consoles.serial = .file(console)
            $0.recording = RecordSession.Recording(path: child)
        }
        guard case .live(let ending) = outcome.verdict else {
            Issue.record("\(outcome.verdict)")
            return
        }
        #expect(ending == Ending(.halted))
        let printed = String(decoding: Files.read(console) ?? [], as: UTF8.self)
        #expect(printed.contains("AGAIN"))
        #expect(!printed.contains("HELLO"))
        #expect(try TestGuest.replay(host, child).word == "identical")
        #expect(try Self.rerun(host, child) == "as recorded")
    }

    /// A position in the middle of the longest of some spans, near a share of the exits.
    private static func between(
        _ host: borrowing Host, _ path: String, quarter: UInt64
    ) throws -> Position {
        var machine = try TimeMachine(host: host, reader: TraceReader(path: path))
        let first = machine.reader.exitCount * quarter / 4
        var best = Position(exitCount: first)
        for exit in first..<min(first + 12, machine.reader.exitCount) {
            // Where the next exit is, seen from its end.
            _ = try machine.seek(to: Position(exitCount: exit, instructions: 1))
            guard machine.position.exitCount == exit else { continue }
            var last = machine.position
            for _ in 0..<40 {
                _ = try machine.step()
                guard machine.position.exitCount == exit else { break }
                last = machine.position
            }
            let half = Position(exitCount: exit, instructions: last.instructions / 2)
            if half.instructions > best.instructions { best = half }
        }
        return best
    }

    @Test(
        arguments: [
            (timer, ClockKind.host, 1), (timer, ClockKind.host, 2), (timer, virtual, 2),
            (PCGuest.sample("preempted", "60"), ClockKind.host, 2),
            (PCGuest.sample("timer", "30 10"), virtual, 0),
        ] as [(PCGuest, ClockKind, UInt64)])
    func `a run goes live between two exits, and its new trace replays`(
        guest: PCGuest, clock: ClockKind, quarter: UInt64
    ) throws {
        let host = try Host()
        let tape = try guest.record(host, clock)
        let position = try Self.between(host, tape.path, quarter: quarter)
        #expect(position.instructions > 0, "\(position)")
        try Self.leave(host, tape, at: position, clock)
    }

    /// The first exit from a number on that is followed by just one interruption of a kind.
    private static func interruptedExit(
        _ path: String, from first: UInt64, inMidFlight: Bool
    ) throws -> UInt64? {
        var cursor = try TraceReader(path: path).events()
        var found: UInt64?
        var count = 0
        while let event = try cursor.next() {
            switch event {
            case .exit:
                if count == 1, let found { return found }
                (found, count) = (nil, 0)
            case .interruption(_, _, _, let isInMidFlight):
                count += 1
                guard let exit = cursor.exitNumber, exit >= first, isInMidFlight == inMidFlight
                else { continue }
                found = exit
            default: break
            }
        }
        return nil
    }

    @Test(arguments: [ClockKind.host, virtual])
    func `a run goes live right behind an interrupt that came at its exit`(
        clock: ClockKind
    ) throws {
        let host = try Host()
        let tape = try PCGuest.sample("timer", "12 10").record(host, clock)
        let exit = try #require(
            try Self.interruptedExit(tape.path, from: 20, inMidFlight: false))
        for count in [1, 2, 3, 10, 15] as [UInt64] {
            let position = try #require(Position(after: exit, instructions: count))
            let child = try Self.leave(host, tape, at: position, clock)
            #expect(try PCTape.vectors(child.path) == tape.vectors(), "\(position)")
        }
    }

    @Test func `a run goes live before and behind an interrupt in mid-flight`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted", "30").record(host, .host)
        let exit = try #require(
            try Self.interruptedExit(tape.path, from: 10, inMidFlight: true))
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        _ = try machine.seek(to: try #require(Position(after: exit)))
        guard machine.hasCounter, let progress = try machine.tape.landmark()?.progress else {
            return
        }
        let place = progress - machine.spanStart
        for count in [place - 20, place - 1, place, place + 1, place + 2, place + 3, place + 15] {
            let position = try #require(Position(after: exit, instructions: count))
            _ = try machine.seek(to: position)
            #expect(machine.position == position)
            let child = try Self.leave(host, tape, at: position, .host)
            // The guest has counted them.
            let taken = try PCTape.vectors(child.path).count
            #expect(child.printed.hasPrefix("\(taken) ticks, "), "\(position): \(child.printed)")
        }
    }

    @Test(arguments: [(0, 0), (0, 1), (20, 0), (20, 9)] as [(UInt64, UInt64)])
    func `a run goes live in ring 3`(_ first: UInt64, _ steps: UInt64) throws {
        let host = try Host()
        // It faults and writes to a port each round: many stretches of ring 3.
        let tape = try PCGuest.sample("preempted-ring3", "20 3").record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops else { return }
        // An interrupt may have left the guest in ring 3 at an exit, where nothing counts as entered.
        for exit in (12 + first)... {
            _ = try machine.seek(to: Position(exitCount: exit))
            if machine.systemRegisters.cpl == 0 { break }
        }
        for _ in 0..<4000 where machine.position.ring3 != steps { _ = try machine.step() }
        let position = machine.position
        #expect(position.ring3 == steps)
        let child = try Self.leave(host, tape, at: position, .host)
        let taken = try PCTape.vectors(child.path).count
        #expect(child.printed.hasPrefix("\(taken) ticks, "), "\(position): \(child.printed)")
    }

    @Test func `a run goes live behind an interrupt whose place the trace holds`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "12 20").record(host, .host)
        guard tape.outcome.report.midFlight.storedPlaces > 3 else { return }
        let exit = try #require(
            try Self.interruptedExit(tape.path, from: 14, inMidFlight: true))
        let child = try Self.leave(
            host, tape, at: try #require(Position(after: exit + 1, instructions: 5)), .host)
        let taken = try PCTape.vectors(child.path).count
        #expect(child.printed.hasPrefix("\(taken) ticks, "), "\(child.printed)")
    }

    /// Leaves a tape at a place between two exits: the run must come to its end, and its trace must
    /// be good, and the tape's up to there.
    @discardableResult
    private static func leave(
        _ host: borrowing Host, _ tape: PCTape, at position: Position, _ clock: ClockKind
    ) throws -> (path: String, printed: String) {
        let child = tape.directory.file("child-\(position).vmtape")
        let console = tape.directory.file("console-\(position)")
        let outcome = try branch(host, tape.path) {
            $0.liveFrom = position
            $0.consoles.serial = .file(console)
            $0.recording = RecordSession.Recording(path: child)
        }
        guard case .live(let ending) = outcome.verdict else {
            Issue.record("\(position): \(outcome.verdict)")
            return (child, "")
        }
        #expect(ending == Ending(.halted), "\(position)")
        #expect(try TestGuest.replay(host, child).word == "identical", "\(position)")
        #expect(try rerun(host, child) == "as recorded", "\(position)")
        let (reader, original) = (try TraceReader(path: child), try TraceReader(path: tape.path))
        var sights: [Sight] = []
        for path in [tape.path, child] {
            var machine = try TimeMachine(host: host, reader: TraceReader(path: path))
            _ = try machine.seek(to: position)
            sights.append(try Sight(&machine))
        }
        #expect(sights[0] == sights[1], "\(position)")
        if clock != .host {
            #expect(
                try reader.digests(before: .max).full == original.digests(before: .max).full,
                "\(position)")
        }
        return (child, String(decoding: Files.read(console) ?? [], as: UTF8.self))
    }

    @Test func `a run goes live at once, and after its last exit`() throws {
        let host = try Host()
        let tape = try Self.timer.record(host, Self.virtual)
        let count = tape.outcome.report.exitCount
        for position in [Position.begin, Position(exitCount: count)] {
            let outcome = try Self.branch(host, tape.path) { $0.liveFrom = position }
            guard case .live(let ending) = outcome.verdict else {
                Issue.record("\(position): \(outcome.verdict)")
                continue
            }
            #expect(ending == Ending(.halted))
            #expect(outcome.report.exitCount == count)
            #expect(outcome.summary == nil)
        }
    }

    @Test func `a child goes live again`() throws {
        let host = try Host()
        let tape = try Self.timer.record(host, .host)
        let count = tape.outcome.report.exitCount
        var path = tape.path
        for (generation, part) in [3, 2].enumerated() {
            let child = tape.directory.file("child-\(generation).vmtape")
            let from = Position(exitCount: count / UInt64(part))
            let outcome = try Self.branch(host, path) {
                $0.liveFrom = from
                $0.recording = RecordSession.Recording(path: child)
            }
            #expect(outcome.summary != nil, "\(outcome.verdict)")
            #expect(try TestGuest.replay(host, child).word == "identical")
            path = child
        }
    }

    // MARK: What cannot be

    @Test func `what it takes is said where it is missing`() throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        let tape = try Self.timer.record(host, .host)
        func refusal(
            _ path: String, _ prepare: (inout BranchOptions) -> Void
        ) -> String {
            do {
                _ = try Self.branch(host, path, prepare)
                return "none"
            } catch { return "\(error)" }
        }
        let nowhere = refusal(tape.path) { $0.liveFrom = Position("5+99999999") }
        #expect(nowhere.contains("cannot stand at 5+99999999; the next place"), "\(nowhere)")
        let count = tape.outcome.report.exitCount
        let beyond = refusal(tape.path) { $0.liveFrom = Position(after: count) }
        #expect(beyond.contains("there is no exit \(count): the trace has \(count)"))
        // The same trace without its world stream.
        let plain = directory.file("plain.vmtape")
        let reader = try TraceReader(path: tape.path)
        let writer = try TraceWriter(path: plain, header: reader.header)
        _ = try writer.finish(
            EndRecord(
                reason: .halted, registers: GeneralRegisters(), system: SystemRegisters()),
            memory: nil)
        let without = refusal(plain) { $0.liveFrom = .begin }
        #expect(without.contains("has no world stream"))
        #expect(without.contains("--world on"))
    }
}
