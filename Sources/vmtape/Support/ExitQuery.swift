internal import Analysis
internal import Trace

/// Which exits a command is asked for: a range, a filter, or both.
struct ExitQuery {
    private let filter: Filter?
    private let range: ExitRange

    init(filter text: String?, range: ExitRange?) throws(CommandFailure) {
        self.range = range ?? ExitRange(first: 0, last: .max)
        guard let text else {
            filter = nil
            return
        }
        do throws(FilterError) { filter = try Filter(text) } catch {
            throw CommandFailure.couldNot(error)
        }
    }

    /// The highest exit number that can come, at most that of the trace.
    func last(in reader: TraceReader) -> UInt64 { min(range.last, reader.exitCount) }

    /// Gives every exit that is meant to `body`, until it returns false. A damaged block is told
    /// of, and passed over. False if there was one.
    func forEach(
        _ reader: TraceReader, names: AddressNames, _ body: (ExitFrame) -> Bool,
        onDamage: (TraceError) -> Void
    ) -> Bool {
        var selection = ExitSelection(
            reader, range: range.first...range.last, filter: filter, names: names)
        var frame = ExitFrame()
        var isSound = true
        while true {
            do throws(TraceError) {
                guard try selection.next(into: &frame), body(frame) else { return isSound }
            } catch {
                onDamage(error)
                isSound = false
            }
        }
    }
}
