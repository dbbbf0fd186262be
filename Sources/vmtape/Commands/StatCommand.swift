internal import Analysis
internal import ArgumentParser
internal import Glibc
internal import Trace

struct StatCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stat", abstract: "Count exits, and say where time went.",
        discussion: """
            The table that `perf kvm stat report` prints, from a trace: event, count, share, time \
            share, shortest, longest and average time. Times are those outside the guest unless \
            --time guest is given. Below the table: ports and addresses that no device claims, \
            completed instructions, interruptions.
            """)

    @Argument(help: "The trace.")
    var file: String

    @Option(
        help: ArgumentHelp(
            "What the rows are.",
            valueName: Grouping.allCases.map(\.rawValue).joined(separator: "|")
        ))
    var by: GroupingOption = .init(.reason)

    @Option(
        help: ArgumentHelp(
            "Also count over the run, in steps of exits (1000) or of time (10ms, 1s).",
            valueName: "step"))
    var over: BucketOption?

    @Option(help: ArgumentHelp("Which time the table sums.", valueName: "vmm|guest"))
    var time: TimeOption = .init(.vmm)

    @Flag(help: "One JSON object, schema vmtape.stat/1.")
    var json = false

    @Flag(help: "The table as CSV.")
    var csv = false

    @OptionGroup var symbolOptions: SymbolOptions

    func validate() throws {
        if json, csv { throw ValidationError("Give one of --json and --csv.") }
    }

    func run() throws {
        let reader = try TraceFile.open(file)
        let needsNames = by.value == .symbol || by.value == .site
        let names = needsNames ? try symbolOptions.makeNames(TraceSources(reader)) : AddressNames()
        let options = StatisticsOptions(
            grouping: by.value, measure: time.value, over: over?.width)
        let statistics = try attempt { () throws(TraceError) in
            try StatisticsCollector.statistics(of: reader, options: options, names: names)
        }
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        if json {
            statistics.writeJSON(to: stream)
        } else if csv {
            statistics.writeCSV(to: stream)
        } else {
            let terminal = Terminal(STDOUT_FILENO)
            statistics.write(
                to: stream, style: TextStyle(width: terminal.width, hasColour: terminal.hasColour))
        }
        try stream.finish()
        for damage in statistics.damages { Message.note(damage) }
        if !statistics.damages.isEmpty { throw CommandFailure(status: Status.no) }
    }
}

/// `--by`.
struct GroupingOption: ExpressibleByArgument {
    let value: Grouping
    init(_ value: Grouping) { self.value = value }
    init?(argument: String) {
        guard let value = Grouping(rawValue: argument) else { return nil }
        self.value = value
    }
    var defaultValueDescription: String { value.rawValue }
    static var allValueStrings: [String] { Grouping.allCases.map(\.rawValue) }
}

/// `--time`.
struct TimeOption: ExpressibleByArgument {
    let value: TimeMeasure
    init(_ value: TimeMeasure) { self.value = value }
    init?(argument: String) {
        guard let value = TimeMeasure(rawValue: argument) else { return nil }
        self.value = value
    }
    var defaultValueDescription: String { value.rawValue }
    static var allValueStrings: [String] { TimeMeasure.allCases.map(\.rawValue) }
}

/// `--over`: a plain number is exits, one with a unit is time.
struct BucketOption: ExpressibleByArgument {
    let width: BucketWidth
    init?(argument: String) {
        if let exits = Number.parse(Substring(argument)) {
            guard exits > 0 else { return nil }
            width = .exits(exits)
        } else if let duration = Duration(argument: argument) {
            width = .nanoseconds(duration.milliseconds * 1_000_000)
        } else {
            return nil
        }
    }
}
