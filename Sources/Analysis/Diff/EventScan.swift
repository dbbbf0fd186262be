internal import Machine
internal import Trace

/// Steps through the events of one trace, from a block on, and counts what it decodes.
struct EventScan: ~Copyable {
    let source: DiffSource
    private(set) var cursor: EventCursor
    /// The event that the scan stands on; nil past the last one.
    private(set) var event: Event?
    /// Why the scan could not go on.
    private(set) var damage: String?

    /// Begins before a block's first event; at the end of the trace where there is no such block.
    init(_ source: DiffSource, block: Int) throws(TraceError) {
        self.source = source
        cursor = try source.reader.events(ofBlock: min(block, source.blockCount))
    }

    /// Goes to the next event; false past the last one, or where it cannot be read.
    mutating func next() -> Bool {
        event = nil
        guard damage == nil else { return false }
        do throws(TraceError) {
            event = try cursor.next()
        } catch {
            damage = error.description
        }
        if event != nil { source.noteDecoded(cursor.blockIndex) }
        return event != nil
    }

    /// Goes to the next event of a stream.
    mutating func next(in stream: DigestedStream) -> Bool {
        while next() {
            if let event, stream.contains(event) { return true }
        }
        return false
    }

    /// The bytes of the event.
    var row: [UInt8] { cursor.row }

    /// The number of the exit that the event is or belongs to; nil before the first exit.
    var exit: UInt64? { cursor.exitNumber }

    var registers: GeneralRegisters { cursor.registers }

    var system: SystemRegisters { cursor.system }

    /// Whether the run was ended here from outside, so that its going on or not says nothing
    /// about the guest.
    var isCutOff: Bool {
        guard let event else { return damage == nil }
        guard case .end(let end) = event else { return false }
        return [.exitLimit, .timeLimit, .sizeLimit, .interrupted].contains(end.reason)
    }

    /// What the guest did to the outside here, without registers: the part of an output that is
    /// compared.
    var output: OutputEvent? {
        switch event {
        case .exit(let exit):
            var data: [UInt8] = []
            if case .io(_, _, _, _, let range) = exit.detail { data = cursor.array(range) }
            return OutputEvent(
                vCPU: cursor.vCPU, detail: exit.detail.withoutPlaces, data: data, end: nil)
        case .end(let end):
            return OutputEvent(
                vCPU: cursor.vCPU, detail: nil, data: [],
                end: [Int64(end.reason.rawValue), end.guestStatus.map(Int64.init) ?? .min])
        default: return nil
        }
    }

    /// The event in words.
    var text: String? {
        switch event {
        case nil: return nil
        case .start: return "the initial state"
        case .exit(let exit): return exit.reason.name
        case .answer(_, let range):
            let data = ExitData(cursor.array(range))
            return "answer " + ExitDescription.bytes(data, unit: max(1, min(data.count, 8)))
        case .completion(let range):
            let changes = cursor.changes(range)
            return (cursor.isStoredRow ? FrameEvent.stored(changes) : .completion(changes)).text
        case .interruption(let kind, let vector, let errorCode, _):
            let plain = Interruption(kind, vector: vector, errorCode: errorCode)
            return (cursor.interruption ?? plain).text
        case .deviceWrite(let address, let range):
            return FrameEvent.deviceWrite(address: address, bytes: cursor.array(range))
                .text
        case .end(let end): return end.text
        }
    }
}

/// An output, as far as the output digest looks at it.
struct OutputEvent: Equatable {
    var vCPU: UInt8
    var detail: ExitDetail<Range<Int>>?
    var data: [UInt8]
    var end: [Int64]?
}

extension ExitDetail where Bytes == Range<Int> {
    /// The detail without where its bytes were, and without what the output digest leaves out.
    fileprivate var withoutPlaces: ExitDetail<Range<Int>> {
        switch self {
        case .io(let isWrite, let size, let port, let count, _):
            .io(isWrite: isWrite, size: size, port: port, count: count, data: 0..<0)
        case .wrmsr(let index, _, let value): .wrmsr(index: index, why: 0, value: value)
        default: self
        }
    }
}
