import Guest
import Machine
import TestSupport
import Testing

@testable import Execution
@testable import KVM
@testable import Trace

/// A scripted CPU against the tape of a scripted CPU: equal where equal, and where not, a
/// divergence that says what differs.
@Suite struct TapeTests {
    typealias CPU = ScriptedCPU

    /// One exit of every kind that is answered, with registers that move on.
    static func script() -> [CPU.Step] {
        [
            CPU.portOut(0x80, [1], registers: registers(1, rip: 0x1002)),
            CPU.portIn(0x3FD),
            CPU.portIn(0x1F0, size: 2, count: 3),
            CPU.read(0xD000_0000, size: 4),
            CPU.write(0xD000_0004, size: 8, 0x1122_3344_5566_7788),
            CPU.rdmsr(0x10),
            CPU.rdmsr(0x11),
            CPU.wrmsr(0x10, 7),
            CPU.wrmsr(0x12, 8),
            CPU.portOut(0x3F8, Array("hello".utf8), registers: registers(2, rip: 0x1010)),
            .exit(.hlt, registers: registers(3, rip: 0x1011)),
        ]
    }

    /// What a replay of a scripted CPU gives.
    struct Replay {
        var outcome: LoopOutcome
        var exitCount: UInt64
        var answers: [CPU.Answer]
        var divergence: ReplayDivergence?
        var isTapeEnd: Bool
        var progress: UInt64
    }

    /// Replays a script against a trace, as a replay session does.
    static func replay(
        _ steps: [CPU.Step], _ reader: TraceReader, start: GeneralRegisters = registers(0),
        memory: MemoryDigest = MemoryDigest()
    ) throws -> Replay {
        let progress = ReplayProgress()
        var tape = try Tape(
            try reader.tape(), file: "t", registers: start, system: SystemRegisters(),
            progress: progress)
        if let mismatch = tape.mismatch {
            return Replay(
                outcome: .endedByListener, exitCount: 0, answers: [],
                divergence: ReplayDivergence(
                    mismatch, place: .start, exitNumber: 0, reader: reader, registers: start,
                    system: SystemRegisters()), isTapeEnd: mismatch.isTapeEnd, progress: 0)
        }
        var cpu = CPU(steps, registers: start)
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let ram = try smallMemory()
        let outcome = try loop.run(&cpu, &tape, memory: ram)
        // SAFETY: the pointers are the CPU's own, which lives on.
        let (final, system) = unsafe (
            cpu.registersPointer.pointee, cpu.systemRegistersPointer.pointee
        )
        var place = ReplayDivergence.Place.exit
        if case .ended(let ending) = outcome, !ending.isInMidFlight {
            place = .end
            let record = EndRecord(
                reason: ending.reason, guestStatus: ending.guestStatus, registers: final,
                system: system)
            _ = try tape.compareEnd(record, memory: memory.digest)
        }
        let divergence = tape.mismatch.map {
            ReplayDivergence(
                $0, place: place, exitNumber: loop.exitCount, reader: reader, registers: final,
                system: system)
        }
        return Replay(
            outcome: outcome, exitCount: loop.exitCount, answers: cpu.answers,
            divergence: divergence, isTapeEnd: tape.mismatch?.isTapeEnd ?? false,
            progress: progress.exitCount)
    }

