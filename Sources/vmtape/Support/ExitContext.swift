internal import Machine
internal import Trace

/// The exits before a place, as a report shows them.
enum ExitContext {
    static func lines(before exit: UInt64, count: UInt64, _ reader: TraceReader) -> [String] {
        guard exit > 0 else { return [] }
        var lines: [String] = []
        do throws(TraceError) {
            var cursor = try reader.events(from: exit - min(exit, count))
            while let event = try cursor.next() {
                guard let number = cursor.exitNumber, number < exit else { break }
                switch event {
                case .exit, .answer:
                    let text = EventText.describe(event, row: cursor.row, rip: cursor.registers.rip)
                    if case .answer = event, !lines.isEmpty {
                        lines[lines.count - 1] += " \(text)"
                    } else {
                        lines.append("    \(number)  \(text)")
                    }
                default: break
                }
            }
        } catch {
            // The trace is damaged there: what was read is shown.
        }
        return lines
    }
}
