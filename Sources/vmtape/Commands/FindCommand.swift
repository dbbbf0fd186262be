internal import Analysis
internal import ArgumentParser
internal import Glibc
internal import Trace

struct FindCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "find", abstract: "Print the numbers of the exits for which something holds.",
        discussion: """
            For scripts: one number a line. Status 0: at least one was found. Status 1: none.


            """ + Filter.help)

    @Argument(help: "The trace.")
    var file: String

    @Argument(help: "What is looked for.")
    var expression: String

    @Flag(help: "Only the first.")
    var first = false

    @Flag(help: "Only the last.")
    var last = false

    @Flag(help: "How many, and not which.")
    var count = false

    @Option(help: ArgumentHelp("Only exits after this one.", valueName: "n"))
    var after: UInt64?

    @OptionGroup var symbolOptions: SymbolOptions

    func validate() throws {
        guard [first, last, count].filter({ $0 }).count <= 1 else {
            throw ValidationError("Give one of --first, --last and --count.")
        }
    }

    func run() throws {
        let reader = try TraceFile.open(file)
        let range = after.map { ExitRange(first: $0 == .max ? .max : $0 + 1, last: .max) }
        let query = try ExitQuery(filter: expression, range: range)
        let names = try symbolOptions.makeNames(TraceSources(reader))
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        var found: UInt64 = 0
        var lastNumber: UInt64 = 0
        let isSound = query.forEach(reader, names: names) { frame in
            found += 1
            lastNumber = frame.number
            if !count, !last {
                stream.write(decimal: frame.number)
                stream.write("\n")
            }
            return !first && !stream.hasFailed
        } onDamage: { error in
            Message.note("\(error); exits there are passed over")
        }
        if count || last && found > 0 {
            stream.write(decimal: count ? found : lastNumber)
            stream.write("\n")
        }
        try stream.finish()
        if found == 0 || !isSound { throw CommandFailure(status: Status.no) }
    }
}
