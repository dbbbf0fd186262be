public import Trace

/// The console of a run as an asciicast, version 2 (docs.asciinema.org, "asciicast v2"): a header,
/// then one line for each piece of output with its time in seconds.
///
/// Without timing in the trace, exits are taken to be 10 µs apart. Bytes that come within a
/// millisecond make up one piece. Bytes that are not UTF-8 become replacement characters.
public struct CastExport {
    private let stream: OutputStream
    private var console: ConsoleExtractor
    /// Bytes of the piece that is not written yet, and when it began.
    private var bytes: [UInt8] = []
    private var start: UInt64 = 0

    private static let pieceNanoseconds: UInt64 = 1_000_000
    private static let pieceBytes = 4096
    private static let exitNanoseconds: UInt64 = 10_000

    /// Writes the header.
    public init(_ stream: OutputStream, header: TraceHeader, title: String) {
        self.stream = stream
        console = ConsoleExtractor(machine: header.machine)
        var json = JSONWriter(stream)
        json.beginObject()
        json.pair("version", 2)
        json.pair("width", 80)
        json.pair("height", 24)
        if let observed = header.observed {
            json.pair("timestamp", observed.creationNanoseconds / 1_000_000_000)
        }
        json.pair("title", String(title.split(separator: "/").last ?? "vmtape"))
        json.endObject()
        json.endLine()
    }

    /// Takes in one exit.
    public mutating func add(_ frame: borrowing ExitFrame) {
        console.add(frame)
        guard !console.output.isEmpty else { return }
        let (untimed, overflow) = frame.number.multipliedReportingOverflow(
            by: Self.exitNanoseconds)
        let now = frame.time?.sinceStart ?? (overflow ? .max : untimed)
        if !bytes.isEmpty,
            now &- start >= Self.pieceNanoseconds || bytes.count >= Self.pieceBytes
        {
            write(isLast: false)
        }
        if bytes.isEmpty { start = now }
        bytes.append(contentsOf: console.output)
        console.removeOutput()
    }

    /// Writes what is left.
    public mutating func finish() { write(isLast: true) }

    private mutating func write(isLast: Bool) {
        // A character whose bytes have not all come yet waits for them.
        let held = isLast ? 0 : Self.unfinished(bytes)
        let whole = bytes.dropLast(held)
        guard !whole.isEmpty else { return }
        stream.write("[")
        stream.write(TraceText.seconds(start))
        stream.write(",\"o\",")
        var json = JSONWriter(stream)
        json.value(String(decoding: whole, as: UTF8.self))
        stream.write("]\n")
        bytes.removeFirst(whole.count)
    }

    /// How many bytes at the end begin a UTF-8 sequence that is longer.
    static func unfinished(_ bytes: [UInt8]) -> Int {
        for back in 1...3 where back <= bytes.count {
            let byte = bytes[bytes.count - back]
            if byte & 0xC0 == 0x80 { continue }
            let length = byte >= 0xF0 && byte < 0xF8 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1
            return byte < 0xF8 && length > back ? back : 0
        }
        return 0
    }
}
