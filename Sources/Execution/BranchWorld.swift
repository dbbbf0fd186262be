internal import Glibc
public import Guest
public import Machine
public import Trace

/// What the tape answers while it does, with the devices asked too; then what they answer.
extension Branch: World where Listener: ~Copyable {
    /// The run goes live, or on as the tape says if the devices agree.
    public mutating func verdict(
        natural: Ending?, canWake: Bool
    ) throws(ExecutionError) -> Verdict {
        if !isLive, exitCount == liveAfter { goLive() }
        if isLive {
            let verdict = try world.verdict(natural: natural, canWake: canWake)
            try tellArrivals()
            return verdict
        }
        let taped = try tape.verdict(natural: natural, canWake: canWake)
        switch taped {
        case .end, .endOfTape: return taped
        case .go, .transfer: break
        }
        // An instruction that was completed is no end for anybody.
        let own = try world.verdict(natural: natural, canWake: canWake)
        try endRerunStep()
        switch own {
        case .go: if taped == .transfer { disagree("the tape has a write to RAM of a device here") }
        case .transfer: break
        case .end, .endOfTape: disagree("the devices end the run here, and the tape goes on")
        }
        return disagreement == nil ? own : .endOfTape
    }

    /// The devices', compared when the loop tells of it.
    public mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] { try world.deviceWrites(memory) }

    /// As the tape has it.
    public mutating func completesInstruction() throws(ExecutionError) -> Bool {
        isLive ? try world.completesInstruction() : try tape.completesInstruction()
    }

    /// As the tape has it.
    public mutating func changesToMake(
        _ carriedOut: [Change]?
    ) throws(ExecutionError) -> [Change]? {
        isLive ? try world.changesToMake(carriedOut) : try tape.changesToMake(carriedOut)
    }

    /// As the tape has it; the loop looks for the place where the tape is left as it does for that
    /// of an interrupt.
    @inline(__always)
    public mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        if isLive { return try world.hasInterrupt() }
        if isLeavingTape { return true }
        return try tape.hasInterrupt()
    }

    /// Everything on tape that comes before that place is done.
    @inline(__always)
    public var isLeavingTape: Bool {
        guard !isLive, let departure, departure.exitCount == exitCount else { return false }
        return departure.rowsSinceExit == tape.rowsSinceExit
    }

    /// There it goes live.
    public mutating func leaveTape() throws(ExecutionError) { goLive() }

    /// The tape's vector, which the devices must give too.
    public mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        if isLive { return try world.acknowledgeInterrupt() }
        let isInMidFlight = try tape.landmark() != nil
        let vector = try tape.acknowledgeInterrupt()
        let own = try world.acknowledgeAgain(isInMidFlight: isInMidFlight)
        try endRerunStep()
        if own != vector {
            disagree("the devices interrupt with vector \(own), and the tape has \(vector)")
        }
        return vector
    }

    /// As the tape has it.
    public mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool {
        isLive ? try world.hasNonMaskableInterrupt() : try tape.hasNonMaskableInterrupt()
    }

    /// The devices must have had one.
    public mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) {
        if !isLive, try !world.hasNonMaskableInterrupt() {
            disagree("the tape has a non-maskable interrupt, and the devices have none")
        }
        try world.acknowledgeNonMaskableInterrupt()
    }

    /// Live only.
    @inline(__always)
    public mutating func kickDelay() throws(ExecutionError) -> UInt64? {
        isLive ? try world.kickDelay() : nil
    }

    /// Live only.
    public mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool {
        guard isLive else { return false }
        let isOverdue = try world.hasOverdueInterrupt()
        try tellArrivals()
        return isOverdue
    }

    /// Live only.
    public var watchesSilence: Bool { isLive && world.watchesSilence }

    /// Live only.
    public mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? {
        guard isLive else { return nil }
        let ending = try world.silence(
            exitCount: exitCount, progress: progress, canWake: canWake)
        try tellArrivals()
        return ending
    }

    /// The tape's.
    public mutating func landmark() throws(ExecutionError) -> Landmark? {
        if isLive { return nil }
        return isLeavingTape ? departure?.landmark : try tape.landmark()
    }

    /// Kept for the report.
    public mutating func missed(_ miss: LandmarkMiss) { tape.missed(miss) }

    /// The devices do what they did.
    @inline(__always)
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the loop's, valid during the call.
        try unsafe world.portOut(port, size: size, bytes: bytes)
        if isLive { try tellArrivals() } else { try endRerunStep() }
    }

    /// The tape's bytes, which the devices must give too.
    @inline(__always)
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffers are the loop's, valid during the call, and `scratch`.
        if isLive {
            try unsafe world.portIn(port, size: size, into: bytes)
            try tellArrivals()
            return
        }
        try unsafe tape.portIn(port, size: size, into: bytes)
        let own = unsafe UnsafeMutableRawBufferPointer(rebasing: scratch.bytes[..<bytes.count])
        try unsafe world.portIn(port, size: size, into: own)
        try endRerunStep()
        unsafe compare(bytes, "port 0x\(String(port, radix: 16))")
    }

    /// The devices do what they did.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the loop's, valid during the call.
        try unsafe world.memoryWrite(address, bytes: bytes)
        if isLive { try tellArrivals() } else { try endRerunStep() }
    }

    /// The tape's bytes, which the devices must give too.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffers are the loop's, valid during the call, and `scratch`.
        if isLive {
            try unsafe world.memoryRead(address, into: bytes)
            try tellArrivals()
            return
        }
        try unsafe tape.memoryRead(address, into: bytes)
        let own = unsafe UnsafeMutableRawBufferPointer(rebasing: scratch.bytes[..<bytes.count])
        try unsafe world.memoryRead(address, into: own)
        try endRerunStep()
        unsafe compare(bytes, "memory 0x\(String(address.rawValue, radix: 16))")
    }

    /// What the devices know of the CPU, taped or live.
    @inline(__always)
    public mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) {
        try world.processorHolds(taskPriorityClass: taskPriorityClass, apicBase: apicBase)
    }

    /// The tape's.
    @inline(__always)
    public mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress? {
        isLive ? nil : try tape.nextRewriting()
    }

    /// Once it is live.
    @inline(__always)
    public var choosesRewritings: Bool { isLive }

    /// No: the listener is told at once.
    @inline(__always)
    public var hasArrivals: Bool { false }

    /// Nothing is left to tell.
    public mutating func tellArrivals<Other: RunListener & ~Copyable>(
        _ listener: inout Other
    ) throws(ExecutionError) {}

    /// The tape's answer; the world is asked too.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        if isLive {
            let value = try world.readMSR(index)
            try tellArrivals()
            return value
        }
        _ = try world.readMSR(index)
        try endRerunStep()
        return try tape.readMSR(index)
    }

    /// The tape's answer; the world is told too.
    public mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool {
        if isLive {
            let isTaken = try world.writeMSR(index, value)
            try tellArrivals()
            return isTaken
        }
        _ = try world.writeMSR(index, value)
        try endRerunStep()
        return try tape.writeMSR(index, value)
    }

    /// The tape's, from which live time goes on.
    public mutating func timeStamp() throws(ExecutionError) -> UInt64 {
        if isLive { return try world.timeStamp() }
        let value = try tape.timeStamp()
        try world.timeStampAgain(value)
        try endRerunStep()
        return value
    }

    /// The tape's.
    public mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer {
        isLive
            ? try world.cpuid(function: function, index: index, system: system)
            : try tape.cpuid(function: function, index: index, system: system)
    }

    /// Compares the devices' bytes, at the front of `scratch`, with the tape's.
    mutating func compare(
        _ bytes: UnsafeMutableRawBufferPointer, _ place: @autoclosure () -> String
    ) {
        // SAFETY: both hold `bytes.count` bytes: exits have no more than 4096.
        guard let taped = bytes.baseAddress, let own = unsafe scratch.bytes.baseAddress,
            unsafe memcmp(taped, own, bytes.count) != 0
        else { return }
        var difference = 0
        while unsafe difference < bytes.count - 1 && bytes[difference] == scratch.bytes[difference]
        {
            difference += 1
        }
        let (tapedByte, ownByte) = unsafe (bytes[difference], scratch.bytes[difference])
        disagree(
            "\(place()) reads 0x\(String(ownByte, radix: 16)) from the devices, and the tape has "
                + "0x\(String(tapedByte, radix: 16))")
    }
}

/// Room for the longest answer (FORMAT.md): 4096 bytes.
@safe
struct AnswerBuffer: ~Copyable {
    let bytes: UnsafeMutableRawBufferPointer

    init() {
        // SAFETY: owned by self, freed in deinit.
        unsafe bytes = .allocate(byteCount: 4096, alignment: 16)
    }

    deinit {
        // SAFETY: allocated in init, and nothing else frees it.
        unsafe bytes.deallocate()
    }
}
