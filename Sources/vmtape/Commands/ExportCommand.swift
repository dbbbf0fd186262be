internal import Analysis
internal import ArgumentParser
internal import Glibc
internal import Trace

struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write exits in the form of another tool.",
        discussion: """
            jsonl: JSON Lines of schema vmtape.exit/1, as dump --json. csv: one row an exit, for \
            DuckDB, pandas, Spark. perfetto: a trace for ui.perfetto.dev, exits on tracks by \
            reason with guest and VMM time, the console's lines, counters. folded: stacks by \
            symbol for flame graphs. cast: the console as asciicast v2, for asciinema.
            """)

    @Argument(help: "The trace.")
    var file: String

    @Argument(help: "Which exits; all unless given.")
    var range: ExitRange?

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp(
            "The form.", valueName: ExportFormat.allCases.map(\.rawValue).joined(separator: "|")))
    var format: FormatOption

    @Option(
        name: .shortAndLong, help: ArgumentHelp("Where to; stdout unless given.", valueName: "file")
    )
    var output: String?

    @Option(help: ArgumentHelp("Only exits for which this holds.", valueName: "expr"))
    var filter: String?

    @Option(
        help: ArgumentHelp(
            "Registers of each exit: none, those that changed, or all (jsonl, csv).",
            valueName: "none|changed|all"))
    var regs: DumpCommand.RegisterOption = .none

    @Option(help: ArgumentHelp("What folded stacks sum instead of exits.", valueName: "vmm|guest"))
    var time: TimeOption?

    @OptionGroup var symbolOptions: SymbolOptions

    func run() throws {
        let reader = try TraceFile.open(file)
        let query = try ExitQuery(filter: filter, range: range)
        let names = try symbolOptions.makeNames(TraceSources(reader))
        let descriptor = try openOutput()
        if format.value == .perfetto, output == nil, isatty(descriptor) == 1 {
            throw CommandFailure(
                status: Status.couldNot,
                "a perfetto trace is no text: give a file with -o, or a pipe")
        }
        let stream = OutputStream(descriptor: descriptor)
        var exporter = Exporter(
            format.value, to: stream, of: reader, registers: regs.shown, names: names,
            measure: time?.value)
        let isSound = query.forEach(reader, names: names) { frame in
            exporter.add(frame)
            return !stream.hasFailed
        } onDamage: { error in
            Message.note("\(error); what is there is not exported")
        }
        exporter.finish()
        try stream.finish(name: output)
        if output != nil { close(descriptor) }
        if !isSound { throw CommandFailure(status: Status.no) }
    }

    private func openOutput() throws(CommandFailure) -> Int32 {
        guard let output else { return STDOUT_FILENO }
        // SAFETY: Swift passes the path as a NUL-terminated string. The guest's secrets are in
        // what is exported as well, so it is readable by its owner alone.
        let descriptor = unsafe open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw CommandFailure(
                status: Status.couldNot, "\(output): cannot be written: \(errnoText(errno))")
        }
        return descriptor
    }
}

/// `--format`.
struct FormatOption: ExpressibleByArgument {
    let value: ExportFormat
    init?(argument: String) {
        guard let value = ExportFormat(rawValue: argument) else { return nil }
        self.value = value
    }
    static var allValueStrings: [String] { ExportFormat.allCases.map(\.rawValue) }
}
