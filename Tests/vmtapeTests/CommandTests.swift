import Glibc
import TestSupport
import Testing

/// Commands as they are used: data on stdout, the rest on stderr, statuses.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct CommandTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("t.vmtape")
    }

    /// A real-mode guest from bytes.
    private func guest(_ code: [UInt8]) throws -> String {
        let path = directory.file("guest.bin")
        try Files.write(path, code)
        return path
    }

    // MARK: Streams

    @Test func `run prints what the guest prints, and nothing else`() throws {
        let result = try ChildProcess.run(["run", Files.sample("add")])
        #expect(result.ending == .status(0))
        #expect(result.output == "4\n")
        #expect(result.errors == "")
    }

    @Test func `a summary goes to stderr`() throws {
        let result = try ChildProcess.run(["run", "--summary", Files.sample("add")])
        #expect(result.output == "4\n")
        #expect(result.errorLines.count == 1)
        #expect(result.errors.contains("3 exits"))
        #expect(result.errors.contains("halted"))
    }

    @Test func `record, replay, and every reading command`() throws {
        let record = try ChildProcess.run(
            ["record", "-o", path, Files.sample("swift-kernel"), "--", "5"])
        #expect(record.ending == .status(0))
        #expect(record.errorLines.count == 1, "\(record.errors)")
        #expect(record.errors.contains("t.vmtape"))
        let replay = try ChildProcess.run(["replay", path])
        #expect(replay.ending == .status(0))
        #expect(replay.output == "")
        #expect(replay.errorLines.count == 1)
        #expect(replay.errors.contains("identical"))
        let again = try ChildProcess.run(["replay", "--console", "-q", path])
        #expect(again.ending == .status(0))
        #expect(again.output == record.output)
        #expect(again.errors == "")
        let console = try ChildProcess.run(["console", path])
        #expect(console.output == record.output)
        for command in [["info"], ["dump"], ["verify"], ["dump", "--json"], ["info", "--json"]] {
            let result = try ChildProcess.run([command[0], path] + command.dropFirst())
            #expect(result.ending == .status(0))
            #expect(result.errors == "")
            #expect(!result.output.isEmpty)
            #expect(!result.output.contains("\u{1B}"), "colour without a terminal")
        }
        let lines = try ChildProcess.run(["dump", "--json", path]).output
            .split(separator: "\n")
        #expect(lines.allSatisfy { $0.hasPrefix("{\"schema\":\"vmtape.exit/1\"") })
        #expect(lines.count == 231)
        let one = try ChildProcess.run(["dump", path, "3"])
        let numbered = one.output.split(separator: "\n")
            .filter { $0.split(separator: " ").first.flatMap { Int($0) } != nil }
        #expect(numbered.count == 1, "\(one.output)")
        #expect(numbered.first?.split(separator: " ").first == "3")
    }

    @Test func `a trace that is moved replays, from itself alone`() throws {
        let image = directory.file("kernel")
        try Files.write(image, try #require(Files.read(Files.sample("swift-kernel"))))
        #expect(
            try ChildProcess.run(["record", "-q", "-o", path, image]).ending == .status(0))
        Files.remove(image)
        let moved = directory.file("moved.vmtape")
        // SAFETY: Swift passes NUL-terminated strings for the call.
        _ = unsafe rename(path, moved)
        #expect(try ChildProcess.run(["replay", moved], directory: "/").ending == .status(0))
    }

    @Test func `a replay tells programs what came of it`() throws {
        let trace = "\(Files.repository)/traces/swift-kernel.vmtape"
        let result = try ChildProcess.run(["replay", "--json", trace])
        #expect(result.ending == .status(0), "\(result.errors)")
        #expect(
            result.output.contains(#"{"schema":"vmtape.replay/1""#)
                && result.output.contains(#""verdict":"identical","verified_exits":"#),
            "\(result.output)")
        #expect(
            result.output.contains(
                #""mid_flight":{"landmarks":0,"hits":0,"rejected_hits":0,"coasts":0,"steps":0,"#
                    + #""ring3_stops":0,"stored_places":0,"repairs":0}"#), "\(result.output)")
    }

    @Test func `a trace has a name of its own where none is given`() throws {
        let add = Files.sample("add")
        for _ in 0..<2 {
            let result = try ChildProcess.run(["record", "-q", add], directory: directory.path)
            #expect(result.ending == .status(0), "\(result.errors)")
            #expect(result.output == "4\n")
            #expect(result.errors == "")
        }
        #expect(Files.names(in: directory.path) == ["add-2.vmtape", "add.vmtape"])
    }

    @Test func `doctor speaks to people and to programs`() throws {
        let text = try ChildProcess.run(["doctor"])
        #expect(text.ending == .status(0))
        #expect(text.errors == "")
        #expect(text.output.contains("kvm."))
        let json = try ChildProcess.run(["doctor", "--json"])
        #expect(json.ending == .status(0))
        let lines = json.output.split(separator: "\n")
        #expect(!lines.isEmpty)
        #expect(lines.allSatisfy { $0.hasPrefix("{\"schema\":\"vmtape.doctor/1\"") })
        // A heading stands before the instructions that are not recorded.
        #expect(lines.count == text.output.split(separator: "\n").count - 1)
        #expect(lines.contains { $0.contains("\"name\":\"hidden-input.") })
    }

    @Test func `a reader that goes away ends the writer quietly`() throws {
        _ = try ChildProcess.run(["record", "-q", "-o", path, Files.sample("mmio")])
        let result = try ChildProcess.run(
            ["-c", "\"$0\" dump \"$1\" | head -n 1", ChildProcess.vmtape, path],
            program: "/bin/sh")
        #expect(result.ending == .status(0))
        #expect(result.output.split(separator: "\n").count == 1)
        #expect(result.errors == "", "\(result.errors)")
    }

    // MARK: Statuses

    @Test func `the guest's own status, where it is asked for`() throws {
        let script = directory.file("script")
        try Files.write(script, Array("exit 3\r".utf8))
        let with = try ChildProcess.run(
            ["run", "--guest-status", "--input", script, Files.sample("echo")])
        #expect(with.ending == .status(7))
        let without = try ChildProcess.run(["run", "--input", script, Files.sample("echo")])
        #expect(without.ending == .status(0))
        // A guest that gives none did not succeed, unless it halted.
        let halted = try ChildProcess.run(["run", "--guest-status", Files.sample("add")])
        #expect(halted.ending == .status(0))
        let dead = try ChildProcess.run(["run", "--guest-status", Files.sample("triple-fault")])
        #expect(dead.ending == .status(1))
        let late = try ChildProcess.run(
            ["run", "--guest-status", "--max-exits", "5", Files.sample("poll")])
        #expect(late.ending == .status(1))
    }

    @Test func `a triple fault is reported with its place`() throws {
        let result = try ChildProcess.run(["run", Files.sample("triple-fault")])
        #expect(result.errors.contains("triple fault"), "\(result.errors)")
        #expect(result.errors.contains("rip"), "\(result.errors)")
        #expect(result.output.contains("round 31"))
    }

    @Test func `limits end a run in good order, and say so`() throws {
        for (options, word) in [
            (["--max-exits", "100"], "--max-exits"), (["--timeout", "100ms"], "--timeout"),
            (["--max-size", "20K"], "--max-size"),
        ] {
            let file = directory.file("limit\(word).vmtape")
            let result = try ChildProcess.run(
                ["record", "--serial", "none", "-o", file] + options
                    + [guest(pollingGuest)])
            #expect(result.ending == .status(0), "\(result.errors)")
            #expect(result.errors.contains("stopped by \(word)"), "\(result.errors)")
            let replay = try ChildProcess.run(["replay", file])
            #expect(replay.ending == .status(0), "\(replay.errors)")
        }
    }

    @Test func `a guest that never exits is ended by the timeout, and replays`() throws {
        let result = try ChildProcess.run(
            ["record", "--timeout", "50ms", "-o", path, guest([0xEB, 0xFE])])
        #expect(result.ending == .status(0))
        #expect(result.errors.contains("--timeout"), "\(result.errors)")
        let replay = try ChildProcess.run(["replay", path])
        #expect(replay.ending == .status(0), "\(replay.errors)")
    }

    @Test func `what no device claims is told`() throws {
        let result = try ChildProcess.run(["run", Files.sample("mmio")])
        #expect(result.errors.contains("0xd0000000"), "\(result.errors)")
    }

    // MARK: Signals

    /// Starts a recording of a guest that waits for input for ever, and waits until it runs.
    private func startPolling(_ options: [String] = []) throws -> ChildProcess {
        let child = try ChildProcess(
            ["record", "-o", path] + options + [guest(pollingGuest)], input: .pipe)
        try child.output.read(untilText: "!")
        return child
    }

    @Test(arguments: [SIGINT, SIGTERM])
    func `a first signal ends the run and completes the trace`(_ signal: Int32) throws {
        let child = try startPolling()
        child.kill(signal)
        try child.errors.read { _ in false }
        #expect(child.wait() == .status(0))
        #expect(child.errors.text.contains("stopped by you"), "\(child.errors.text)")
        #expect(Files.exists(path))
        #expect(!Files.exists(path + ".partial"))
        #expect(try ChildProcess.run(["replay", path]).ending == .status(0))
    }

    @Test func `a second signal aborts, and leaves what was recorded`() throws {
        // The guest does not exit, so the first signal waits out its grace.
        let image = directory.file("spin.bin")
        try Files.write(image, [0xB0, 0x0A, 0xE6, 0xE9, 0xEB, 0xFE])
        let child = try ChildProcess(["record", "-o", path, image])
        try child.output.read { !$0.bytes.isEmpty }
        // It is beyond that exit when it computes.
        try child.waitForProcessorTime()
        child.kill(SIGINT)
        child.kill(SIGTERM)
        // Two different signals are not merged into one, as two of a kind would be.
        try child.errors.read { _ in false }
        let ending = child.wait()
        #expect(ending == .status(128 + SIGTERM) || ending == .status(128 + SIGINT), "\(ending)")
        #expect(!Files.exists(path))
        let verify = try ChildProcess.run(["verify", "--json", path])
        #expect(verify.ending == .status(0), "\(verify.errors)")
        #expect(verify.output.contains("\"readable_exits\":1"), "\(verify.output)")
    }

    @Test func `a guest that computes for ever is ended by a signal too`() throws {
        let image = directory.file("spin.bin")
        try Files.write(image, [0xB0, 0x0A, 0xE6, 0xE9, 0xEB, 0xFE])
        let child = try ChildProcess(["record", "-o", path, image])
        try child.output.read { !$0.bytes.isEmpty }
        // It is beyond that exit when it computes.
        try child.waitForProcessorTime()
        child.kill(SIGINT)
        try child.errors.read { _ in false }
        #expect(child.wait() == .status(0))
        #expect(child.errors.text.contains("between two exits"), "\(child.errors.text)")
        #expect(try ChildProcess.run(["replay", path]).ending == .status(0))
    }

    @Test func `a replay is ended by a signal`() throws {
        // A trace that takes some seconds to replay.
        _ = try ChildProcess.run(
            [
                "record", "-q", "--serial", "none", "--max-exits", "3000000", "--timeout", "2",
                "-o", path, guest(pollingGuest),
            ])
        let child = try ChildProcess(["replay", "--console", path])
        try child.output.read(untilText: "!")
        child.kill(SIGINT)
        try child.errors.read { _ in false }
        #expect(child.wait() == .status(0))
        #expect(child.errors.text.contains("vmtape: replayed"), "\(child.errors.text)")
    }
}
