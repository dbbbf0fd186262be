internal import Analysis
internal import ArgumentParser
internal import Glibc
internal import Trace

struct DumpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump", abstract: "Print exits, one a line.",
        discussion: """
            Each line: number, time, reason and data, and the instruction that caused the exit by \
            function and source line. RANGE is N, FIRST..LAST, FIRST.. or ..LAST, both ends \
            included; it may begin anywhere in a trace of any length at once. On a terminal the \
            output goes through $PAGER (less by default).


            """ + Filter.help)

    @Argument(help: "The trace.")
    var file: String

    @Argument(help: "Which exits; all unless given.")
    var range: ExitRange?

    @Option(help: ArgumentHelp("Only exits for which this holds.", valueName: "expr"))
    var filter: String?

    @Option(
        help: ArgumentHelp(
            "Registers below each exit: none, those that changed, or all.",
            valueName: "none|changed|all"))
    var regs: RegisterOption = .none

    @Flag(help: "Show the instruction at each exit, disassembled.")
    var instructions = false

    @Flag(help: "One JSON object a line, schema vmtape.exit/1.")
    var json = false

    @Flag(inversion: .prefixedNo, help: "Page the output on a terminal.")
    var pager = true

    @OptionGroup var symbolOptions: SymbolOptions

    /// What `--regs` takes.
    enum RegisterOption: String, ExpressibleByArgument, CaseIterable {
        case none
        case changed
        case all

        var shown: ShownRegisters {
            switch self {
            case .none: .none
            case .changed: .changed
            case .all: .all
            }
        }
    }

    func run() throws {
        let reader = try TraceFile.open(file)
        let query = try ExitQuery(filter: filter, range: range)
        let sources = TraceSources(reader)
        let names = try symbolOptions.makeNames(sources)
        let terminal = Terminal(STDOUT_FILENO)
        let pager = json || !self.pager ? nil : Pager.start(terminal)
        defer { pager?.finish() }
        let stream = OutputStream(descriptor: pager?.descriptor ?? STDOUT_FILENO)
        let text = DumpOptions(
            registers: regs.shown, code: instructions ? sources.code(reader.header) : nil)
        var printer = TraceText(
            stream, style: TextStyle(width: terminal.width, hasColour: terminal.hasColour),
            options: text, names: names, lastExit: query.last(in: reader),
            vCPUCount: reader.header.machine.vCPUCount)
        var jsonPrinter = ExitJSON(stream, registers: regs.shown, names: names)
        let isSound = query.forEach(reader, names: names) { frame in
            if json { jsonPrinter.write(frame) } else { printer.write(frame) }
            return !stream.hasFailed
        } onDamage: { error in
            stream.flush()
            Message.note(error.description)
        }
        try stream.finish()
        if !isSound { throw CommandFailure(status: Status.no) }
    }
}
