@testable import Execution
import Guest

import Machine
import TestSupport

@testable import KVM
@testable import Trace

/// A trace of a scripted CPU, recorded by the recorder that records real ones.
struct ScriptedRecording {
    let directory: TemporaryDirectory
    let path: String
    let outcome: LoopOutcome
    let exitCount: UInt64

    /// How a recording ends.
    enum Finish {
        /// The trace is completed.
        case complete
        /// The recorder dies: a partial trace and its side file stay.
        case killed
    }

    /// Records a script, answered by a scripted world.
    ///
    /// - Parameters:
    ///   - memory: the digest of RAM at the end.
    ///   - end: recorded as the end, whatever it was.
    ///   - finalRegisters: recorded as the last, whatever they were.
    init(
        _ steps: [ScriptedCPU.Step], start: GeneralRegisters = registers(0),
        finish: Finish = .complete, memory: MemoryDigest? = nil, end: Ending? = nil,
        stop: StopRequest = StopRequest(), finalRegisters: GeneralRegisters? = nil
    ) throws {
        directory = try TemporaryDirectory()
        path = directory.file("t.vmtape")
        var writer = try TraceWriter(
            path: path,
            header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)))
        try writer.start(registers: start, system: SystemRegisters())
        let world = ScriptedWorld()
        var side = Attended(world: world, listener: Recorder(writer: writer))
        var cpu = ScriptedCPU(steps, registers: start)
        var loop = RunLoop(behaviour: HostBehaviour(), stop: stop)
        let ram = try smallMemory()
        outcome = try loop.run(&cpu, &side, memory: ram)
        exitCount = loop.exitCount
        if case .killed = finish {
            _ = consume side
            return
        }
        let ending: Ending
        if let end {
            ending = end
        } else if case .ended(let natural) = outcome {
            ending = natural
        } else {
            ending = Ending(.runnerError)
        }
        // SAFETY: the pointers are the CPU's own, which lives on.
        let record = unsafe EndRecord(
            reason: ending.reason, guestStatus: ending.guestStatus,
            isInMidFlight: ending.isInMidFlight,
            registers: finalRegisters ?? cpu.registersPointer.pointee,
            system: cpu.systemRegistersPointer.pointee)
        _ = try side.finish(record, memory: memory)
    }

    /// Opens what there is: the trace, or its partial file.
    func reader() throws -> TraceReader {
        try TraceReader(path: Files.exists(path) ? path : path + ".partial")
    }
}

/// A recording whose disk becomes full.
struct FullDisk {
    let directory: TemporaryDirectory
    let path: String
    /// Exits that were encoded before that was noticed.
    let exitCount: UInt64
    /// What the recorder said.
    let message: String

    init(_ steps: [ScriptedCPU.Step], maximumFileBytes: UInt64) throws {
        directory = try TemporaryDirectory()
        path = directory.file("t.vmtape")
        var options = TraceOptions()
        options.maximumFileBytes = maximumFileBytes
        var writer = try TraceWriter(
            path: path,
            header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)),
            options: options)
        try writer.start(registers: registers(0), system: SystemRegisters())
        var side = Attended(world: ScriptedWorld(), listener: Recorder(writer: writer))
        var cpu = ScriptedCPU(steps)
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let ram = try smallMemory()
        do throws(ExecutionError) {
            let outcome = try loop.run(&cpu, &side, memory: ram)
            message = "not full: \(outcome)"
        } catch { message = error.description }
        exitCount = loop.exitCount
    }
}

/// A world of bytes that count up.
struct ScriptedWorld: QuietWorld, ~Copyable {
    private var count: UInt8 = 0x20

    init() {}

    private mutating func next() -> UInt8 {
        defer { count &+= 1 }
        return count
    }

    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}

    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, filled during the call.
        for index in 0..<bytes.count { unsafe bytes[index] = next() }
    }

    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}

    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, filled during the call.
        for index in 0..<bytes.count { unsafe bytes[index] = next() }
    }

    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        index == 0x10 ? 0x1234_5678_9ABC_DEF0 : nil
    }

    mutating func writeMSR(_ index: UInt32, _ value: UInt64) throws(ExecutionError) -> Bool {
        index == 0x10
    }

    mutating func verdict(natural: Ending?, canWake: Bool) throws(ExecutionError) -> Verdict {
        natural.map { .end($0) } ?? .go
    }
}
