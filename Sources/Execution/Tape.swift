internal import Glibc
public import Machine
public import Trace

/// The taped world: answers what the trace says the live world answered, and compares every event
/// with what was recorded.
///
/// Every event that happens is encoded by the same encoder that recorded it, and its row compared
/// byte for byte with the row on the tape: what is recorded is what is verified.
@safe
public struct Tape: RunListener, ~Copyable {
    private var cursor: TapeCursor
    private(set) var encoder: RowEncoder
    private let progress: ReplayProgress
    private var exitCount: UInt64 = 0
    /// Where rows of what really happens are encoded.
    private let row: UnsafeMutableRawPointer
    /// Rows passed since the last exit row, which is one of them; since the start before the first.
    private(set) var rowsSinceExit = 0
    /// What happened instead of what was recorded, once the two part.
    public private(set) var mismatch: TapeMismatch?
    /// The landmark that was not found, once one is not.
    public internal(set) var miss: LandmarkMiss?

    /// Plays a tape from its beginning.
    ///
    /// - Throws: where the trace does not begin with a vCPU's start.
    public init(
        _ cursor: consuming TapeCursor, file: String, registers: GeneralRegisters,
        system: SystemRegisters, progress: ReplayProgress
    ) throws(ExecutionError) {
        self.progress = progress
        encoder = RowEncoder(vCPUCount: 1)
        // SAFETY: owned by self, freed in deinit, as long as the longest row.
        unsafe row = .allocate(byteCount: RowEncoder.maximumRowBytes, alignment: 16)
        self.cursor = cursor
        let length = unsafe encoder.start(registers: registers, system: system, into: row)
        guard try compare(length) else {
            if mismatch?.isTapeEnd == true {
                throw .cannotReplay("\(file): the trace holds no event, not even the start")
            }
            return
        }
    }

    deinit {
        // SAFETY: allocated in init, and nothing else frees it.
        unsafe row.deallocate()
    }

    /// Takes a tape up again at a place where it was before.
    ///
    /// - Parameter cursor: from ``Place/firstExit`` on.
    /// - Throws: where the trace does not hold that place.
    init(
        _ cursor: consuming TapeCursor, file: String, at place: Place, progress: ReplayProgress
    ) throws(ExecutionError) {
        self.progress = progress
        encoder = RowEncoder(vCPUCount: 1)
        encoder.setSnapshot(registers: place.registers, system: place.system)
        // SAFETY: owned by self, freed in deinit, as long as the longest row.
        unsafe row = .allocate(byteCount: RowEncoder.maximumRowBytes, alignment: 16)
        self.cursor = cursor
        exitCount = place.exitCount
        var left = place.rowsSinceExit
        while left > 0 {
            guard let passed = try unsafe next() else {
                throw .cannotReplay(
                    "\(file): the trace ends before a place at which it was read before "
                        + "(exit \(place.firstExit)); it was changed meanwhile")
            }
            // The start comes before the first exit, and is not counted after it.
            let isCounted = unsafe place.exitCount == 0 || passed.kind != .start
            if isCounted { left -= 1 }
        }
        rowsSinceExit = place.rowsSinceExit
        progress.set(exitCount)
    }

    /// A place on a tape between two rows, to come back to. Places of one tape are compared.
    struct Place: Equatable, Sendable {
        static func == (a: Self, b: Self) -> Bool {
            a.exitCount == b.exitCount && a.rowsSinceExit == b.rowsSinceExit
        }

        var exitCount: UInt64
        var rowsSinceExit: Int
        // What rows are encoded relative to.
        var registers: GeneralRegisters
        var system: SystemRegisters

        /// The exit from which on a cursor finds it: what follows an exit is found from it on.
        var firstExit: UInt64 { exitCount == 0 ? 0 : exitCount - 1 }
    }

    /// Where the tape stands.
    var place: Place {
        let snapshot = encoder.snapshot()
        return Place(
            exitCount: exitCount, rowsSinceExit: rowsSinceExit, registers: snapshot.registers,
            system: snapshot.system)
    }

    /// Compares the row that was just encoded with the next one on the tape.
    private mutating func compare(
        _ length: Int
    ) throws(ExecutionError) -> Bool {
        rowsSinceExit += 1
        // SAFETY: the tape's row is valid until the next call; ours has `length` bytes.
        guard let expected = try unsafe next() else {
            mismatch = TapeMismatch(
                expected: [],
                actual: unsafe Array(UnsafeRawBufferPointer(start: row, count: length)))
            return false
        }
        let bytes = unsafe expected.bytes
        if bytes.count == length, let base = bytes.baseAddress,
            unsafe memoryIsEqual(base, row, length)
        {
            return true
        }
        mismatch = unsafe TapeMismatch(
            expected: Array(bytes), actual: Array(UnsafeRawBufferPointer(start: row, count: length))
        )
        return false
    }

    @inline(__always)
    private mutating func next() throws(ExecutionError) -> TapeRow? {
        do throws(TraceError) { return unsafe try cursor.next() } catch { throw .trace(error) }
    }

    /// The row that comes next; valid until the tape moves.
    @inline(__always)
    mutating func peek() throws(ExecutionError) -> TapeRow? {
        do throws(TraceError) { return unsafe try cursor.peek() } catch { throw .trace(error) }
    }

    // MARK: The listener

    /// It does.
    @inline(__always)
    public static var isListening: Bool { true }

    /// Compares the exit.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the pointers are the loop's, valid during the call.
        let length = unsafe encoder.exit(
            detail, flags: flags, rewind: rewind, registers: registers, system: system, into: row)
        guard try compare(length) else { return false }
        exitCount += 1
        rowsSinceExit = 1
        progress.set(exitCount)
        return true
    }

    /// Compares the answer, which was taken from the very row: always equal, and the tape moves on.
    @inline(__always)
    public mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        // SAFETY: the buffer is the loop's, valid during the call.
        let length = unsafe encoder.answer(form, bytes, into: row)
        return try compare(length)
    }

    /// Compares the completion with the recorded one.
    public mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool {
        try compare(unsafe encoder.completion(changes, into: row))
    }

    /// Compares the write, which was taken from the very row.
    public mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool {
        // SAFETY: the buffer is the array's, alive through the call.
        let length = unsafe write.bytes.withUnsafeBytes { bytes in
            unsafe encoder.deviceWrite(address: write.address, bytes, into: row)
        }
        return try compare(length)
    }

    /// Compares the interrupt, which was taken from the very row.
    public mutating func interruption(
        _ interruption: Interruption
    ) throws(ExecutionError) -> Bool {
        try compare(unsafe encoder.interruption(interruption, into: row))
    }

    /// Nothing comes from outside.
    public mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {}

    // MARK: The end

    /// Compares the end of the run: reason, registers and the digest of RAM.
    mutating func compareEnd(
        _ end: EndRecord, memory: Digest128?
    ) throws(ExecutionError) -> Bool {
        let length = unsafe encoder.end(end, memory: memory, into: row)
        return try compare(length)
    }
}

/// Rows of an event that happened and of the one that was recorded in its place.
public struct TapeMismatch: Sendable {
    /// The recorded row; empty where the tape has ended.
    public var expected: [UInt8]
    /// The row of what happened.
    public var actual: [UInt8]

    /// The tape had no further event.
    public var isTapeEnd: Bool { expected.isEmpty }
}

/// memcmp(3) without importing it into the hot path's types.
@inline(__always)
private func memoryIsEqual(
    _ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ count: Int
) -> Bool {
    // SAFETY: the caller vouches for `count` bytes at both.
    unsafe memcmp(a, b, count) == 0
}
