import TestSupport
import Testing

/// The help texts are the manual: a change of one is a change somebody meant.
@Suite struct HelpTests {
    static let commands: [String] = {
        // The root's help lists the commands; so none is forgotten here.
        guard let help = try? ChildProcess.run(["--help"]).output else { return [] }
        let lines = help.split(separator: "\n", omittingEmptySubsequences: false)
        guard let start = lines.firstIndex(of: "SUBCOMMANDS:") else { return [] }
        var names: [String] = []
        for line in lines[(start + 1)...] {
            guard line.hasPrefix("  "), !line.hasPrefix("   ") else { continue }
            guard let name = line.split(separator: " ").first else { continue }
            if name != "See" { names.append(String(name)) }
        }
        return names
    }()

    @Test func `the help of vmtape itself`() throws {
        let result = try ChildProcess.run(["--help"], environment: ["COLUMNS": "80"])
        #expect(result.ending == .status(0))
        #expect(result.errors == "")
        try expectSnapshot(result.output, "help.txt")
    }

    @Test func `all commands of the first version are there`() {
        for name in [
            "run", "record", "replay", "info", "dump", "console", "verify", "doctor",
        ] {
            #expect(Self.commands.contains(name))
        }
    }

    @Test(arguments: commands)
    func `the help of a command`(_ command: String) throws {
        let result = try ChildProcess.run([command, "--help"], environment: ["COLUMNS": "80"])
        #expect(result.ending == .status(0))
        #expect(result.errors == "")
        try expectSnapshot(result.output, "help-\(command).txt")
        // `help COMMAND` is the same manual.
        let other = try ChildProcess.run(["help", command], environment: ["COLUMNS": "80"])
        #expect(other.output == result.output)
    }

    @Test func `the version`() throws {
        let result = try ChildProcess.run(["--version"])
        #expect(result.ending == .status(0))
        #expect(result.output.split(separator: ".").count == 3)
        #expect(result.errors == "")
    }

    @Test(arguments: [
        [], ["frobnicate"], ["run"], ["record"], ["replay"], ["run", "--frobnicate", "x"],
        ["run", "--max-exits", "0", "x"], ["run", "--max-exits", "-1", "x"],
        ["run", "--memory", "lots", "x"], ["run", "--timeout", "soon", "x"],
        ["run", "--kind", "penguin", "x"], ["record", "--timing", "maybe", "x"],
        ["record", "--max-size", "99999999999T", "x"], ["replay", "--until", "x", "y"],
        ["info"], ["dump"], ["dump", "x", "5..3"], ["dump", "x", "abc"], ["console"], ["verify"],
    ])
    func `usage that is none has status 64, and says so on stderr`(_ arguments: [String]) throws {
        let result = try ChildProcess.run(arguments)
        if arguments.isEmpty {
            // Without a command: the manual.
            #expect(result.ending == .status(0))
            return
        }
        #expect(result.ending == .status(64))
        #expect(result.output == "")
        #expect(result.errors.contains("Error:"), "\(result.errors)")
        #expect(result.errors.contains("Usage:"), "\(result.errors)")
    }
}
