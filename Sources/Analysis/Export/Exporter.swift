public import Trace

/// A format that a trace can be written in for other tools.
public enum ExportFormat: String, CaseIterable, Sendable {
    /// JSON Lines, the objects of ``ExitJSON``.
    case jsonl
    /// Comma-separated values, the columns of ``CSVExport``.
    case csv
    /// Perfetto's protobuf, for ui.perfetto.dev and its trace processor.
    case perfetto
    /// Folded stacks, one line a stack, for flame graphs.
    case folded
    /// asciicast v2: the console as it was, for asciinema.
    case cast
}

/// Writes exits in one of the export formats, in memory that does not grow with their number.
public struct Exporter {
    // One of these is there. An enum with payloads would have to be taken apart and put together
    // for each exit, and would copy their buffers.
    private var jsonl: ExitJSON?
    private var csv: CSVExport?
    private var perfetto: PerfettoExport?
    private var folded: FoldedExport?
    private var cast: CastExport?

    /// Begins an export, and writes what comes before the first exit.
    ///
    /// - Parameters:
    ///   - format: the format.
    ///   - stream: where it goes.
    ///   - reader: the trace, whose machine and name are told.
    ///   - registers: which registers `jsonl` and `csv` hold.
    ///   - names: names for addresses.
    ///   - measure: what `folded` counts; nil for exits.
    public init(
        _ format: ExportFormat, to stream: OutputStream, of reader: TraceReader,
        registers: ShownRegisters = .none, names: AddressNames = AddressNames(),
        measure: TimeMeasure? = nil
    ) {
        switch format {
        case .jsonl: jsonl = ExitJSON(stream, registers: registers, names: names)
        case .csv: csv = CSVExport(stream, registers: registers, names: names)
        case .perfetto:
            perfetto = PerfettoExport(
                stream, header: reader.header, title: reader.path, names: names)
        case .folded: folded = FoldedExport(stream, names: names, measure: measure)
        case .cast: cast = CastExport(stream, header: reader.header, title: reader.path)
        }
    }

    /// Writes one exit.
    public mutating func add(_ frame: borrowing ExitFrame) {
        jsonl?.write(frame)
        csv?.add(frame)
        perfetto?.add(frame)
        folded?.add(frame)
        cast?.add(frame)
    }

    /// Writes what comes after the last exit; the stream is the caller's to flush.
    public mutating func finish() {
        perfetto?.finish()
        folded?.finish()
        cast?.finish()
    }
}
