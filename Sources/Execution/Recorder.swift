public import Machine
public import Trace

/// The listener of a recording: hands every event to the trace writer.
public struct Recorder: RunListener, ~Copyable {
    /// The trace that is being written.
    var writer: TraceWriter

    /// Records into a trace.
    public init(writer: consuming TraceWriter) { self.writer = writer }

    /// It does.
    @inline(__always)
    public static var isListening: Bool { true }

    /// Records the exit.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        do throws(TraceError) {
            // SAFETY: the pointers are the loop's, valid during the call.
            try unsafe writer.exit(
                detail, flags: flags, rewind: rewind, registers: registers, system: system,
                entered: entered, returned: returned)
        } catch { throw .trace(error) }
        return true
    }

    /// Records the answer.
    @inline(__always)
    public mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        do throws(TraceError) {
            // SAFETY: the buffer is the loop's, valid during the call.
            try unsafe writer.answer(form, bytes)
        } catch { throw .trace(error) }
        return true
    }

    /// Records the completion.
    public mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool {
        do throws(TraceError) { try writer.completion(changes) } catch { throw .trace(error) }
        return true
    }

    /// Records the write.
    public mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool {
        do throws(TraceError) {
            // SAFETY: the buffer is the array's, alive through the call.
            try unsafe write.bytes.span.withUnsafeBytes { bytes throws(TraceError) in
                try unsafe writer.deviceWrite(address: write.address, bytes)
            }
        } catch { throw .trace(error) }
        return true
    }

    /// Records the interrupt.
    public mutating func interruption(
        _ interruption: Interruption
    ) throws(ExecutionError) -> Bool {
        do throws(TraceError) {
            if interruption.landmark != nil { try writer.world(.acknowledge) }
            try writer.interruption(interruption)
        } catch { throw .trace(error) }
        return true
    }

    /// Records it in the world stream.
    public mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {
        do throws(TraceError) {
            switch event {
            case .clock(let time), .wake(let time), .kick(let time):
                try writer.world(event.kind, microseconds: time)
            case .acknowledge: try writer.world(.acknowledge)
            case .input(let bytes): try writer.worldInput(bytes)
            }
        } catch { throw .trace(error) }
    }
}

extension Attended where Surroundings: ~Copyable, Listener == Recorder {
    /// Records the end and completes the trace.
    consuming func finish(
        _ end: EndRecord, memory: MemoryDigest?
    ) throws(TraceError) -> TraceSummary {
        try listener.writer.finish(end, memory: memory)
    }
}
