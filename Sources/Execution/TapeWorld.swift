public import Guest
public import Machine
public import Trace

/// The tape as the other side of the cut: it answers what was answered.
extension Tape: World {
    /// Gives the recorded counter.
    public mutating func timeStamp() throws(ExecutionError) -> UInt64 {
        var value: UInt64 = 0
        // SAFETY: the buffer is the local number.
        try unsafe withUnsafeMutableBytes(of: &value) { bytes throws(ExecutionError) in
            try unsafe fill(bytes, .timeStamp)
        }
        return UInt64(littleEndian: value)
    }

    /// Gives the recorded answer.
    public mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer {
        var answer = CPUIDAnswer(eax: 0, ebx: 0, ecx: 0, edx: 0)
        // SAFETY: the buffer is the local answer's four words, which are plain numbers.
        try unsafe withUnsafeMutableBytes(of: &answer.words) { bytes throws(ExecutionError) in
            try unsafe fill(bytes, .cpuid)
        }
        return answer
    }

    /// Gives the recorded write that is next.
    public mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] {
        // SAFETY: the bytes are copied before the tape moves.
        guard let write = try unsafe peek()?.deviceWrite else { return [] }
        return unsafe [DeviceWrite(address: write.address, bytes: Array(write.data))]
    }

    /// An instruction is completed where the tape has a completion next.
    public mutating func completesInstruction() throws(ExecutionError) -> Bool {
        guard let next = try unsafe peek() else { return false }
        return unsafe next.kind == .completion
    }

    /// Gives the recorded changes.
    public mutating func changesToMake(
        _ carriedOut: [Change]?
    ) throws(ExecutionError) -> [Change]? { try unsafe peek()?.changes }

    /// An interrupt waits where the tape has one next.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        guard let next = try unsafe peek() else { return false }
        return unsafe next.kind == .interruption
    }

    /// What waits is one where the tape has one next.
    public mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool {
        let snapshot = encoder.snapshot().registers
        return try unsafe peek()?.interruption(snapshot: snapshot)?.kind == .nmi
    }

    /// Gives the recorded vector. One that is no external interrupt at an exit shows in the
    /// comparison that follows.
    public mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        let snapshot = encoder.snapshot().registers
        return try unsafe peek()?.interruption(snapshot: snapshot)?.vector ?? 0
    }

    /// Where the interruption that is next was injected in mid-flight.
    public mutating func landmark() throws(ExecutionError) -> Landmark? {
        guard let next = try unsafe peek(), unsafe next.kind == .interruption else { return nil }
        let snapshot = encoder.snapshot().registers
        return unsafe next.interruption(snapshot: snapshot)?.landmark
    }

    /// Where the exit that is next on the tape is one that rewrites: its place.
    @inline(__always)
    public mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress? {
        guard let next = try unsafe peek(), unsafe next.kind == .exit else { return nil }
        return unsafe next.rewriting
    }

    /// The tape tells of them.
    @inline(__always)
    public var choosesRewritings: Bool { false }

    /// No device is there to know.
    @inline(__always)
    public mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) {}

    /// The row is passed when the interrupt is compared.
    public mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) {}

    /// Never: the tape tells where an interrupt is injected in mid-flight.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? { nil }

    /// Never.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool { false }

    /// No: the tape tells how the run ended.
    @inline(__always)
    public var watchesSilence: Bool { false }

    /// It runs on.
    public mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? { nil }

    /// No.
    @inline(__always)
    public var hasArrivals: Bool { false }

    /// Nothing.
    public mutating func tellArrivals<Listener: RunListener & ~Copyable>(
        _ listener: inout Listener
    ) throws(ExecutionError) {}

    /// Nobody leaves a tape that is replayed.
    @inline(__always)
    public var isLeavingTape: Bool { false }

    /// Cannot be.
    public mutating func leaveTape() throws(ExecutionError) {}

    /// Keeps what was missed for the report.
    public mutating func missed(_ miss: LandmarkMiss) { self.miss = miss }

    /// The guest's output went to the world then; nothing is to be done now.
    @inline(__always)
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}

    /// Gives the recorded bytes.
    @inline(__always)
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        try unsafe fill(bytes, .io)
    }

    /// The guest's write went to the world then; nothing is to be done now.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}

    /// Gives the recorded bytes.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        try unsafe fill(bytes, .mmio)
    }

    /// Gives the recorded value.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        try msrAnswer()
    }

    /// Gives the recorded verdict.
    public mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool {
        try msrAnswer() != nil
    }

    /// Copies the answer that is next on the tape. Where there is none of that size, zeros: the
    /// comparison that follows sees that the rows differ.
    @inline(__always)
    private mutating func fill(
        _ bytes: UnsafeMutableRawBufferPointer, _ form: AnswerForm
    ) throws(ExecutionError) {
        // SAFETY: both buffers hold `bytes.count` bytes, which is checked.
        guard let next = try unsafe peek(), let answer = unsafe next.answer,
            unsafe answer.form == form, unsafe answer.data.count == bytes.count
        else {
            for index in 0..<bytes.count { unsafe bytes[index] = 0 }
            return
        }
        unsafe bytes.copyMemory(from: answer.data)
    }

    private mutating func msrAnswer() throws(ExecutionError) -> UInt64? {
        // SAFETY: the answer's bytes are read before the tape moves.
        guard let next = try unsafe peek(), let answer = unsafe next.answer,
            unsafe answer.form == .msr, unsafe answer.data.count == 9,
            unsafe answer.data[0] == 0
        else { return nil }
        var value: UInt64 = 0
        for index in 0..<8 {
            value |= unsafe UInt64(answer.data[index + 1]) << UInt64(index * 8)
        }
        return value
    }

    /// The run ends where the tape says so.
    @inline(__always)
    public mutating func verdict(
        natural: Ending?, canWake: Bool
    ) throws(ExecutionError) -> Verdict {
        guard let next = try unsafe peek() else { return .endOfTape }
        guard unsafe next.kind == .end, let end = unsafe next.end else {
            return unsafe next.kind == .deviceWrite ? .transfer : .go
        }
        return .end(
            Ending(
                end.event.reason, guestStatus: end.event.guestStatus,
                isInMidFlight: end.event.isInMidFlight))
    }
}
