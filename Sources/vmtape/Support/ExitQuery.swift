internal import Analysis
internal import Trace

/// Which exits a command is asked for: a range, a filter, or both.
struct ExitQuery {
    private var filter: Filter?
    /// The first exit that can be meant.
    let first: UInt64
    /// The last exit that can be meant.
    let last: UInt64

    init(filter text: String?, range: ExitRange?) throws(CommandFailure) {
        var first = range?.first ?? 0
        var last = range?.last ?? .max
        if let text {
            do throws(FilterError) {
                let filter = try Filter(text)
                if let bounds = filter.exitBounds {
                    first = max(first, bounds.lowerBound)
                    last = min(last, bounds.upperBound)
                }
                self.filter = filter
            } catch {
                throw CommandFailure(status: Status.couldNot, error.report)
            }
        }
        self.first = first
        self.last = last
    }

    /// Gives every exit that is meant to `body`, until it returns false. A damaged block is told
    /// of, and passed over.
    mutating func forEach(
        _ reader: TraceReader, names: AddressNames, _ body: (ExitFrame) -> Bool,
        onDamage: (TraceError) -> Void
    ) throws(CommandFailure) {
        guard first <= last, first < reader.exitCount else { return }
        do throws(TraceError) {
            var frames = try FrameReader(reader, from: first)
            var frame = ExitFrame()
            while true {
                do throws(TraceError) {
                    guard try frames.next(into: &frame) else { return }
                } catch {
                    onDamage(error)
                    continue
                }
                if frame.number > last { return }
                if filter?.matches(frame, names: names) == false { continue }
                guard body(frame) else { return }
            }
        } catch { throw CommandFailure.couldNot(error) }
    }
}
