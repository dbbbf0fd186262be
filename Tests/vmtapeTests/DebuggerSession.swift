import TestSupport
import Testing

/// gdb, as installed.
enum RealGDB {
    static let path = "/usr/bin/gdb"
    static let isThere = Files.exists(path)
    static let comment: Comment = "needs \(path): apt install gdb"
}

/// What the real gdb said of a trace.
struct DebuggerSession {
    let output: String
    let errors: String
    let lines: [String]

    init(_ result: ChildProcess.Result) {
        output = result.output
        errors = result.errors
        lines = result.output.split(separator: "\n").map(String.init)
    }

    /// What gdb prints on stdout for some commands, line by line; a line of `== WORD` stands before
    /// what ``mark(_:)`` marks.
    init(_ trace: String, _ commands: [String], at position: String = "end") throws {
        let arguments = ["gdb", trace, "--at", position, "--", "-nx", "-batch"]
        // Some of it goes to stderr, and only its order tells to what it belongs. The last command
        // says how gdb ends.
        let result = try ChildProcess.run(
            ["-c", "exec \"$0\" \"$@\" 2>&1", ChildProcess.vmtape] + arguments
                + (commands + [Self.mark("end of session")]).flatMap { ["-ex", $0] },
            program: "/bin/sh", directory: Files.repository)
        #expect(result.ending == .status(0), "\(result.errors)")
        self.init(result)
    }

    /// The lines that hold a text.
    func lines(with text: String) -> [String] { lines.filter { $0.contains(text) } }

    /// The text between two marks.
    func part(_ mark: String) -> String {
        guard let start = output.firstRange(of: "== \(mark)\n") else { return "" }
        let rest = output[start.upperBound...]
        return String(rest.firstRange(of: "== ").map { rest[..<$0.lowerBound] } ?? rest)
    }

    /// What `monitor when` said in a part.
    func position(_ mark: String) -> String? {
        part(mark).split(separator: "\n").first { $0.hasPrefix("position ") }.map(String.init)
    }

    /// The command that marks a place in what gdb prints.
    static func mark(_ word: String) -> String { "echo == \(word)\\n" }
}
