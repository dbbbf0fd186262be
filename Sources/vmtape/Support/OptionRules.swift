internal import ArgumentParser

/// Which options of a command make no sense together, and which none alone: one table for all.
struct OptionRules {
    /// The options that were given, by name.
    let given: [String]

    /// Pairs of which at most one may be given, and why.
    private static let conflicts: [(one: [String], other: [String], why: String)] = [
        (
            ["--at", "--gdb"], ["--until", "--console"],
            "one stands in the run, the other is for a replay that runs through"
        ),
        (
            ["--at", "--gdb"], ["--devices", "--live-from"],
            "one stands in the run, the other runs its devices"
        ),
        (
            ["--devices", "--live-from"], ["--until", "--json"],
            "the other is for replays without devices"
        ),
        (["--gdb"], ["--json"], "what is shown is the debugger's"),
        (["--console"], ["--json"], "both are written to stdout"),
        (
            ["--gdb"], ["--regs", "--memory", "--disassemble", "--backtrace", "--core"],
            "the debugger shows the machine"
        ),
        (["--keep-keyframes"], ["--keyframe-file"], "both name a file"),
    ]

    /// Options that go with one of others.
    private static let needs: [(options: [String], oneOf: [String])] = [
        (["--regs", "--memory", "--disassemble", "--backtrace", "--core"], ["--at"]),
        (["--overwrite"], ["--core", "--record"]),
        (["--keyframe-memory", "--keep-keyframes", "--keyframe-file"], ["--at", "--gdb"]),
        (
            ["--record", "--serial", "--debug-console", "--input", "--max-exits", "--timeout"],
            ["--live-from"]
        ),
    ]

    /// Throws one line about the first rule that is broken.
    func check() throws {
        for rule in Self.conflicts {
            guard let one = rule.one.first(where: given.contains),
                let other = rule.other.first(where: given.contains)
            else { continue }
            throw ValidationError("\(one) and \(other) do not go together: \(rule.why).")
        }
        for rule in Self.needs {
            guard let option = rule.options.first(where: given.contains),
                !rule.oneOf.contains(where: given.contains)
            else { continue }
            throw ValidationError("\(option) goes with \(rule.oneOf.joined(separator: " or ")).")
        }
    }
}

extension KeyframeOptions {
    /// The options that were given.
    var given: [String] {
        [
            ("--keyframe-memory", memoryGiven != nil), ("--keep-keyframes", keepKeyframes),
            ("--keyframe-file", keyframeFile != nil),
        ].filter(\.1).map(\.0)
    }
}

extension StateOptions {
    /// The options that were given.
    var given: [String] {
        [
            ("--at", at != nil), ("--regs", regs), ("--memory", !memory.isEmpty),
            ("--disassemble", disassemble != nil), ("--backtrace", backtrace),
            ("--core", core != nil), ("--overwrite", overwrite), ("--gdb", gdb != nil),
        ].filter(\.1).map(\.0) + keyframes.given
    }
}

extension LiveOptions {
    /// The options that were given.
    var given: [String] {
        [
            ("--devices", devices), ("--live-from", liveFrom != nil), ("--record", record != nil),
            ("--serial", serialGiven != nil), ("--debug-console", debugConsole != nil),
            ("--input", input != nil), ("--max-exits", maxExits != nil),
            ("--timeout", timeout != nil),
        ].filter(\.1).map(\.0)
    }
}
