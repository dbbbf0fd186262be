public import Machine
internal import Threads

/// One row of a tape, where it lies: valid until the cursor's next `next`.
@unsafe
public struct TapeRow {
    /// What kind of event it is.
    public let kind: EventKind
    /// The vCPU it is of.
    public let vCPU: UInt8
    /// The row's bytes, as a ``RowEncoder`` writes them.
    public let bytes: UnsafeRawBufferPointer
    private let body: Int
    /// Where the detail of an exit that rewrites an instruction is; 0 in all others.
    private let rewritingAt: Int

    init(_ bytes: UnsafeRawBufferPointer) throws(Malformed) {
        let view = try unsafe RowView(bytes)
        unsafe rewritingAt = view.isRewriting ? view.detailAt : 0
        unsafe kind = view.kind
        unsafe vCPU = view.vCPU
        unsafe body = view.body
        unsafe self.bytes = bytes
    }

    /// Reads the parts after kind and vCPU; the row was checked when it was made.
    private func read<Result>(
        _ kind: EventKind, _ parse: (inout ByteReader) throws(Malformed) -> Result
    ) -> Result? {
        guard unsafe self.kind == kind else { return nil }
        var reader = unsafe ByteReader(bytes, "a row")
        do throws(Malformed) {
            try reader.skip(unsafe body)
            return try parse(&reader)
        } catch { return nil }
    }

    /// The linear address of the instruction that an exit rewrites (FORMAT.md, "Rewriting"); nil of
    /// any other row.
    @inline(__always)
    public var rewriting: GuestVirtualAddress? {
        guard unsafe rewritingAt != 0, let base = unsafe bytes.baseAddress else { return nil }
        // SAFETY: the detail of a debug exit has the address behind its first word, as was checked.
        return unsafe GuestVirtualAddress(base.get(UInt64.self, at: rewritingAt + 4))
    }

    /// The initial state, of a start row.
    public var start: (registers: GeneralRegisters, system: SystemRegisters)? {
        unsafe read(.start) { reader throws(Malformed) in try RowReader.state(&reader) }
    }

    /// Form and bytes, of an answer row.
    public var answer: (form: AnswerForm, data: UnsafeRawBufferPointer)? {
        guard unsafe kind == .answer else { return nil }
        // SAFETY: an answer row has three bytes before its data, as was checked.
        return unsafe (
            AnswerForm(rawValue: bytes[body]),
            UnsafeRawBufferPointer(rebasing: bytes[(body + 3)...])
        )
    }

    /// The changes, of a completion row.
    public var changes: [Change]? {
        guard unsafe kind == .completion else { return nil }
        // SAFETY: the row was checked.
        return unsafe RowReader.changes(in: UnsafeRawBufferPointer(rebasing: bytes[body...]))
    }

    /// What was injected, of an interruption row; `snapshot` is that of the vCPU's last exit.
    public func interruption(snapshot: GeneralRegisters) -> Interruption? {
        unsafe read(.interruption) { reader throws(Malformed) in
            try RowReader.interruption(&reader, snapshot)
        }
    }

    /// Address and bytes, of a device write row.
    public var deviceWrite: (address: GuestPhysicalAddress, data: UnsafeRawBufferPointer)? {
        guard unsafe kind == .deviceWrite, let base = unsafe bytes.baseAddress else { return nil }
        // SAFETY: a device write row has twelve bytes before its data, as was checked.
        return unsafe (
            GuestPhysicalAddress(base.get(UInt64.self, at: body)),
            UnsafeRawBufferPointer(rebasing: bytes[(body + 12)...])
        )
    }

    /// The end with its final registers, of an end row.
    public var end: EndState? {
        unsafe read(.end) { reader throws(Malformed) in
            let end = try RowReader.end(&reader)
            return EndState(
                event: end.event, registers: end.registers, system: end.system,
                vCPU: unsafe vCPU)
        }
    }
}

/// Goes through the rows of a trace in order, for a replayer.
///
/// The next block is decoded on a thread of the cursor's own while this one is used.
@safe
public struct TapeCursor: ~Copyable {
    /// The number of the next exit row.
    public private(set) var exitNumber: UInt64
    /// The snapshots at the place where the cursor began: what a ``RowEncoder`` must start from.
    public let startingSnapshots: [(registers: GeneralRegisters, system: SystemRegisters)]

    private let trace: TraceReader
    private let ahead: DecodeAhead
    private let thread: WorkerThread
    private var rows: DecodedRows?
    private var nextRow: Int
    private var hasBegun = false

    init(_ trace: TraceReader, block: Int, exit: UInt64) throws(TraceError) {
        let start = try Self.start(trace, block, exit)
        let ahead = DecodeAhead(trace, block)
        let thread = try Self.startThread(trace, ahead)
        self.trace = trace
        self.ahead = ahead
        self.thread = thread
        exitNumber = exit
        nextRow = start.row
        startingSnapshots = start.states.map { ($0.registers, $0.system) }
    }

