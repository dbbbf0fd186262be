import Guest
import Machine
import TestSupport
import Testing

@testable import Execution
@testable import KVM
@testable import Trace

/// Interrupts at exits: when the loop gives one to the CPU, what it tells, and what tapes do.
@Suite struct InterruptTests {
    typealias CPU = ScriptedCPU

    /// Registers with interrupts enabled.
    private static func enabled(_ number: UInt64) -> GeneralRegisters {
        var registers = registers(number)
        registers[.rflags] = 0x202
        return registers
    }

    private struct Result {
        var outcome: LoopOutcome
        var exits: UInt64
        var injected: [[Int]]
        var calls: [ScriptedSide.Call]
    }

    private func run(
        _ steps: [CPU.Step], vectors: [UInt8], isReady: Bool = true, settling: [Exit] = []
    ) throws -> Result {
        var cpu = CPU(steps)
        cpu.isReadyForInterrupt = isReady
        cpu.settlingSteps = settling
        var side = ScriptedSide()
        side.interrupts = vectors
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let memory = try smallMemory()
        let outcome = try loop.run(&cpu, &side, memory: memory)
        return Result(
            outcome: outcome, exits: loop.exitCount,
            injected: cpu.injected.map { [Int($0.vector), $0.runs] }, calls: side.calls)
    }

