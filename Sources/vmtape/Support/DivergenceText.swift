internal import Analysis
internal import Execution
internal import Glibc
internal import Machine
internal import Trace

/// The report of a divergence, for people: where, the exits before, both sides, what differs, and
/// what to suspect.
struct DivergenceText {
    private let divergence: ReplayDivergence
    private let reader: TraceReader
    private let style: TextStyle
    private let names: AddressNames
    private let stream: OutputStream
    private let colour: Style

    /// How many exits before the divergence are shown.
    private static let contextExits: UInt64 = 5
    private static let registersShown = 24
    private static let pagesShown = 8

    /// Writes the report to stderr.
    static func tell(
        _ divergence: ReplayDivergence, _ reader: TraceReader, _ symbols: SymbolOptions
    ) throws(CommandFailure) {
        let terminal = Terminal(STDERR_FILENO)
        let stream = OutputStream(descriptor: STDERR_FILENO)
        DivergenceText(
            divergence, reader, names: try symbols.makeNames(TraceSources(reader)),
            style: TextStyle(width: terminal.width, hasColour: terminal.hasColour),
            stream: stream
        ).write()
        stream.flush()
    }

    private init(
        _ divergence: ReplayDivergence, _ reader: TraceReader, names: AddressNames,
        style: TextStyle, stream: OutputStream
    ) {
        self.divergence = divergence
        self.reader = reader
        self.names = names
        self.style = style
        self.stream = stream
        colour = Style(isOn: style.hasColour)
    }

    func write() {
        let number = RunText.grouped(divergence.exitNumber)
        let word = colour.red("diverged")
        switch divergence.place {
        case .start: stream.write("vmtape: \(word) before the first exit\n")
        case .exit: stream.write("vmtape: \(word) at exit \(number)\n")
        case .end: stream.write("vmtape: \(word) at the end: all \(number) exits are equal\n")
        }
        var printer = TraceText(
            stream, style: style, options: DumpOptions(showsTime: false), names: names,
            lastExit: divergence.exitNumber)
        writeContext(&printer)
        writeSide("-", "recorded", divergence.expected, &printer)
        writeSide("+", "replayed", divergence.actual, &printer)
        writeRegisters()
        writePages()
        if !divergence.causes.isEmpty {
            stream.write("likely causes, the likeliest first:\n")
            for cause in divergence.causes { stream.write("  \(cause)\n") }
        }
    }

    private func writeContext(_ printer: inout TraceText) {
        let end = divergence.exitNumber
        guard end > 0 else { return }
        do throws(TraceError) {
            var frames = try FrameReader(reader, from: end - min(end, Self.contextExits))
            var frame = ExitFrame()
            while try frames.next(into: &frame), frame.number < end { printer.write(frame) }
        } catch {
            // Damaged there: what could be read is shown, and the two sides follow in any case.
        }
    }

    private func writeSide(
        _ mark: Character, _ what: String, _ side: PlacedEvent?, _ printer: inout TraceText
    ) {
        guard let side else { return }
        if case .exit(let exit) = side.event, let registers = side.registers,
            let system = side.system
        {
            printer.write(
                ExitFrame(
                    exit, row: side.row, number: divergence.exitNumber, registers: registers,
                    system: system), mark: mark)
        } else {
            stream.write("\(mark) \(what): \(Self.name(side.event))\n")
        }
    }

    /// An event that is no exit, in a few words.
    private static func name(_ event: Event) -> String {
        switch event {
        case .end(let end):
            let status = end.guestStatus.map { ", status \($0)" } ?? ""
            let memory = end.memory.map { ", RAM \($0)" } ?? ""
            return "the end (\(end.reason.name)\(status)\(memory))"
        default: return String(describing: event.kind)
        }
    }

    private func writeRegisters() {
        let differences = divergence.registerDifferences
        guard !differences.isEmpty else { return }
        stream.write("registers that differ:\n")
        for difference in differences.prefix(Self.registersShown) {
            let gap = String(repeating: " ", count: max(1, 17 - difference.name.count))
            stream.write(
                "  \(difference.name)\(gap)recorded \(RunText.hex(difference.expected, digits: 16))"
                    + "  replayed \(RunText.hex(difference.actual, digits: 16))\n")
        }
        let more = differences.count - Self.registersShown
        if more > 0 { stream.write("  and \(more) more\n") }
    }

    private func writePages() {
        let pages = divergence.differingPages
        guard !pages.isEmpty else { return }
        let shown = pages.prefix(Self.pagesShown).map { "0x" + RunText.hex($0 * 4096, digits: 1) }
        stream.write(
            "RAM differs in \(pages.count) page\(pages.count == 1 ? "" : "s"): "
                + shown.joined(separator: ", ") + (pages.count > shown.count ? ", ...\n" : "\n"))
    }
}
