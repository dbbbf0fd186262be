import Glibc
import TestSupport
import Testing

/// vmtape on a terminal.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TerminalTests {
    private let directory: TemporaryDirectory
    private let path: String
    private let terminal: PseudoTerminal

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("t.vmtape")
        terminal = try PseudoTerminal(columns: 90)
    }

    /// Starts vmtape with all three streams on the terminal.
    private func start(
        _ arguments: [String], environment: [String: String] = [:],
        output: ChildProcess.Stream? = nil
    ) throws -> ChildProcess {
        try ChildProcess(
            arguments, input: .descriptor(terminal.terminal),
            output: output ?? .descriptor(terminal.terminal),
            errors: .descriptor(terminal.terminal),
            environment: ["TERM": "xterm"].merging(environment) { $1 })
    }

    /// Waits for its end; all it wrote.
    private func finish(_ child: ChildProcess) throws -> ChildProcess.Ending {
        terminal.closeTerminal()
        try terminal.screen.read { _ in false }
        return child.wait()
    }

    @Test func `the console is raw, answers what is typed, and is given back`() throws {
        let child = try start(["run", Files.sample("echo")])
        try terminal.screen.read(untilText: "> ")
        #expect(terminal.isRaw)
        terminal.type("tape\r")
        try terminal.screen.read(untilText: "EPAT")
        terminal.type("quit\r")
        #expect(child.wait() == .status(0))
        #expect(!terminal.isRaw)
        _ = try finish(child)
    }

    @Test func `Ctrl-A X leaves, completes the trace, and gives the terminal back`() throws {
        let child = try start(["record", "-o", path, Files.sample("echo")])
        try terminal.screen.read(untilText: "> ")
        // Ctrl-C is the guest's.
        terminal.type("\u{3}")
        terminal.type("hi\u{1}x")
        #expect(child.wait() == .status(0))
        #expect(!terminal.isRaw)
        _ = try finish(child)
        #expect(terminal.screen.text.contains("stopped by you"))
        #expect(Files.exists(path))
        let replay = try ChildProcess.run(["replay", path])
        #expect(replay.ending == .status(0), "\(replay.errors)")
    }

    @Test func `Ctrl-A H helps`() throws {
        let child = try start(["run", Files.sample("echo")])
        try terminal.screen.read(untilText: "> ")
        terminal.type("\u{1}h")
        try terminal.screen.read(untilText: "Ctrl-A")
        terminal.type("\u{1}x")
        _ = child.wait()
        _ = try finish(child)
    }

    @Test func `a signal that ends vmtape gives the terminal back`() throws {
        let child = try start(["run", Files.sample("echo")])
        try terminal.screen.read(untilText: "> ")
        #expect(terminal.isRaw)
        child.kill(SIGTERM)
        #expect(child.wait() == .status(0))
        #expect(!terminal.isRaw)
        _ = try finish(child)
    }

    /// A guest that polls for ever, quietly.
    private func polling() throws -> String {
        let image = directory.file("poll.bin")
        try Files.write(image, pollingGuest)
        return image
    }

    @Test func `a status line shows how far a recording is, and goes`() throws {
        let child = try start(["record", "--serial", "none", "-o", path, polling()])
        try terminal.screen.read(untilText: "bytes/exit")
        try terminal.screen.read { $0.text.components(of: "recording:") >= 3 }
        child.kill(SIGINT)
        #expect(try finish(child) == .status(0))
        let text = terminal.screen.text
        #expect(text.contains("recording: "))
        #expect(text.contains("/s, "))
        // It is rewritten in place and taken away: one line is left, the summary.
        #expect(text.components(of: "\r\u{1B}[K") >= 4)
        let left = text.split(separator: "\n").map(Self.visible)
        #expect(left.count == 1, "\(left)")
        #expect(left.first?.hasPrefix("vmtape: recorded ") == true, "\(left)")
        // Never wider than the terminal.
        for piece in text.split(separator: "\u{1B}") where piece.contains("recording:") {
            #expect(piece.count <= 92)
        }
    }

    @Test func `a status line of a replay, and none where it is not wanted`() throws {
        _ = try ChildProcess.run(
            [
                "record", "-q", "--serial", "none", "--timeout", "1500ms", "-o", path, polling(),
            ])
        let child = try start(["replay", path])
        #expect(try finish(child) == .status(0))
        #expect(terminal.screen.text.contains("replaying: "))
        #expect(terminal.screen.text.contains(" %)"))
        let left = terminal.screen.text.split(separator: "\n").map(Self.visible)
        #expect(left.count == 1, "\(left)")
        #expect(left.first?.contains("identical") == true, "\(left)")

        let quiet = try PseudoTerminal()
        let other = try ChildProcess(
            ["replay", "-q", path], errors: .descriptor(quiet.terminal))
        quiet.closeTerminal()
        try quiet.screen.read { _ in false }
        #expect(other.wait() == .status(0))
        #expect(quiet.screen.text == "")
    }

    @Test func `colour on a terminal, and none under NO_COLOR or where TERM is dumb`() throws {
        for (environment, hasColour) in [
            ([:], true), (["NO_COLOR": "1"], false), (["NO_COLOR": ""], true),
            (["TERM": "dumb"], false),
        ] as [([String: String], Bool)] {
            let screen = try PseudoTerminal()
            let child = try ChildProcess(
                ["replay", directory.file("none")], errors: .descriptor(screen.terminal),
                environment: ["TERM": "xterm"].merging(environment) { $1 })
            screen.closeTerminal()
            try screen.screen.read { _ in false }
            #expect(child.wait() == .status(2))
            #expect(screen.screen.text.contains("\u{1B}[") == hasColour, "\(environment)")
            #expect(screen.screen.text.contains("none"))
        }
    }

    /// What is left on the screen of a line that was rewritten.
    private static func visible(_ line: Substring) -> String {
        let pieces = line.split(separator: "\r", omittingEmptySubsequences: true)
        var text = String(pieces.last { !$0.isEmpty && $0 != "\u{1B}[K" } ?? "")
        while text.hasPrefix("\u{1B}[K") { text.removeFirst(3) }
        return text
    }
}

extension String {
    /// How often a text occurs.
    func components(of wanted: String) -> Int {
        let (all, pattern) = (Array(utf8), Array(wanted.utf8))
        guard !pattern.isEmpty, all.count >= pattern.count else { return 0 }
        return (0...(all.count - pattern.count)).count {
            all[$0] == pattern[0] && all[$0..<$0 + pattern.count] == pattern[...]
        }
    }
}
