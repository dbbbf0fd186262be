import Glibc
import TestSupport
import Testing
import Trace

/// `replay --devices` and `--live-from`, from the command line.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct LiveFromTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("timer.vmtape")
    }

    @Test func `what was killed goes on live to its end`() throws {
        let child = try ChildProcess([
            "record", "-q", "--machine", "pc", "-o", path, Files.sample("timer"), "--", "60", "10",
        ])
        // Two lines of six: it is in the middle of its ticks.
        try child.output.read(untilText: "tick 20 ")
        child.kill(SIGKILL)
        _ = child.wait()
        try child.output.read { _ in false }
        let reader = try TraceReader(path: path)
        #expect(!reader.isComplete && reader.hasWorldStream)

        let devices = try ChildProcess.run(["replay", "--devices", path])
        #expect(devices.ending == .status(0), "\(devices.errors)")
        #expect(devices.errors.contains("every answer is the recording's"), "\(devices.errors)")

        let last = reader.exitCount - 1
        let next = directory.file("next.vmtape")
        let live = try ChildProcess.run([
            "replay", path, "--live-from", "\(last)", "--record", next, "--timeout", "100",
        ])
        #expect(live.ending == .status(0), "\(live.errors)")
        #expect(live.errors.contains("replayed \(last + 1) exits, then ran"), "\(live.errors)")
        // What was printed before is not printed again.
        #expect(live.output.hasSuffix("done\n"), "\(live.output)")
        #expect(!live.output.contains("tick 10 "), "\(live.output)")
        #expect(live.output.contains("tick 50 "), "\(live.output)")

        let replay = try ChildProcess.run(["replay", "--console", next])
        #expect(replay.ending == .status(0), "\(replay.errors)")
        #expect(replay.errors.contains("identical, final registers"), "\(replay.errors)")
        #expect(replay.output.contains("tick 10 ") && replay.output.hasSuffix(live.output))
        let info = try ChildProcess.run(["info", next])
        #expect(info.output.contains("from exit \(last + 1) on"), "\(info.output)")
        #expect(info.output.contains("with a world stream"), "\(info.output)")
    }

    @Test func `what cannot be is said in one line`() throws {
        let record = try ChildProcess.run([
            "record", "-q", "--machine", "pc", "--world", "off", "--serial", "none", "-o", path,
            Files.sample("timer"), "--", "5", "5",
        ])
        #expect(record.ending == .status(0), "\(record.errors)")
        #expect(try !TraceReader(path: path).hasWorldStream)
        for arguments in [["--devices"], ["--live-from", "3"]] {
            let refused = try ChildProcess.run(["replay", path] + arguments)
            #expect(refused.ending == .status(2))
            #expect(refused.errors.contains("has no world stream"), "\(refused.errors)")
            #expect(refused.errors.contains("--world on"), "\(refused.errors)")
            #expect(refused.errors.split(separator: "\n").count == 1, "\(refused.errors)")
        }
        for arguments in [
            ["--record", "x"], ["--input", "x"], ["--live-from", "x"], ["--devices", "--json"],
            ["--live-from", "9", "--max-exits", "10"],
        ] {
            let usage = try ChildProcess.run(["replay", path] + arguments)
            #expect(usage.ending == .status(64), "\(arguments): \(usage.errors)")
        }
    }
}
