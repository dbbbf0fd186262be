internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Glibc
internal import Trace

struct DiffCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Say where two runs part, and why.",
        discussion: """
            First what differs before any exit (machine, CPUID, images, command line). Then the \
            first exit that differs, found by binary search over the traces' running digests, \
            with both sides and the exits before. Then the first input that differed: the cause, \
            where the rest is effect. Then whether the runs meet again.

            --by full compares everything; --by symbol compares function and offset in place of \
            addresses, for two builds of one guest; --by io compares what the guest did to the \
            outside. Status 0: the same. Status 1: they differ, or one is the beginning of the \
            other. Status 2: they cannot be compared.
            """)

    @Argument(help: "A trace.")
    var a: String

    @Argument(help: "Another trace.")
    var b: String

    @Option(help: ArgumentHelp("What counts as different.", valueName: "full|symbol|io"))
    var by: DiffLevelOption = .init(.full)

    @Option(
        help: ArgumentHelp("How many exits before the first difference are shown.", valueName: "n"))
    var context = 5

    @Option(
        help: ArgumentHelp(
            "How many exits after it are looked through for where the runs meet again.",
            valueName: "n"))
    var window = 2000

    @Flag(help: "One JSON object, schema vmtape.diff/1.")
    var json = false

    @OptionGroup var symbolOptions: SymbolOptions

    func validate() throws {
        guard (0...1000).contains(context) else {
            throw ValidationError("--context takes a number from 0 to 1000.")
        }
        guard (0...100_000).contains(window) else {
            throw ValidationError("--window takes a number from 0 to 100000.")
        }
    }

    func run() throws {
        let readerA = try TraceFile.open(a)
        let readerB = try TraceFile.open(b)
        let namesA = try symbolOptions.makeNames(TraceSources(readerA))
        let namesB = try symbolOptions.makeNames(TraceSources(readerB))
        let status = StatusLine()
        let start = Supervisor.milliseconds()
        let result = TraceDiff.compare(
            readerA, readerB,
            options: .init(level: by.value, context: context, window: window), namesA: namesA,
            namesB: namesB
        ) { exits in
            status.update(milliseconds: Supervisor.milliseconds() - start) {
                "comparing: \(RunText.grouped(exits)) exits"
            }
            return true
        }
        status.clear()
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        if json {
            result.writeJSON(to: stream, pathA: readerA.path, pathB: readerB.path)
        } else {
            let terminal = Terminal(STDOUT_FILENO)
            result.write(
                to: stream, style: TextStyle(width: terminal.width, hasColour: terminal.hasColour),
                pathA: readerA.path, pathB: readerB.path, namesA: namesA, namesB: namesB)
        }
        try stream.finish()
        switch result.outcome {
        case .same: break
        case .prefix, .diverged: throw CommandFailure(status: Status.no)
        case .unreadable: throw CommandFailure(status: Status.couldNot)
        }
    }
}

/// `--by` of diff.
struct DiffLevelOption: ExpressibleByArgument {
    let value: DiffLevel
    init(_ value: DiffLevel) { self.value = value }
    init?(argument: String) {
        guard let value = DiffLevel(rawValue: argument) else { return nil }
        self.value = value
    }
    var defaultValueDescription: String { value.rawValue }
    static var allValueStrings: [String] { DiffLevel.allCases.map(\.rawValue) }
}
