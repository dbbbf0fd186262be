internal import Machine
public import Trace

/// Reads a trace exit by exit, each with what belongs to it.
///
/// A damaged block is one thrown error, at its place; the next call goes on after it.
public struct FrameReader: ~Copyable {
    private var cursor: EventCursor
    /// The exit that ended the frame before, not yet shown; the cursor stands on it.
    private var pending: ExitEvent?
    /// What was thrown while the events of the last frame were read.
    private var deferred: TraceError?
    private var isAtEnd = false
    /// The system registers of the frame before are those of this vCPU; nil: of none.
    private var systemVCPU: UInt8?
    private let hasTiming: Bool

    /// Begins at an exit; nothing before its block is read.
    public init(_ reader: TraceReader, from exit: UInt64 = 0) throws(TraceError) {
        cursor = try reader.events(from: exit)
        hasTiming = reader.hasTiming
    }

    /// Fills `frame` with the next exit; false at the end of the trace.
    ///
    /// `frame` should be the same variable from call to call: what did not change is left as it
    /// is, and its memory is used again.
    public mutating func next(into frame: inout ExitFrame) throws(TraceError) -> Bool {
        if let error = deferred {
            deferred = nil
            systemVCPU = nil
            throw error
        }
        if pending == nil {
            guard !isAtEnd else { return false }
            try findFirst()
        }
        guard let exit = pending else { return false }
        pending = nil
        fill(&frame, exit)
        do throws(TraceError) {
            try readEvents(of: &frame)
        } catch {
            deferred = error
        }
        return true
    }

    private mutating func findFirst() throws(TraceError) {
        while let event = try cursor.next() {
            if case .exit(let exit) = event {
                pending = exit
                return
            }
        }
        isAtEnd = true
    }

    @inline(__always)
    private mutating func fill(_ frame: inout ExitFrame, _ exit: ExitEvent) {
        frame.number = cursor.nextExitNumber &- 1
        frame.vCPU = cursor.vCPU
        frame.detail = exit.detail
        frame.flags = exit.flags
        frame.rewind = exit.rewind
        frame.changedRegisters = exit.changedRegisters
        frame.changedSystemWords = exit.changedSystemWords
        frame.registers = cursor.registers
        if exit.changedSystemWords != 0 || systemVCPU != frame.vCPU {
            systemVCPU = frame.vCPU
            frame.system = cursor.system
            frame.mode = frame.system.mode
            frame.cpl = frame.system.cpl
        }
        frame.answerForm = nil
        frame.answer.removeAll()
        if !frame.events.isEmpty { frame.events.removeAll(keepingCapacity: true) }
        frame.eventMask = 0
        if hasTiming, let time = cursor.time {
            frame.time = FrameTime(
                sinceStart: time.returnedNanoseconds, guest: time.guestNanoseconds, vmm: 0)
        } else {
            frame.time = nil
        }
        copySent(exit.detail, into: &frame.sent)
    }

    @inline(__always)
    private func copySent(_ detail: ExitDetail<Range<Int>>, into sent: inout ExitData) {
        switch detail {
        case .io(let isWrite, _, _, _, let data):
            if isWrite { copy(data, into: &sent) } else { sent.removeAll() }
        case .mmio(_, let length, let isWrite, let value):
            sent.replace(withValue: value, count: isWrite ? min(Int(length), 8) : 0)
        case .wrmsr(_, _, let value): sent.replace(withValue: value, count: 8)
        case .hypercall(_, _, let data), .internalError(_, let data), .systemEvent(_, let data),
            .other(_, let data):
            copy(data, into: &sent)
        case .rdmsr, .failEntry, .exception, .debug: sent.removeAll()
        }
    }

    @inline(__always)
    private func copy(_ range: Range<Int>, into data: inout ExitData) {
        if range.isEmpty {
            data.removeAll()
            return
        }
        cursor.withBytes(range) { data.replace(with: $0) }
    }

    private mutating func readEvents(of frame: inout ExitFrame) throws(TraceError) {
        while let event = try cursor.next() {
            switch event {
            case .exit(let next):
                pending = next
                if hasTiming { frame.time?.vmm = cursor.time?.hostNanoseconds ?? 0 }
                return
            case .answer(let form, let range):
                frame.answerForm = form
                frame.eventMask |= 1
                copy(range, into: &frame.answer)
            case .completion(let range):
                guard cursor.isStoredRow else {
                    frame.eventMask |= 1 << 1
                    frame.events.append(.completion(cursor.changes(range)))
                    break
                }
                var changes: [Change] = []
                if case .stored(let before)? = frame.events.last {
                    // Moved, not copied: there may be a row for each 60,000 bytes of RAM.
                    frame.events.removeLast()
                    changes = before
                }
                changes += cursor.changes(range)
                frame.events.append(.stored(changes))
            case .interruption:
                frame.eventMask |= 1 << 2
                if let interruption = cursor.interruption {
                    frame.events.append(.interruption(interruption))
                }
            case .deviceWrite(let address, let range):
                frame.eventMask |= 1 << 3
                frame.events.append(.deviceWrite(address: address, bytes: cursor.array(range)))
            case .end(let end):
                frame.eventMask |= 1 << 4
                frame.events.append(.end(end, cursor.registers))
            case .start: break
            }
        }
        isAtEnd = true
    }
}