    @Test func `the same CPU gets the same answers, and nothing differs`() throws {
        let recording = try ScriptedRecording(Self.script(), memory: MemoryDigest())
        let result = try Self.replay(Self.script(), recording.reader())
        #expect(result.outcome == .ended(Ending(.halted)))
        #expect(result.exitCount == 11)
        #expect(result.progress == 11)
        #expect(result.divergence == nil)
        #expect(
            result.answers == [
                .io([0x20]), .io([0x21, 0x22, 0x23, 0x24, 0x25, 0x26]), .mmio(0x2A29_2827),
                .msr(0x1234_5678_9ABC_DEF0, fault: false), .msr(0, fault: true),
                .msr(0, fault: false), .msr(0, fault: true),
            ])
    }

    // MARK: Differences

    /// One step of the script replaced, and where and how that shows.
    struct Difference: CustomTestStringConvertible, Sendable {
        var name: String
        var index: Int
        var step: CPU.Step
        var registers: [String] = []
        var testDescription: String { name }
    }

    static let differences: [Difference] = [
        .init(
            name: "a register", index: 0,
            step: CPU.portOut(0x80, [1], registers: ExecutionTests.registers(9, rip: 0x1002)),
            registers: ["rax"]),
        .init(
            name: "RIP", index: 0,
            step: CPU.portOut(0x80, [1], registers: ExecutionTests.registers(1, rip: 0x1004)),
            registers: ["rip"]),
        .init(
            name: "RFLAGS", index: 9,
            step: {
                var registers = ExecutionTests.registers(2, rip: 0x1010)
                registers[.rflags] = 0x46
                return CPU.portOut(0x3F8, Array("hello".utf8), registers: registers)
            }(), registers: ["rflags"]),
        .init(
            name: "a system register", index: 9,
            step: {
                var system = SystemRegisters()
                system[.cr2] = 0xDEAD
                return CPU.portOut(
                    0x3F8, Array("hello".utf8),
                    registers: ExecutionTests.registers(2, rip: 0x1010), system: system)
            }(), registers: ["cr2"]),
        .init(
            name: "a byte that was sent", index: 9,
            step: CPU.portOut(
                0x3F8, Array("hellp".utf8), registers: ExecutionTests.registers(2, rip: 0x1010))),
        .init(
            name: "how much was sent", index: 9,
            step: CPU.portOut(
                0x3F8, Array("hell".utf8), registers: ExecutionTests.registers(2, rip: 0x1010))),
        .init(name: "the port", index: 1, step: CPU.portIn(0x3FC)),
        .init(name: "the size", index: 1, step: CPU.portIn(0x3FD, size: 2)),
        .init(name: "the count", index: 2, step: CPU.portIn(0x1F0, size: 2, count: 4)),
        .init(name: "the direction", index: 1, step: CPU.portOut(0x3FD, [0x20])),
        .init(name: "the address", index: 3, step: CPU.read(0xD000_0008, size: 4)),
        .init(name: "the length", index: 3, step: CPU.read(0xD000_0000, size: 8)),
        .init(
            name: "a value that was written", index: 4,
            step: CPU.write(0xD000_0004, size: 8, 0x1122_3344_5566_7789)),
        .init(name: "the MSR", index: 5, step: CPU.rdmsr(0x1B)),
        .init(name: "an MSR's value", index: 7, step: CPU.wrmsr(0x10, 6)),
        .init(name: "the reason", index: 8, step: CPU.rdmsr(0x12)),
        .init(name: "the last reason", index: 10, step: .exit(.shutdown)),
    ]

    @Test(arguments: differences)
    func `a difference is found at its exit, with both sides`(_ difference: Difference) throws {
        let recording = try ScriptedRecording(Self.script(), memory: MemoryDigest())
        let reader = try recording.reader()
        var steps = Self.script()
        steps[difference.index] = difference.step
        let result = try Self.replay(steps, reader)
        #expect(result.outcome == .endedByListener)
        #expect(result.exitCount == UInt64(difference.index))
        #expect(result.progress == UInt64(difference.index))
        #expect(!result.isTapeEnd)
        let divergence = try #require(result.divergence)
        #expect(divergence.place == .exit)
        #expect(divergence.exitNumber == UInt64(difference.index))
        let names = divergence.registerDifferences.map(\.name)
        if difference.name != "the last reason" { #expect(names == difference.registers) }

        // What was expected is what the trace holds there; what happened is the step.
        let expected = try #require(divergence.expected)
        let actual = try #require(divergence.actual)
        guard case .exit(let recorded) = expected.event, case .exit(let happened) = actual.event
        else {
            Issue.record("not two exits: \(expected.event), \(actual.event)")
            return
        }
        let wanted = recorded.detail.copied { Array(expected.row[$0]) }
        let found = happened.detail.copied { Array(actual.row[$0]) }
        var cursor = try reader.events(from: UInt64(difference.index))
        var told: ExitDetail<[UInt8]>?
        while told == nil, let event = try cursor.next() {
            if case .exit(let exit) = event { told = exit.detail.copied { cursor.array($0) } }
        }
        #expect(wanted == told)
        if difference.registers.isEmpty { #expect(wanted != found) }
        #expect(expected.registers != nil)
    }

    @Test func `a difference shows the registers of both sides`() throws {
        let recording = try ScriptedRecording(Self.script())
        var steps = Self.script()
        var other = registers(77, rip: 0x1010)
        other[.r15] = 5
        steps[9] = CPU.portOut(0x3F8, Array("hello".utf8), registers: other)
        let divergence = try #require(try Self.replay(steps, recording.reader()).divergence)
        #expect(
            divergence.registerDifferences == [
                .init(name: "rax", expected: 2, actual: 77),
                .init(name: "r15", expected: 0, actual: 5),
            ])
        #expect(divergence.expected?.registers == registers(2, rip: 0x1010))
        #expect(divergence.actual?.registers == other)
    }

    @Test func `an answer of another form than the exit wants is no answer`() throws {
        // The tape says MMIO where the CPU reads a port: found at the exit, before any answer.
        let recording = try ScriptedRecording([CPU.read(0xD000_0000, size: 1)])
        let result = try Self.replay([CPU.portIn(0x20)], recording.reader())
        #expect(result.divergence?.exitNumber == 0)
        #expect(result.exitCount == 0)
        #expect(result.answers == [])
    }

    @Test func `a run that goes on where the recording ended differs there`() throws {
        let recording = try ScriptedRecording(
            [CPU.portOut(1, [1])], memory: MemoryDigest())
        let result = try Self.replay(
            [CPU.portOut(1, [1]), CPU.portOut(1, [2])], recording.reader())
        #expect(result.outcome == .endedByListener)
        #expect(result.divergence?.exitNumber == 1)
    }

    @Test func `the first state is compared`() throws {
        let recording = try ScriptedRecording(Self.script())
        let result = try Self.replay(Self.script(), recording.reader(), start: registers(5))
        #expect(result.divergence?.place == .start)
        #expect(result.divergence?.exitNumber == 0)
    }

    // MARK: The end

    private static func digest(_ seeds: [UInt64: UInt8]) throws -> MemoryDigest {
        let memory = try smallMemory()
        for (page, byte) in seeds.sorted(by: { $0.key < $1.key }) {
            try memory.write(GuestPhysicalAddress(page * 4096 + 17), [byte][...])
        }
        return memory.digest()
    }

    @Test func `RAM that differs at the end is a divergence, page by page`() throws {
        let recorded = try Self.digest([1: 1, 2: 2, 7: 3])
        let recording = try ScriptedRecording(Self.script(), memory: recorded)
        let reader = try recording.reader()
        #expect(
            try Self.replay(Self.script(), reader, memory: recorded).divergence == nil)
        let here = try Self.digest([1: 1, 2: 9, 5: 1])
        let result = try Self.replay(Self.script(), reader, memory: here)
        #expect(result.exitCount == 11)
        let divergence = try #require(result.divergence)
        #expect(divergence.place == .end)
        #expect(divergence.registerDifferences == [])
        guard case .end(let wanted)? = divergence.expected?.event,
            case .end(let found)? = divergence.actual?.event
        else {
            Issue.record("not two ends")
            return
        }
        #expect(wanted.memory == recorded.digest)
        #expect(found.memory == here.digest)
        #expect(try reader.memoryDigest()?.differingPages(from: here) == [2, 5, 7])
    }

    @Test func `a recorded reason for the end is the reason of the replay`() throws {
        let steps = [CPU.portOut(0xF4, [3])]
        let recording = try ScriptedRecording(
            steps, memory: MemoryDigest(), end: Ending(.debugExit, guestStatus: 7))
        let result = try Self.replay(steps, recording.reader())
        #expect(result.outcome == .ended(Ending(.debugExit, guestStatus: 7)))
        #expect(result.divergence == nil)
    }

    @Test func `an end in mid-flight ends the replay at the last exit`() throws {
        let stop = StopRequest()
        let recording = try ScriptedRecording(
            [
                CPU.portOut(1, [1]),
                .then {
                    stop.request(.timeLimit)
                    stop.insist()
                }, .interrupted,
            ], end: Ending(.timeLimit, isInMidFlight: true), stop: stop)
        #expect(recording.outcome == .stopped(.timeLimit, isInMidFlight: true))
        let result = try Self.replay(
            [CPU.portOut(1, [1]), .then { Issue.record("ran on beyond the end of the tape") }],
            recording.reader())
        #expect(result.outcome == .ended(Ending(.timeLimit, isInMidFlight: true)))
        #expect(result.exitCount == 1)
        #expect(result.divergence == nil)
    }

    @Test func `final registers are compared`() throws {
        let stop = StopRequest()
        stop.request(.user)
        // Stopped at its first exit; then the recorder writes other registers than replays have.
        let recording = try ScriptedRecording(
            [CPU.portOut(1, [1]), CPU.portOut(1, [2])], memory: MemoryDigest(),
            end: Ending(.interrupted), stop: stop, finalRegisters: registers(99))
        let result = try Self.replay([CPU.portOut(1, [1])], recording.reader())
        #expect(result.outcome == .ended(Ending(.interrupted)))
        let divergence = try #require(result.divergence)
        #expect(divergence.place == .end)
        #expect(
            divergence.registerDifferences.contains(
                .init(name: "rax", expected: 99, actual: 0)))
    }

    // MARK: Incomplete tapes

    @Test func `a recording that was killed replays to its last exit`() throws {
        let recording = try ScriptedRecording(Self.script(), finish: .killed)
        let reader = try recording.reader()
        #expect(!reader.isComplete)
        #expect(reader.exitCount == 11)
        let result = try Self.replay(Self.script(), reader)
        #expect(result.outcome == .endOfTape)
        #expect(result.exitCount == 11)
        #expect(result.divergence == nil)
    }

    /// Exits whose answer is lost: how each kind ends a replay.
    @Test(arguments: [0, 1, 2, 3, 4])
    func `a tape that is cut between an exit and its answer ends there`(_ kind: Int) throws {
        let step = [
            CPU.portIn(0x3FD), CPU.portIn(0x1F0, size: 2, count: 3), CPU.read(0xD000_0000, size: 4),
            CPU.rdmsr(0x10), CPU.wrmsr(0x10, 1),
        ][kind]
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let path = directory.file("cut.vmtape")
        do {
            var writer = try TraceWriter(
                path: path,
                header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)))
            try writer.start(registers: registers(0), system: SystemRegisters())
            var side = Attended(
                world: DyingWorld(), listener: Recorder(writer: writer))
            var cpu = CPU([CPU.portOut(1, [1], registers: registers(4)), step])
            var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
            let memory = try smallMemory()
            #expect(throws: ExecutionError.self) {
                try loop.run(&cpu, &side, memory: memory)
            }
        }
        let reader = try TraceReader(path: path + ".partial")
        #expect(reader.exitCount == 2)
        let result = try Self.replay(
            [CPU.portOut(1, [1], registers: registers(4)), step], reader)
        #expect(result.isTapeEnd)
        #expect(result.outcome == .endedByListener)
        #expect(result.exitCount == 1)
    }

    @Test func `a tape without any event is refused`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let path = directory.file("empty.vmtape")
        do {
            let writer = try TraceWriter(
                path: path,
                header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)))
            _ = consume writer
        }
        let reader = try TraceReader(path: path + ".partial")
        #expect(throws: ExecutionError.self) { try Self.replay([], reader) }
    }

    @Test func `a tape of the start alone ends before the CPU is entered`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let path = directory.file("start.vmtape")
        do {
            var writer = try TraceWriter(
                path: path,
                header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)))
            try writer.start(registers: registers(0), system: SystemRegisters())
        }
        let result = try Self.replay(
            [.then { Issue.record("entered") }], TraceReader(path: path + ".partial"))
        #expect(result.outcome == .endOfTape)
        #expect(result.exitCount == 0)
    }

    @Test func `a full disk keeps what was recorded`() throws {
        // Random registers, so that blocks do not become small.
        var state: UInt64 = 1
        let steps = (0..<60_000).map { _ -> CPU.Step in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            var registers = GeneralRegisters()
            for register in Register.allCases {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                registers[register] = state
            }
            return CPU.portOut(1, [UInt8(truncatingIfNeeded: state)], registers: registers)
        }
        let full = try FullDisk(steps, maximumFileBytes: 300_000)
        #expect(full.message.contains("t.vmtape.partial"))
        let reader = try TraceReader(path: full.path + ".partial")
        #expect(!reader.isComplete)
        // All that was encoded: what is not in the file is in the side file.
        #expect(reader.exitCount == full.exitCount)
        #expect(reader.exitCount > 100)
        let result = try Self.replay(Array(steps.prefix(Int(full.exitCount))), reader)
        #expect(result.outcome == .endOfTape)
        #expect(result.exitCount == full.exitCount)
    }
}

/// A world that answers nothing: the recorder dies between an exit and its answer.
struct DyingWorld: QuietWorld, ~Copyable {
    static let death = ExecutionError.cannotReplay("killed")

    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}
    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) { throw Self.death }
    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}
    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) { throw Self.death }
    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? { throw Self.death }
    mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool { throw Self.death }
    mutating func verdict(natural: Ending?, canWake: Bool) throws(ExecutionError) -> Verdict {
        natural.map { .end($0) } ?? .go
    }
}