    private static func startThread(
        _ trace: TraceReader, _ ahead: DecodeAhead
    ) throws(TraceError) -> WorkerThread {
        do throws(ThreadError) {
            return try WorkerThread("to decode ahead") { ahead.run() }
        } catch {
            throw TraceError(error, file: trace.path)
        }
    }

    /// The row of an exit in its block, and the registers before it.
    private static func start(
        _ trace: TraceReader, _ block: Int, _ exit: UInt64
    ) throws(TraceError) -> (row: Int, states: [VCPUState]) {
        guard exit > 0 else {
            let count = max(1, trace.header.machine.vCPUCount)
            return (0, Array(repeating: VCPUState(), count: count))
        }
        let first = DecodedRows()
        var loader = trace.makeLoader()
        try first.load(trace, block, &loader)
        var reader = RowReader(states: first.rows.baseline)
        var number = trace.exits(ofBlock: block).lowerBound
        var row = 0
        do throws(Malformed) {
            while row < first.rows.ends.count {
                if try unsafe RowView(first.rows.row(row)).kind == .exit {
                    if number == exit { break }
                    number += 1
                }
                _ = try unsafe reader.read(first.rows.row(row), offset: 0)
                row += 1
            }
        } catch { throw trace.source.damaged(trace.offset(ofBlock: block), error.what) }
        return (row, reader.states)
    }

    deinit {
        ahead.stop()
        thread.join()
    }

    /// The next row; nil after the last.
    ///
    /// Errors: a block is damaged or missing. The tape ends there.
    @inline(__always)
    public mutating func next() throws(TraceError) -> TapeRow? {
        guard let row = try unsafe peek() else { return nil }
        if unsafe row.kind == .exit { exitNumber &+= 1 }
        nextRow += 1
        return unsafe row
    }

    /// What `next` will give.
    @inline(__always)
    public mutating func peek() throws(TraceError) -> TapeRow? {
        while true {
            if let rows, nextRow < rows.rows.ends.count {
                do throws(Malformed) {
                    return try unsafe TapeRow(rows.rows.row(nextRow))
                } catch {
                    throw trace.source.damaged(trace.offset(ofBlock: rows.block), error.what)
                }
            }
            guard try turnOver() else { return nil }
        }
    }

    private mutating func turnOver() throws(TraceError) -> Bool {
        let used = rows
        rows = nil
        guard let next = try ahead.take(returning: used) else { return false }
        // The first block may begin before the exit asked for, and `nextRow` is set.
        let begin = trace.exits(ofBlock: next.block).lowerBound
        if hasBegun { nextRow = 0 }
        let isEntry = !hasBegun && exitNumber > 0 && begin <= exitNumber
        if !isEntry, let gap = trace.gap(beforeBlock: next.block, nextExit: exitNumber) {
            ahead.stop()
            throw gap
        }
        hasBegun = true
        rows = next
        return true
    }
}

/// The rows of one block, handed from the decoding thread to the cursor and back.
///
/// `Sendable`: one thread has it at a time; ``DecodeAhead`` hands it over under its monitor.
final class DecodedRows: @unchecked Sendable {
    var rows = RowBuffer()
    var block = 0
    private var decoder = ColumnDecoder()

    func load(
        _ trace: TraceReader, _ index: Int, _ loader: inout BlockLoader
    ) throws(TraceError) {
        block = index
        try trace.load(index, &loader, &decoder, into: &rows)
    }
}

/// Decodes the blocks of a trace in order, at most two ahead of their use.
final class DecodeAhead: @unchecked Sendable {
    private let trace: TraceReader
    private let monitor = Monitor()
    private let firstBlock: Int

    // Under the monitor.
    private var ready: [DecodedRows] = []
    private var free = [DecodedRows(), DecodedRows(), DecodedRows()]
    private var failure: TraceError?
    private var isDone = false
    private var isStopped = false

    init(_ trace: TraceReader, _ block: Int) {
        self.trace = trace
        firstBlock = block
    }

    /// The decoding thread.
    func run() {
        var loader = trace.makeLoader()
        for index in firstBlock..<max(firstBlock, trace.eventBlockCount) {
            let rows: DecodedRows? = monitor.wait { () -> DecodedRows?? in
                if self.isStopped { return .some(nil) }
                return self.free.popLast().map { .some($0) }
            }
            guard let rows else { return }
            do throws(TraceError) {
                try rows.load(trace, index, &loader)
                monitor.change { ready.append(rows) }
            } catch {
                monitor.change { failure = error }
                return
            }
        }
        monitor.change { isDone = true }
    }

    /// The next block's rows, in exchange for those used up; nil after the last.
    func take(returning used: DecodedRows?) throws(TraceError) -> DecodedRows? {
        if let used { monitor.change { free.append(used) } }
        enum Answer {
            case rows(DecodedRows), failure(TraceError), end
        }
        let answer: Answer = monitor.wait {
            if !self.ready.isEmpty { return .rows(self.ready.removeFirst()) }
            if let failure = self.failure { return .failure(failure) }
            return self.isDone || self.isStopped ? .end : nil
        }
        switch answer {
        case .rows(let rows): return rows
        case .failure(let error): throw error
        case .end: return nil
        }
    }

    func stop() { monitor.change { isStopped = true } }
}
