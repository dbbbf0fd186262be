internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Glibc
internal import Trace

struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "Run a recorded guest again, comparing every exit with the recording.",
        discussion: """
            Needs the trace alone. At every exit, reason, instruction, registers and what the \
            guest sent are compared; at the end, all of RAM. Status 0: identical, as far as the \
            trace goes. Status 1: it diverged, and the report says where. Status 2: it cannot be \
            replayed here.
            """)

    @Argument(help: "The trace.")
    var file: String

    @Option(help: ArgumentHelp("Stop after the exit with this number.", valueName: "n"))
    var until: UInt64?

    @Flag(help: "Print what the guest printed, as it is replayed.")
    var console = false

    @Flag(help: "Replay even where this host is known to behave differently.")
    var force = false

    @Option(
        help: ArgumentHelp(
            "The host CPU that the guest runs on; the recording's unless given.", valueName: "n"))
    var cpu: Int?

    @Flag(name: .shortAndLong, help: "No summary; a divergence is still reported.")
    var quiet = false

    @Flag(
        help:
            "One JSON object on stdout: the verdict, schema vmtape.replay/1; with --at, vmtape.state/1."
    )
    var json = false

    @OptionGroup(title: "Standing in the run") var state: StateOptions

    @OptionGroup(title: "Devices and live runs") var live: LiveOptions

    @OptionGroup var symbolOptions: SymbolOptions

    func validate() throws {
        var given: [String] = []
        func note(_ name: String, _ isGiven: Bool) { if isGiven { given.append(name) } }
        note("--until", until != nil)
        note("--console", console)
        note("--json", json)
        try OptionRules(given: given + state.given + live.given).check()
    }

    func run() throws {
        let host = try attempt { () throws(ExecutionError) in try Host() }
        let reader = try TraceFile.open(file)
        for damage in reader.damages { Message.note("\(reader.path): \(damage)") }
        if live.isWanted {
            return try ReplayLive(
                options: live, reader: reader, isForced: force, cpu: cpu,
                isOverwriting: state.overwrite, isQuiet: quiet, printsTapedOutput: console,
                symbolOptions: symbolOptions
            ).run(host)
        }
        if state.isWanted {
            var recorded = try RecordedRun(
                reader, host, state.travel(isForced: force, cpu: cpu), symbolOptions)
            if state.gdb != nil { return try ReplayDebug(state, isQuiet: quiet).run(recorded) }
            return try ReplayAt(options: state, isJSON: json, isQuiet: quiet).run(&recorded)
        }
        var options = ReplayOptions()
        options.until = until
        options.isForced = force
        options.cpu = cpu
        let session = try Self.makeSession(host, reader, options)
        let total = until.map { min($0 &+ 1, reader.exitCount) } ?? reader.exitCount
        let isConsoleOnTerminal = console && isatty(STDOUT_FILENO) == 1
        let status = StatusLine(isWanted: !quiet && !isConsoleOnTerminal)
        let progress = session.progress
        let printer = console ? ConsolePrinter(reader) : nil
        let outcome: ReplayOutcome
        do throws(ExecutionError) {
            outcome = try session.run(
                SessionCallbacks(abort: { _exit(128 + $0) }) { milliseconds in
                    printer?.print(before: progress.exitCount)
                    status.update(milliseconds: milliseconds) {
                        Self.statusText(progress.exitCount, total, milliseconds)
                    }
                })
        } catch {
            status.clear()
            throw CommandFailure(
                status: Status.couldNot,
                "\(error); \(RunText.grouped(progress.exitCount)) exits before that are identical")
        }
        printer?.print(before: outcome.verifiedExits)
        status.clear()
        printer?.tellFailure()
        try tell(outcome, reader)
        if case .diverged = outcome.verdict { throw CommandFailure(status: Status.no) }
    }

    private static func makeSession(
        _ host: borrowing Host, _ reader: TraceReader, _ options: ReplayOptions
    ) throws(CommandFailure) -> ReplaySession {
        do throws(ExecutionError) {
            return try ReplaySession(host: host, reader: reader, options: options)
        } catch { throw CommandFailure.couldNot(error) }
    }

    private static func statusText(
        _ exits: UInt64, _ total: UInt64, _ milliseconds: UInt64
    ) -> String {
        let perSecond = milliseconds == 0 ? 0 : exits * 1000 / milliseconds
        let percent = total == 0 ? 0 : exits * 100 / total
        return "replaying: \(RunText.grouped(exits)) of \(RunText.grouped(total)) exits "
            + "(\(percent) %), \(RunText.grouped(perSecond))/s"
    }

    private func tell(_ outcome: ReplayOutcome, _ reader: TraceReader) throws {
        if json {
            try ReplayText.writeJSON(outcome, reader)
            return
        }
        if case .diverged(let divergence) = outcome.verdict {
            try DivergenceText.tell(divergence, reader, symbolOptions)
        } else if !quiet {
            Message.line(
                "vmtape: replayed \(RunText.grouped(outcome.verifiedExits)) exits in "
                    + "\(RunText.duration(nanoseconds: outcome.report.nanoseconds)): "
                    + ReplayText.verdict(outcome, reader))
            if let line = ReplayText.midFlight(outcome.report.midFlight) { Message.line(line) }
        }
    }
}
