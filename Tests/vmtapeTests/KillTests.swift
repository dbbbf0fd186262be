import Analysis
import Glibc
import TestSupport
import Testing
import Trace

/// SIGKILL at any moment of a recording: what had been encoded is there.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct KillTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("killed.vmtape")
    }

    /// The guests, by loops between two exits: hundreds of thousands of exits a second, and few.
    /// Each counts its exits itself, a newline each.
    private static let rounds: [UInt16] = [1, 200, 20_000]

    /// Starts a recording of the counting guest.
    private func start(_ rounds: UInt16, _ options: [String] = []) throws -> ChildProcess {
        let image = directory.file("count.bin")
        try Files.write(image, countingGuest(rounds: rounds))
        return try ChildProcess(["record", "-q", "-o", path] + options + [image])
    }

    /// What the trace says the guest printed: a newline an exit.
    private static func printed(_ reader: TraceReader) throws -> Int {
        var console = ConsoleExtractor(machine: reader.header.machine)
        var cursor = try reader.events()
        while let event = try cursor.next() {
            guard case .exit(let exit) = event,
                case .io(true, let size, let port, _, let data) = exit.detail
            else { continue }
            console.add(port: port, size: size, data: cursor.array(data).span)
        }
        return console.output.count
    }

    /// Kills at a random moment; 15 in all.
    @Test(arguments: rounds, 0..<5)
    func `every exit that had been encoded is readable`(rounds: UInt16, _ round: Int) throws {
        let child = try start(rounds)
        // The recording is under way once the guest has been seen to print.
        try child.output.read { !$0.bytes.isEmpty }
        // Then any moment will do.
        let until = Int.random(in: 0...(rounds > 1000 ? 15 : 20_000))
        try child.output.read { $0.bytes.count > until }
        child.kill(SIGKILL)
        #expect(child.wait() == .signal(SIGKILL))
        try child.output.read { _ in false }
        // What was seen on the pipe had been sent by exits that were recorded before.
        let seen = child.output.bytes.count

        #expect(!Files.exists(path))
        let partial = path + ".partial"
        #expect(Files.mode(partial) == 0o600)
        let reader = try TraceReader(path: partial)
        #expect(!reader.isComplete)
        #expect(reader.damages.isEmpty, "\(reader.damages)")
        // At most one exit is encoded and not yet printed.
        #expect(reader.exitCount >= UInt64(seen), "\(reader.exitCount) of \(seen)")
        #expect(reader.exitCount <= UInt64(seen) + 1, "\(reader.exitCount) of \(seen)")
        #expect(try Self.printed(reader) == Int(reader.exitCount))
        let report = reader.verify()
        #expect(report.isSound)
        #expect(report.readableExits == reader.exitCount)
    }

    @Test func `replay, verify and info of what was killed say that it is incomplete`() throws {
        let child = try start(200)
        try child.output.read { $0.bytes.count > 9000 }
        child.kill(SIGKILL)
        _ = child.wait()
        try child.output.read { _ in false }
        let exits = try TraceReader(path: path + ".partial").exitCount
        // The name of the complete trace will do.
        let replay = try ChildProcess.run(["replay", path])
        #expect(replay.ending == .status(0), "\(replay.errors)")
        #expect(replay.errors.contains("incomplete"), "\(replay.errors)")
        let json = try ChildProcess.run(["replay", "--json", path])
        #expect(json.output.contains("\"verified_exits\":\(exits)"), "\(json.output)")
        let verify = try ChildProcess.run(["verify", path])
        #expect(verify.ending == .status(0), "\(verify.output)\(verify.errors)")
        #expect(verify.output.contains("incomplete"), "\(verify.output)")
        let verifyJSON = try ChildProcess.run(["verify", "--json", path])
        #expect(verifyJSON.output.contains("\"readable_exits\":\(exits)"), "\(verifyJSON.output)")
        #expect(verifyJSON.output.contains("\"complete\":false"))
        let last = try ChildProcess.run(["dump", path, "\(exits - 1)"])
        #expect(last.ending == .status(0))
        #expect(last.output.contains("0xe9"), "\(last.output)")
        let console = try ChildProcess.run(["console", path])
        #expect(console.output.utf8.count == Int(exits))
    }

    @Test func `without the side file, the blocks in the trace are left`() throws {
        let child = try start(1)
        // Several cells: 4096 exits each.
        try child.output.read { $0.bytes.count > 30_000 }
        child.kill(SIGKILL)
        _ = child.wait()
        let partial = path + ".partial"
        let whole = try TraceReader(path: partial)
        let inTail = try (0..<whole.eventBlockCount).filter {
            try whole.summary(ofBlock: $0).isInTail
        }
        let before = try inTail.first.map { try whole.summary(ofBlock: $0).firstExit }
        let left = before ?? whole.exitCount
        let side = Files.names(in: directory.path).filter {
            $0.hasPrefix("killed.vmtape.partial") && $0 != "killed.vmtape.partial"
        }
        #expect(side.count == 1)
        for name in side { Files.remove(directory.file(name)) }
        let reader = try TraceReader(path: partial)
        #expect(reader.exitCount == left)
        #expect(reader.verify().isSound)
        // Blocks are written as they fill: at most the ring's 16 and the open one are lost.
        #expect(whole.exitCount - left <= 17 * 4096)
        let replay = try ChildProcess.run(["replay", partial])
        #expect(replay.ending == .status(0), "\(replay.errors)")
    }

    @Test func `a guest that computes long between exits loses none`() throws {
        let child = try ChildProcess(
            [
                "record", "-q", "--serial", "none", "-o", path, Files.sample("slow"), "--",
                "100000", "200",
            ], errors: .pipe)
        // Nothing is printed: the recording is watched from outside.
        let partial = path + ".partial"
        var seen: UInt64 = 0
        while seen < 40 {
            if let reader = try? TraceReader(path: partial) { seen = max(seen, reader.exitCount) }
            sched_yield()
        }
        child.kill(SIGKILL)
        #expect(child.wait() == .signal(SIGKILL))
        let reader = try TraceReader(path: partial)
        #expect(reader.exitCount >= seen)
        #expect(reader.verify().isSound)
        let replay = try ChildProcess.run(["replay", partial])
        #expect(replay.ending == .status(0), "\(replay.errors)")
        #expect(replay.errors.contains("incomplete"), "\(replay.errors)")
    }

    @Test func `what was killed is not written over, but can be by force`() throws {
        let child = try start(200)
        try child.output.read { $0.bytes.count > 100 }
        let other = try ChildProcess.run(["record", "--force", "-o", path, Files.sample("add")])
        other.expectOneLine("being recorded")
        child.kill(SIGKILL)
        _ = child.wait()
        let refused = try ChildProcess.run(["record", "-o", path, Files.sample("add")])
        refused.expectOneLine("--force", "partial")
        let forced = try ChildProcess.run(["record", "--force", "-o", path, Files.sample("add")])
        #expect(forced.ending == .status(0), "\(forced.errors)")
        #expect(Files.names(in: directory.path) == ["count.bin", "killed.vmtape"])
    }
}
