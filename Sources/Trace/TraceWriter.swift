public import Machine
import Synchronization
internal import Threads

#if canImport(Glibc)
    private import Glibc
#endif

/// Writes a trace.
///
/// While recording, the trace is `PATH.partial` and `PATH.partial-tail`; ``finish(_:memory:)`` makes
/// it `PATH`. Each event is in the mapped tail when its function returns, and stays readable if the
/// process dies. Compression and writing happen on a thread of their own; when that falls behind by
/// 16 blocks, the caller waits. Nothing is allocated per event. To be used by one thread at a time.
/// A writer that goes without `finish` leaves the two files, which ``TraceReader`` can open.
@safe
public struct TraceWriter: ~Copyable {
    /// Where the trace will be.
    public let path: String
    /// How far the recording is, for other threads.
    public let progress: TraceProgress
    /// Exits encoded so far: the number of the next.
    public private(set) var exitCount: UInt64 = 0
    /// Events encoded so far.
    public private(set) var eventCount: UInt64 = 0

    private let options: TraceOptions
    private let ring: EventRing
    private let core: WriterCore
    private let thread: WorkerThread
    private var encoder: RowEncoder

    /// The open slot's first frame, and its number from 1.
    private var frames: UnsafeMutableRawPointer
    private var committed: UnsafeMutablePointer<Atomic<UInt64>>
    private var ordinal: UInt64 = 0
    private var used = 0
    /// What counts towards the block's end, and how many events there are.
    private var counted = 0
    private var worldCounted = 0
    private var slotEvents = 0
    private var previousReturned: UInt64

    /// Creates the trace and writes its header.
    ///
    /// Errors: the output exists or is being recorded, or cannot be created or written.
    public init(
        path: String, header: TraceHeader, options: TraceOptions = TraceOptions()
    ) throws(TraceError) {
        precondition((1...Limits.vCPUs).contains(header.machine.vCPUCount))
        precondition(options.timing.map { $0.ticksPerSecond > 0 } ?? true)
        let new = try NewTrace(path, header, options)
        self.path = path
        self.options = options
        progress = new.progress
        ring = new.ring
        core = new.core
        thread = new.thread
        encoder = RowEncoder(vCPUCount: header.machine.vCPUCount)
        previousReturned = options.timing?.origin ?? 0
        // SAFETY: `openSlot` sets both before they are used.
        unsafe frames = ring.slot(1)
        unsafe committed = EventRing.committed(ring.slot(1))
        openSlot(1)
    }

    deinit {
        ring.close()
        thread.join()
    }

    // MARK: Events

    /// The initial state of a vCPU: one for each, before the first exit.
    public mutating func start(
        registers: GeneralRegisters, system: SystemRegisters, vCPU: UInt8 = 0
    ) throws(TraceError) {
        let to = try unsafe prepare(isExit: false)
        // SAFETY: `prepare` made room for a row; so in the functions below.
        commit(
            unsafe encoder.start(
                registers: registers, system: system, vCPU: vCPU, into: to))
    }

