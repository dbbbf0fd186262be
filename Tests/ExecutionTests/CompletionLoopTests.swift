import Guest
import Machine
import TestSupport
import Testing

@testable import Execution
@testable import KVM
@testable import Trace

/// Completions in the loop, in a recording and on its replay.
@Suite struct CompletionLoopTests {
    typealias CPU = ScriptedCPU

    /// KVM could not emulate these bytes, which stand at 0 in real mode.
    private static func failure(_ code: [UInt8], rax: UInt64 = 0) -> CPU.Step {
        var data: InlineArray<16, UInt64> = InlineArray(repeating: 0)
        data[0] = 1
        for (index, byte) in ([UInt8(code.count)] + code).enumerated() {
            data[1 + index / 8] |= UInt64(byte) << UInt64(index % 8 * 8)
        }
        return .exit(
            .internalError(InternalError(suberror: 1, count: 3, data: data)),
            registers: registers(rax, rip: 0x100))
    }

    private static let int3: [UInt8] = [0xCC]
    /// popcnt ax, ax
    private static let popcnt: [UInt8] = [0xF3, 0x0F, 0xB8, 0xC0]
    private static let popcntChanges: [Change] = [
        .register(.rax, 3), .register(.rip, 0x104),
    ]
    private static let int3Changes: [Change] = [
        .register(.rip, 0x101), .event(.exception, vector: 3, errorCode: nil),
    ]

    private func run(
        _ steps: [CPU.Step], _ side: inout ScriptedSide, memory: borrowing GuestMemory
    ) throws -> (outcome: LoopOutcome, applied: [[Change]], injected: [Int], fault: Exit?) {
        var cpu = CPU(steps)
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let outcome = try loop.run(&cpu, &side, memory: memory)
        return (
            outcome, cpu.applied.map(\.changes), cpu.injected.map(\.runs), loop.unansweredExit
        )
    }

    @Test func `an instruction is completed, told, and the guest runs on`() throws {
        var side = ScriptedSide()
        side.hasCompletions = true
        let memory = try smallMemory()
        let result = try run([Self.failure(Self.popcnt, rax: 7)], &side, memory: memory)
        #expect(result.outcome == .ended(Ending(.halted)))
        #expect(result.applied == [Self.popcntChanges])
        let told = side.calls.suffix(4)
        #expect(told.first == .completion(Self.popcntChanges))
        #expect(told.dropFirst().first == .verdict(nil))
        #expect(side.calls.last == .verdict(Ending(.halted)))
    }

    @Test func `without leave, or where nothing is known, the run ends`() throws {
        let memory = try smallMemory()
        for (code, hasLeave) in [(Self.popcnt, false), ([0x0F, 0xE4, 0xC0], true), ([], true)] {
            var side = ScriptedSide()
            side.hasCompletions = hasLeave
            let result = try run([Self.failure(code)], &side, memory: memory)
            #expect(result.outcome == .ended(Ending(.internalError)))
            #expect(result.applied == [])
            #expect(result.fault != nil)
        }
    }

    @Test func `memory that changes is RAM's`() throws {
        var side = ScriptedSide()
        side.hasCompletions = true
        side.recordedChanges = [.memory(GuestPhysicalAddress(0x2FFF), [1, 2])]
        let memory = try smallMemory()
        let result = try run([Self.failure([])] + [Self.failure(Self.int3)], &side, memory: memory)
        // No bytes: nothing to complete, whatever is recorded.
        #expect(result.outcome == .ended(Ending(.internalError)))
        _ = try run([Self.failure(Self.int3)], &side, memory: memory)
        #expect(try memory.read(GuestPhysicalAddress(0x2FFF), count: 2) == [1, 2])
    }

    @Test func `memory that is none is an error`() throws {
        var side = ScriptedSide()
        side.hasCompletions = true
        side.recordedChanges = [.memory(GuestPhysicalAddress(0xFFFF), [1, 2])]
        let memory = try smallMemory()
        var message = ""
        do {
            _ = try run([Self.failure(Self.int3)], &side, memory: memory)
        } catch { message = String(describing: error) }
        #expect(message.contains("0xffff"))
    }

    @Test func `a listener that refuses ends the run before anything changes`() throws {
        var side = ScriptedSide()
        side.hasCompletions = true
        side.refusesCompletions = true
        let memory = try smallMemory()
        let result = try run([Self.failure(Self.popcnt)], &side, memory: memory)
        #expect(result.outcome == .endedByListener)
        #expect(result.applied == [])
    }

    @Test func `an interrupt waits until an exception is delivered`() throws {
        func step(_ code: [UInt8]) -> CPU.Step {
            guard
                case .exit(let exit, let data, let value, var registers, let system) =
                    Self.failure(code)
            else { return .interrupted }
            registers?.rflags = 0x202
            return .exit(exit, data: data, value: value, registers: registers, system: system)
        }
        let memory = try smallMemory()
        for (code, runs) in [(Self.int3, 2), (Self.popcnt, 1)] {
            var side = ScriptedSide()
            side.hasCompletions = true
            side.interrupts = [0x20]
            let result = try run([step(code), CPU.portOut(0x80, [1])], &side, memory: memory)
            #expect(result.outcome == .ended(Ending(.halted)))
            #expect(result.injected == [runs])
        }
    }

    // MARK: Record and replay

    private static let script: [CPU.Step] = [
        CPU.portIn(0x3FD), failure(popcnt, rax: 7), failure(int3), CPU.portIn(0x3FD),
    ]

    @Test func `what is recorded is made again and found equal`() throws {
        let recording = try ScriptedRecording(Self.script, memory: MemoryDigest())
        var cursor = try recording.reader().events()
        var completions: [[Change]] = []
        while let event = try cursor.next() {
            if case .completion(let range) = event { completions.append(cursor.changes(range)) }
        }
        #expect(completions == [Self.popcntChanges, Self.int3Changes])
        let result = try TapeTests.replay(Self.script, recording.reader())
        #expect(result.outcome == .ended(Ending(.halted)))
        #expect(result.divergence == nil)
        #expect(result.exitCount == 5)
    }

    @Test func `a completion that comes out otherwise is a divergence`() throws {
        var system = SystemRegisters()
        system[.cr4] = 1 << 18
        guard case .exit(let exit, _, _, let registers, _) = Self.failure([0x0F, 0x01, 0xD0])
        else { return }
        // xgetbv, on a CPU whose XCR0 is another one than was recorded.
        let script = [CPU.portIn(0x3FD), .exit(exit, registers: registers, system: system)]
        let recording = try ScriptedRecording(script, memory: MemoryDigest())
        let start = ExecutionTests.registers(0)
        for (xcr0, outcome) in [
            (UInt64(7), LoopOutcome.ended(Ending(.halted))), (3, .endedByListener),
        ] {
            var tape = try Tape(
                try recording.reader().tape(), file: "t", registers: start,
                system: SystemRegisters(), progress: ReplayProgress())
            var cpu = CPU(script, registers: start)
            cpu.extended.xcr0 = xcr0
            var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
            let memory = try smallMemory()
            #expect(try loop.run(&cpu, &tape, memory: memory) == outcome)
            #expect((tape.mismatch == nil) == (xcr0 == 7))
            #expect(cpu.applied.isEmpty == (xcr0 != 7))
            if xcr0 != 7 { #expect(loop.exitCount == 1) }
        }
    }
}
