internal import Analysis
internal import Trace

/// The filter language: any text is a filter or an error that says where.
enum FilterTarget {
    /// Exits to filter: those of the seeds' recording.
    private static let reader: TraceReader? = {
        let recording = Seeds.record(events: Seeds.someEvents)
        return try? TraceReader(bytes: recording.trace, tail: recording.tail)
    }()

    static func run(_ input: [UInt8]) {
        let text = String(decoding: input, as: UTF8.self)
        var filter: Filter
        do throws(FilterError) { filter = try Filter(text) } catch {
            require(!error.description.isEmpty, "an error says something")
            return
        }
        guard let reader, var frames = try? FrameReader(reader) else { return }
        let names = AddressNames()
        var frame = ExitFrame()
        let bounds = filter.exitBounds
        while (try? frames.next(into: &frame)) == true {
            let matches = filter.matches(frame, names: names)
            require(
                !matches || filter.mayMatch(exits: frame.number...frame.number),
                "a match is within the bounds that were told")
            require(
                !matches || bounds == nil || bounds?.contains(frame.number) == true,
                "a match is within the bounds of exits")
        }
    }
}