    @Test func `an interrupt is given to the CPU at its next exit, one an exit`() throws {
        let result = try run(
            [
                CPU.portOut(1, [1], registers: Self.enabled(1)),
                CPU.portOut(1, [2], registers: Self.enabled(2)),
            ], vectors: [0x20, 0x21])
        #expect(result.exits == 3)
        #expect(result.injected == [[0x20, 1], [0x21, 2]])
        let told = result.calls.filter { if case .exit = $0 { false } else { true } }
        #expect(
            told == [
                .verdict(nil), .portOut(1, size: 1, [1]), .verdict(nil), .acknowledge,
                .interruption(0x20), .verdict(nil), .portOut(1, size: 1, [2]), .verdict(nil),
                .acknowledge, .interruption(0x21), .verdict(nil), .verdict(Ending(.halted)),
            ])
    }

    @Test func `an interrupt waits while the CPU does not take any`() throws {
        let disabled = try run(
            [CPU.portOut(1, [1], registers: registers(1))], vectors: [0x20])
        #expect(disabled.injected == [])
        #expect(!disabled.calls.contains(.acknowledge))
        let shadowed = try run(
            [CPU.portOut(1, [1], registers: Self.enabled(1))], vectors: [0x20], isReady: false)
        #expect(shadowed.injected == [])
        #expect(!shadowed.calls.contains(.acknowledge))
        // Enabled later: then.
        let later = try run(
            [
                CPU.portOut(1, [1], registers: registers(1)),
                CPU.portOut(1, [2], registers: Self.enabled(2)),
            ], vectors: [0x20])
        #expect(later.injected == [[0x20, 2]])
    }

    @Test func `what an exit left pending is finished first, by exits that count`() throws {
        let second = MMIO(address: GuestPhysicalAddress(0xD000_1000), size: 4, isWrite: true)
        let result = try run(
            [
                .exit(
                    .mmio(
                        MMIO(address: GuestPhysicalAddress(0xD000_0FFC), size: 4, isWrite: true)),
                    value: 7, registers: Self.enabled(1))
            ], vectors: [0x30], settling: [.irqWindowOpen, .mmio(second)])
        #expect(result.exits == 3)
        #expect(result.injected == [[0x30, 1]])
        let kinds = result.calls.compactMap { call -> String? in
            switch call {
            case .memoryWrite(let address, _): "write \(address == 0xD000_1000 ? 2 : 1)"
            case .interruption: "interruption"
            default: nil
            }
        }
        #expect(kinds == ["write 1", "write 2", "interruption"])
    }

    // MARK: On tape

    /// Records a script with one interrupt after its first exit.
    private static func record(
        _ steps: [CPU.Step], to path: String, stop: StopRequest = StopRequest(),
        completes: Bool = true
    ) throws -> LoopOutcome {
        var writer = try TraceWriter(
            path: path, header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)))
        try writer.start(registers: registers(0), system: SystemRegisters())
        var side = Attended(world: InterruptingWorld(), listener: Recorder(writer: writer))
        var cpu = CPU(steps, registers: registers(0))
        var loop = RunLoop(behaviour: HostBehaviour(), stop: stop)
        let memory = try smallMemory()
        let outcome = try loop.run(&cpu, &side, memory: memory)
        guard completes else {
            _ = consume side
            return outcome
        }
        let report = unsafe RunReport(
            outcome: outcome, exitCount: loop.exitCount, nanoseconds: 0,
            registers: cpu.registersPointer.pointee,
            systemRegisters: cpu.systemRegistersPointer.pointee)
        let isInMidFlight = report.ending.isInMidFlight
        _ = try side.finish(EndRecord(report), memory: isInMidFlight ? nil : MemoryDigest())
        return outcome
    }

    private static func replay(
        _ steps: [CPU.Step], _ reader: TraceReader
    ) throws -> (outcome: LoopOutcome, exits: UInt64, injected: [UInt8], mismatch: TapeMismatch?) {
        var tape = try Tape(
            reader.tape(), file: "t", registers: registers(0), system: SystemRegisters(),
            progress: ReplayProgress())
        var cpu = CPU(steps, registers: registers(0))
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let memory = try smallMemory()
        let outcome = try loop.run(&cpu, &tape, memory: memory)
        return (outcome, loop.exitCount, cpu.injected.map(\.vector), tape.mismatch)
    }

    private static let steps = [
        CPU.portOut(1, [1], registers: enabled(1)), CPU.portOut(1, [2], registers: registers(2)),
    ]

    @Test func `a tape gives the interrupt at the same exit`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let path = directory.file("t.vmtape")
        #expect(try Self.record(Self.steps, to: path) == .ended(Ending(.halted)))
        let result = try Self.replay(Self.steps, TraceReader(path: path))
        #expect(result.outcome == .ended(Ending(.halted)))
        #expect(result.injected == [0x42])
        #expect(result.mismatch == nil)
    }

    @Test func `a CPU that does not take the interrupt on tape differs at its next exit`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let path = directory.file("t.vmtape")
        _ = try Self.record(Self.steps, to: path)
        var closed = Self.steps
        // The registers at the exit are the same; it is the CPU that is not ready.
        closed[0] = CPU.portOut(1, [1], registers: registers(1))
        let result = try Self.replay(closed, TraceReader(path: path))
        #expect(result.outcome == .endedByListener)
        #expect(result.exits == 0)
        #expect(result.injected == [])
    }

    @Test func `a tape that ends after an interrupt does not enter the CPU again`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        func steps(_ stop: StopRequest) -> [CPU.Step] {
            [
                Self.steps[0],
                .then {
                    stop.request(.timeLimit)
                    stop.insist()
                }, .interrupted,
            ]
        }
        let endless = [Self.steps[0], .then { Issue.record("ran on beyond the end of the tape") }]
        let ended = directory.file("ended.vmtape")
        var stop = StopRequest()
        let outcome = try Self.record(steps(stop), to: ended, stop: stop)
        #expect(outcome == .stopped(.timeLimit, isInMidFlight: true))
        let first = try Self.replay(endless, TraceReader(path: ended))
        #expect(first.outcome == .ended(Ending(.timeLimit, isInMidFlight: true)))
        #expect(first.exits == 1)
        #expect(first.injected == [0x42])

        let killed = directory.file("killed.vmtape")
        stop = StopRequest()
        _ = try Self.record(steps(stop), to: killed, stop: stop, completes: false)
        let second = try Self.replay(endless, TraceReader(path: killed + ".partial"))
        #expect(second.outcome == .endOfTape)
        #expect(second.exits == 1)
        #expect(second.injected == [0x42])
    }
}

/// A world with one interrupt, which waits from the first exit on.
private struct InterruptingWorld: PlainWorld, ~Copyable {
    private var exits = 0
    private var isTaken = false

    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) { exits += 1 }
    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {}
    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}
    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {}
    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? { nil }
    mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool { false }
    mutating func timeStamp() throws(ExecutionError) -> UInt64 { 0 }
    mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer { CPUIDAnswer(eax: 0, ebx: 0, ecx: 0, edx: 0) }
    mutating func verdict(natural: Ending?, canWake: Bool) throws(ExecutionError) -> Verdict {
        natural.map { .end($0) } ?? .go
    }
    mutating func hasInterrupt() throws(ExecutionError) -> Bool { exits > 0 && !isTaken }
    mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        isTaken = true
        return 0x42
    }
}