    /// A numbered exit.
    ///
    /// `entered` and `returned` are the counter when KVM_RUN was called and when it returned; they are
    /// ignored without timing. See ``RowEncoder/exit(_:flags:rewind:registers:system:vCPU:into:)``.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags = [], rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        vCPU: UInt8 = 0, entered: UInt64, returned: UInt64
    ) throws(TraceError) {
        // SAFETY: the caller gives pointers to whole register sets.
        try unsafe appendExit(
            detail, flags, rewind, registers, system, vCPU, entered, returned)
    }

    private mutating func appendExit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, _ flags: ExitFlags, _ rewind: UInt8,
        _ registers: UnsafePointer<GeneralRegisters>,
        _ system: UnsafePointer<SystemRegisters>, _ vCPU: UInt8, _ entered: UInt64,
        _ returned: UInt64
    ) throws(TraceError) {
        // SAFETY: see `exit`; a slot has room for the stamps of a cell's exits.
        var to = try unsafe prepare(isExit: true)
        let hasStamps = options.timing != nil
        if hasStamps {
            unsafe to.put(entered, at: 0)
            unsafe to.put(returned, at: 8)
            unsafe to += SideSlot.stampBytes
        }
        let length = unsafe encoder.exit(
            detail, flags: flags, rewind: rewind, registers: registers, system: system,
            vCPU: vCPU, into: to)
        previousReturned = returned
        exitCount += 1
        commit(length, hasStamps: hasStamps)
        progress.set(exits: exitCount)
    }

    /// What the world gave back for the last exit of this vCPU; at most 4096 bytes.
    public mutating func answer(
        _ form: AnswerForm, _ data: UnsafeRawBufferPointer, vCPU: UInt8 = 0
    ) throws(TraceError) {
        let to = try unsafe prepare(isExit: false)
        commit(unsafe encoder.answer(form, data, vCPU: vCPU, into: to))
    }

    /// What the runner did in the CPU's place, in order; at most 64 KiB in all.
    public mutating func completion(
        _ changes: [Change], vCPU: UInt8 = 0
    ) throws(TraceError) {
        let to = try unsafe prepare(isExit: false)
        commit(unsafe encoder.completion(changes, vCPU: vCPU, into: to))
    }

    /// Something that was injected: at the last exit, or at a landmark after it.
    public mutating func interruption(
        _ interruption: Interruption, vCPU: UInt8 = 0
    ) throws(TraceError) {
        let to = try unsafe prepare(isExit: false)
        commit(unsafe encoder.interruption(interruption, vCPU: vCPU, into: to))
    }

    /// Bytes that a device put in RAM; longer ones than 64 KiB become several events.
    public mutating func deviceWrite(
        address: GuestPhysicalAddress, _ data: UnsafeRawBufferPointer, vCPU: UInt8 = 0
    ) throws(TraceError) {
        var begin = 0
        repeat {
            let end = min(begin + Limits.deviceWriteBytes, data.count)
            let to = try unsafe prepare(isExit: false)
            commit(
                unsafe encoder.deviceWrite(
                    address: .init(address.rawValue &+ UInt64(begin)),
                    UnsafeRawBufferPointer(rebasing: data[begin..<end]), vCPU: vCPU, into: to))
            begin = end
        } while begin < data.count
    }

    // MARK: The world stream

    /// Something came from outside: it belongs to the last exit. Ignored in a trace without a world
    /// stream. Input has bytes: see ``worldInput(_:)``.
    public mutating func world(
        _ kind: WorldEvent.Kind, microseconds: UInt64 = 0
    ) throws(TraceError) {
        guard options.hasWorldStream, kind != .input else { return }
        let to = try unsafe prepareWorld()
        // SAFETY: `prepareWorld` made room for a row.
        commitWorld(unsafe WorldRow.put(kind, microseconds: microseconds, into: to))
    }

    /// The serial port took bytes: they belong to the event before, or else to the last exit.
    /// Ignored in a trace without a world stream.
    public mutating func worldInput(_ bytes: [UInt8]) throws(TraceError) {
        guard options.hasWorldStream else { return }
        var begin = 0
        while begin < bytes.count {
            let end = min(begin + Limits.worldInputBytes, bytes.count)
            let to = try unsafe prepareWorld()
            // SAFETY: `prepareWorld` made room for a row; the array outlives the call.
            let length = unsafe bytes.withUnsafeBytes {
                unsafe WorldRow.put(
                    input: UnsafeRawBufferPointer(rebasing: $0[begin..<end]), into: to)
            }
            commitWorld(length)
            begin = end
        }
    }

    private mutating func prepareWorld() throws(TraceError) -> UnsafeMutableRawPointer {
        if ring.hasFailed.load(ordering: .relaxed) { throw failure() }
        if worldCounted >= Limits.worldBlockBytes { try turnOver() }
        // SAFETY: `worldCounted` is below the limit, so the slot has room for one more frame.
        return unsafe frames + used + SideSlot.frameHeaderBytes
    }

    private mutating func commitWorld(_ length: Int) {
        worldCounted += length + SideSlot.frameHeaderBytes
        publish(length, hasStamps: false)
    }

    // MARK: The end

    /// Records the end, completes the file and gives it its name.
    ///
    /// On an error the partial file and the tail stay, with everything that was recorded.
    public consuming func finish(
        _ end: EndRecord, memory: MemoryDigest?
    ) throws(TraceError) -> TraceSummary {
        let to = try unsafe prepare(isExit: false)
        commit(unsafe encoder.end(end, memory: memory?.digest, into: to))
        ring.seal(ordinal)
        ring.close()
        thread.join()
        if let error = ring.error { throw error }
        let summary = try core.complete(
            exitCount: exitCount, eventCount: eventCount, memory: memory)
        let partial = Paths.partial(path)
        do throws(SystemError) {
            try Paths.rename(partial, to: path, replacing: options.overwrites)
        } catch {
            throw TraceError(error, file: partial, "the trace is complete, but not renamed")
        }
        Paths.remove(Paths.tail(ofPartial: partial))
        return summary
    }

    /// Gives the recording up and removes its files: for a run that never began.
    public consuming func discard() {
        let partial = Paths.partial(path)
        Paths.remove(partial)
        Paths.remove(Paths.tail(ofPartial: partial))
    }

    // MARK: Slots

    /// Makes sure that a frame of any length fits the open slot; returns where its body goes.
    @inline(__always)
    private mutating func prepare(isExit: Bool) throws(TraceError) -> UnsafeMutableRawPointer {
        if ring.hasFailed.load(ordering: .relaxed) { throw failure() }
        let isCellEnd = exitCount & (Limits.cellExits - 1) == 0 && exitCount != 0
        if counted >= Limits.hardBlockBytes
            || isExit && (counted >= Limits.softBlockBytes || isCellEnd && slotEvents > 0)
        {
            try turnOver()
        }
        // SAFETY: `counted` is below the hard limit, so the slot has room for one more frame.
        return unsafe frames + used + SideSlot.frameHeaderBytes
    }

    /// Makes the row that was written part of the slot.
    @inline(__always)
    private mutating func commit(_ length: Int, hasStamps: Bool = false) {
        counted += length + Limits.eventOverhead
        slotEvents += 1
        eventCount += 1
        publish(length, hasStamps: hasStamps)
    }

    /// Adds the frame of a row that lies in its place.
    @inline(__always)
    private mutating func publish(_ length: Int, hasStamps: Bool) {
        let stampBytes = hasStamps ? SideSlot.stampBytes : 0
        var word = UInt32(truncatingIfNeeded: length)
        if hasStamps { word |= SideSlot.stampsBit }
        // SAFETY: header, stamps and row lie in the room that `prepare` made.
        let check = unsafe hash64(
            UnsafeRawBufferPointer(
                start: frames + used + SideSlot.frameHeaderBytes, count: stampBytes + length),
            seed: SideSlot.seed(ordinal: ordinal, at: used) ^ UInt64(word) << 32)
        unsafe frames.put(word, at: used)
        unsafe frames.put(UInt32(truncatingIfNeeded: check), at: used + 4)
        used += SideSlot.frameHeaderBytes + stampBytes + length
        unsafe committed.pointee.store(UInt64(used), ordering: .releasing)
    }

    private func failure() -> TraceError {
        ring.error ?? TraceError(.damaged, file: path, "the trace could not be written")
    }

    @inline(never)
    private mutating func turnOver() throws(TraceError) {
        // A slot that was sealed before an error is not sealed again.
        ring.seal(ordinal)
        try ring.waitForSlot(ordinal + 1)
        openSlot(ordinal + 1)
    }

    private mutating func openSlot(_ newOrdinal: UInt64) {
        ordinal = newOrdinal
        let slot = unsafe ring.slot(newOrdinal)
        let states = unsafe slot + SideSlot.statesAt
        // SAFETY: the slot is ours now, and larger than its fixed part.
        unsafe committed = EventRing.committed(slot)
        unsafe committed.pointee.store(0, ordering: .sequentiallyConsistent)
        unsafe slot.put(newOrdinal, at: SideSlot.ordinalAt)
        unsafe slot.put(exitCount, at: SideSlot.firstExitAt)
        unsafe slot.put(previousReturned, at: SideSlot.previousReturnedAt)
        for vCPU in 0..<ring.vCPUCount {
            let state = encoder.snapshot(vCPU: UInt8(vCPU))
            let to = unsafe states + vCPU * RowLayout.stateBytes
            for index in 0..<RowLayout.registerCount {
                unsafe to.put(state.registers.words[index], at: index * 8)
            }
            for index in 0..<RowLayout.systemWordCount {
                unsafe to.put(
                    state.system.words[index], at: (RowLayout.registerCount + index) * 8)
            }
        }
        unsafe slot.put(
            SideSlot.check(slot, vCPUCount: ring.vCPUCount), at: SideSlot.checkAt)
        unsafe frames = slot + SideSlot.framesAt(vCPUCount: ring.vCPUCount)
        used = 0
        counted = 0
        worldCounted = 0
        slotEvents = 0
    }
}
