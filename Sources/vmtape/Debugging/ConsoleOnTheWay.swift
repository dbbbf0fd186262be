internal import Analysis
internal import GDBRemote
internal import Machine
internal import Trace

/// What the guest prints while a debugger runs it forward: each exit's output once, however often its
/// place is passed.
struct ConsoleOnTheWay {
    /// Where the move under way began.
    private var start: UInt64 = 0
    /// Exits whose output was given, in order and apart from each other.
    private var given: [Range<UInt64>] = []
    /// Exits before a move that say what state its console is in.
    private static let context: UInt64 = 256

    /// A move begins.
    mutating func begin(at position: Position) { start = position.exitCount }

    /// What the exits of the move printed that has not been given.
    mutating func printed(
        until position: Position, _ reader: TraceReader
    ) throws(DebugError) -> [UInt8] {
        guard position.exitCount > start else { return [] }
        let way = start..<position.exitCount
        var console = ConsoleExtractor(machine: reader.header.machine)
        var printed: [UInt8] = []
        var frame = ExitFrame()
        var selection = ExitSelection(
            reader, range: way.lowerBound - min(way.lowerBound, Self.context)...way.upperBound - 1)
        do throws(TraceError) {
            while try selection.next(into: &frame) {
                console.add(frame)
                guard !console.output.isEmpty else { continue }
                let number = frame.number
                if way.contains(number), !given.contains(where: { $0.contains(number) }) {
                    printed += console.output
                }
                console.removeOutput()
            }
        } catch { throw DebugError("\(error)") }
        note(way)
        return printed
    }

    private mutating func note(_ way: Range<UInt64>) {
        var low = way.lowerBound
        var high = way.upperBound
        given.removeAll { range in
            guard range.lowerBound <= high, range.upperBound >= low else { return false }
            low = min(low, range.lowerBound)
            high = max(high, range.upperBound)
            return true
        }
        given.append(low..<high)
        given.sort { $0.lowerBound < $1.lowerBound }
    }
}
