import TestSupport
import Testing

/// Options that make no sense together are refused in one line, which names them, before a trace is
/// opened.
struct OptionRuleTests {
    /// What each option of `replay` is given with; flags with nothing.
    private static let values: [String: String] = [
        "--until": "1", "--at": "end", "--gdb": "stdio", "--live-from": "0", "--memory": "0,1",
        "--disassemble": "next", "--core": "/nonexistent/core", "--keyframe-memory": "1M",
        "--keyframe-file": "/nonexistent/keys", "--record": "/nonexistent/t", "--serial": "none",
        "--debug-console": "none", "--input": "/nonexistent/input", "--max-exits": "9",
        "--timeout": "1",
    ]

    private static func refusal(_ options: [String]) throws -> String {
        let words = options.flatMap { [$0] + (values[$0].map { [$0] } ?? []) }
        let result = try ChildProcess.run(["replay", "/nonexistent/trace"] + words)
        // The trace is not there: what the options say comes first.
        guard result.ending == .status(64) else { return "" }
        #expect(result.output == "")
        let line = result.errors.split(separator: "\n").first.map(String.init) ?? ""
        return line
    }

    private static let conflicts: [(one: [String], other: [String])] = [
        (["--at", "--gdb"], ["--until", "--console", "--devices", "--live-from"]),
        (["--devices", "--live-from"], ["--until", "--json"]),
        (["--gdb"], ["--json"]),
        (["--console"], ["--json"]),
        (["--gdb"], ["--regs", "--memory", "--disassemble", "--backtrace", "--core"]),
    ]

    @Test func `two that do not go together`() throws {
        for rule in Self.conflicts {
            for one in rule.one {
                for other in rule.other {
                    let line = try Self.refusal([one, other])
                    #expect(line.contains(one) && line.contains(other), "\(one) \(other): \(line)")
                    #expect(line.contains("do not go together"))
                }
            }
        }
        let line = try Self.refusal(["--at", "--keep-keyframes", "--keyframe-file"])
        #expect(line.contains("--keep-keyframes and --keyframe-file do not go together"))
    }

    private static let needs: [(options: [String], of: [String])] = [
        (["--regs", "--memory", "--disassemble", "--backtrace", "--core"], ["--at"]),
        (["--overwrite"], ["--core", "--record"]),
        (["--keyframe-memory", "--keep-keyframes", "--keyframe-file"], ["--at", "--gdb"]),
        (
            ["--record", "--serial", "--debug-console", "--input", "--max-exits", "--timeout"],
            ["--live-from"]
        ),
    ]

    @Test func `one that is nothing alone`() throws {
        for rule in Self.needs {
            for option in rule.options {
                let line = try Self.refusal([option])
                #expect(
                    line.contains("\(option) goes with \(rule.of.joined(separator: " or "))"),
                    "\(option): \(line)")
            }
        }
    }

    @Test func `what does go together is not refused`() throws {
        for options in [
            ["--at", "--json", "--regs"], ["--at", "--gdb", "--keyframe-memory"],
            ["--live-from", "--console", "--record", "--overwrite", "--timeout"],
            ["--devices", "--console"], ["--until", "--console"], ["--until", "--json"],
            ["--at", "--core", "--overwrite", "--keep-keyframes"],
        ] { #expect(try Self.refusal(options) == "", "\(options)") }
    }

    @Test(arguments: [
        "-1", "1+", "+1", "101%", "%", "1.2345%", "1.%", "1..2%", "1%+3", "99999%", "ende",
        "begin-1",
    ])
    func `what is no position`(_ text: String) throws {
        let result = try ChildProcess.run(["replay", "/nonexistent/trace", "--at=\(text)"])
        #expect(result.ending == .status(64), "\(text): \(result.errors)")
    }
}
