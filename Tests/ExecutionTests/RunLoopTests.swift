import Execution
import Guest
import Machine
import Testing
import Trace

@testable import KVM

/// The loop against a scripted CPU, a scripted world and a listener that writes all down.
@Suite struct RunLoopTests {
    /// Runs a script until it ends.
    private func run(
        _ steps: [ScriptedCPU.Step], side: inout ScriptedSide, limit: UInt64 = .max,
        stop: StopRequest = StopRequest(), behaviour: HostBehaviour = HostBehaviour()
    ) throws -> (
        outcome: LoopOutcome, exits: UInt64, answers: [ScriptedCPU.Answer], runs: Int,
        acknowledgements: Int
    ) {
        var cpu = ScriptedCPU(steps)
        var loop = RunLoop(behaviour: behaviour, exitLimit: limit, stop: stop)
        let memory = try smallMemory()
        let outcome = try loop.run(&cpu, &side, memory: memory)
        return (outcome, loop.exitCount, cpu.answers, cpu.runCount, cpu.acknowledgements)
    }

    private let halted = LoopOutcome.ended(Ending(.halted))

    // MARK: Exits that are answered

    @Test func `an IN is told, answered from the world, and the answer is told`() throws {
        var side = ScriptedSide()
        let result = try run([ScriptedCPU.portIn(0x3FD, size: 2, count: 2)], side: &side)
        #expect(result.outcome == halted)
        #expect(result.exits == 2)
        #expect(result.answers == [.io([0x11, 0x22, 0x33, 0x44])])
        #expect(
            side.calls == [
                .verdict(nil),
                .exit(
                    .io(isWrite: false, size: 2, port: 0x3FD, count: 2, data: []), rewind: 0,
                    rax: 0),
                .portIn(0x3FD, size: 2, count: 4),
                .answer(.io, [0x11, 0x22, 0x33, 0x44]),
                .verdict(nil),
                .exit(.other(.hlt, data: []), rewind: 0, rax: 0),
                .verdict(Ending(.halted)),
            ])
    }

    @Test func `an OUT is told with its bytes before the world gets them`() throws {
        var side = ScriptedSide()
        let result = try run(
            [
                ScriptedCPU.portOut(0x80, [7], registers: registers(5)),
                ScriptedCPU.portOut(0xCF8, [1, 2, 3, 4, 5, 6, 7, 8], size: 4),
            ], side: &side)
        #expect(result.exits == 3)
        #expect(result.answers == [])
        #expect(
            side.calls.prefix(7) == [
                .verdict(nil),
                .exit(
                    .io(isWrite: true, size: 1, port: 0x80, count: 1, data: [7]), rewind: 0,
                    rax: 5),
                .portOut(0x80, size: 1, [7]),
                .verdict(nil),
                .exit(
                    .io(
                        isWrite: true, size: 4, port: 0xCF8, count: 2,
                        data: [1, 2, 3, 4, 5, 6, 7, 8]), rewind: 0, rax: 5),
                .portOut(0xCF8, size: 4, [1, 2, 3, 4, 5, 6, 7, 8]),
                .verdict(nil),
            ])
    }

    @Test(arguments: [UInt8(1), 2, 3, 4, 5, 6, 7, 8])
    func `MMIO reads of every size give the CPU so many bytes and no more`(size: UInt8) throws {
        var side = ScriptedSide()
        let result = try run([ScriptedCPU.read(0xFEE0_0020, size: size)], side: &side)
        let bytes = Array(side.input.prefix(Int(size)))
        var value: UInt64 = 0
        for (index, byte) in bytes.enumerated() { value |= UInt64(byte) << UInt64(index * 8) }
        #expect(result.answers == [.mmio(value)])
        #expect(
            side.calls[1...3] == [
                .exit(
                    .mmio(
                        address: GuestPhysicalAddress(0xFEE0_0020), length: size,
                        isWrite: false, value: 0), rewind: 0, rax: 0),
                .memoryRead(0xFEE0_0020, count: Int(size)),
                .answer(.mmio, bytes),
            ])
    }

    @Test(arguments: [UInt8(1), 2, 4, 8])
    func `MMIO writes of every size are told with their value`(size: UInt8) throws {
        var side = ScriptedSide()
        let all: [UInt8] = [0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01]
        let bytes = Array(all.prefix(Int(size)))
        var value: UInt64 = 0
        for (index, byte) in bytes.enumerated() { value |= UInt64(byte) << UInt64(index * 8) }
        let result = try run([ScriptedCPU.write(0xD000_0000, size: size, value)], side: &side)
        #expect(result.answers == [])
        #expect(
            side.calls[1...3] == [
                .exit(
                    .mmio(
                        address: GuestPhysicalAddress(0xD000_0000), length: size, isWrite: true,
                        value: value), rewind: 0, rax: 0),
                .memoryWrite(0xD000_0000, bytes),
                .verdict(nil),
            ])
    }

    @Test func `MSRs are answered with a value, or with a fault where the world has none`() throws {
        var side = ScriptedSide()
        side.msrs[0x10] = 0x0102_0304_0506_0708
        let result = try run(
            [
                ScriptedCPU.rdmsr(0x10), ScriptedCPU.rdmsr(0x11), ScriptedCPU.wrmsr(0x10, 9),
                ScriptedCPU.wrmsr(0x11, 9),
            ], side: &side)
        #expect(
            result.answers == [
                .msr(0x0102_0304_0506_0708, fault: false), .msr(0, fault: true),
                .msr(0, fault: false), .msr(0, fault: true),
            ])
        let answers = side.calls.filter { if case .answer = $0 { true } else { false } }
        #expect(
            answers == [
                .answer(.msr, [0, 8, 7, 6, 5, 4, 3, 2, 1]),
                .answer(.msr, [1, 0, 0, 0, 0, 0, 0, 0, 0]),
                .answer(.msr, [0, 0, 0, 0, 0, 0, 0, 0, 0]),
                .answer(.msr, [1, 0, 0, 0, 0, 0, 0, 0, 0]),
            ])
        #expect(side.calls.contains(.writeMSR(0x10, 9)))
        #expect(side.calls.contains(.readMSR(0x11)))
    }

    // MARK: Exits that end a run

    private static func error(_ suberror: UInt32, _ words: [UInt64]) -> Exit {
        var data: InlineArray<16, UInt64> = InlineArray(repeating: 0)
        for (index, word) in words.enumerated() { data[index] = word }
        return .internalError(InternalError(suberror: suberror, count: words.count, data: data))
    }

    private static func event(_ type: UInt32, _ words: [UInt64] = []) -> Exit {
        var data: InlineArray<16, UInt64> = InlineArray(repeating: 0)
        for (index, word) in words.enumerated() { data[index] = word }
        return .systemEvent(SystemEvent(type: type, count: words.count, data: data))
    }

    private static func little(_ words: [UInt64]) -> [UInt8] {
        words.flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) }
        }
    }

    /// An exit, how it is told, and how it ends a run.
    struct FinalCase: CustomTestStringConvertible, Sendable {
        var exit: Exit
        var detail: ExitDetail<[UInt8]>
        var ending: EndReason
        var testDescription: String { "\(exit.reason.name) -> \(ending.name)" }
    }

    static let finalCases: [FinalCase] = [
        .init(exit: .hlt, detail: .other(.hlt, data: []), ending: .halted),
        .init(exit: .shutdown, detail: .other(.shutdown, data: []), ending: .shutdown),
        .init(
            exit: error(1, [1, 2, 3]),
            detail: .internalError(suberror: 1, data: little([1, 2, 3])),
            ending: .internalError),
        // The last word is the host CPU's number: observed.
        .init(
            exit: error(3, [1, 2, 3]),
            detail: .internalError(suberror: 3, data: little([1, 2, 0])),
            ending: .internalError),
        .init(
            exit: error(4, [7]), detail: .internalError(suberror: 4, data: little([0])),
            ending: .internalError),
        .init(
            exit: error(3, []), detail: .internalError(suberror: 3, data: []),
            ending: .internalError),
        .init(
            exit: .failEntry(hardwareReason: 0x8000_0021, cpu: 3),
            detail: .failEntry(hardwareReason: 0x8000_0021, cpu: 0), ending: .failEntry),
        .init(
            exit: event(1, [5]), detail: .systemEvent(type: 1, data: little([5])),
            ending: .powerOff),
        .init(exit: event(2), detail: .systemEvent(type: 2, data: []), ending: .reset),
        .init(exit: event(3), detail: .systemEvent(type: 3, data: []), ending: .unhandledExit),
        .init(
            exit: .exception(vector: 14, errorCode: 2),
            detail: .exception(vector: 14, errorCode: 2), ending: .unhandledExit),
        .init(
            exit: .debug(
                DebugStop(exception: 1, pc: GuestVirtualAddress(0x1234), dr6: 5, dr7: 6)),
            // Which breakpoint it was, and what is armed, depends on who looks.
            detail: .debug(exception: 1, pc: 0x1234, dr6: 1, dr7: 0), ending: .unhandledExit),
        .init(
            exit: .hypercall(
                Hypercall(number: 12, arguments: [1, 2, 3, 4, 5, 6], isLongMode: true)),
            detail: .hypercall(
                number: 12, isLongMode: true, arguments: little([1, 2, 3, 4, 5, 6])),
            ending: .unhandledExit),
        .init(exit: .nmi, detail: .other(.nmi, data: [1, 2, 3]), ending: .unhandledExit),
        .init(exit: .busLock, detail: .other(.busLock, data: [1, 2, 3]), ending: .unhandledExit),
        .init(
            exit: .memoryFault(MemoryFault(flags: 0, address: GuestPhysicalAddress(0), size: 1)),
            detail: .other(.memoryFault, data: [1, 2, 3]), ending: .unhandledExit),
        .init(
            exit: .other(ExitReason(rawValue: 99)),
            detail: .other(ExitReason(rawValue: 99), data: [1, 2, 3]), ending: .unhandledExit),
    ]

    @Test(arguments: finalCases)
    func `exits that nobody answers are told, and end the run by their nature`(
        _ expected: FinalCase
    ) throws {
        var side = ScriptedSide()
        let result = try run(
            [.exit(expected.exit, data: [1, 2, 3], registers: registers(4))], side: &side)
        #expect(result.outcome == .ended(Ending(expected.ending)))
        #expect(result.exits == 1)
        #expect(
            side.calls.dropFirst() == [
                .exit(expected.detail, rewind: 0, rax: 4), .verdict(Ending(expected.ending)),
            ])
    }

    @Test(arguments: finalCases)
    func `exits that nobody answers can be recorded, and are read as what they were`(
        _ expected: FinalCase
    ) throws {
        let recording = try ScriptedRecording([
            .exit(expected.exit, data: [1, 2, 3], registers: registers(4))
        ])
        let reader = try recording.reader()
        var cursor = try reader.events()
        var seen: ExitDetail<[UInt8]>?
        while let event = try cursor.next() {
            guard case .exit(let exit) = event else { continue }
            seen = exit.detail.copied { cursor.array($0) }
        }
        #expect(seen == expected.detail)
        #expect(try reader.end()?.event.reason == expected.ending)
    }

    @Test func `an exit with a payload that is none is an error, and not recorded as another`()
        throws
    {
        var side = ScriptedSide()
        for reason in [ExitReason.io, .mmio, .internalError, .hypercall] {
            #expect(throws: ExecutionError.self) {
                _ = try run([.exit(.other(reason), data: [1, 2, 3])], side: &side)
            }
        }
        #expect(side.exitCount == 0)
    }

    @Test func `the world may let a guest run on that halted`() throws {
        var side = ScriptedSide()
        side.followsNature = false
        side.verdictAfter = (3, .end(Ending(.debugExit, guestStatus: 7)))
        let result = try run([], side: &side)
        #expect(result.outcome == .ended(Ending(.debugExit, guestStatus: 7)))
        #expect(result.exits == 3)
    }

    @Test func `where the world ends before the first exit, the CPU is not entered`() throws {
        for (verdict, outcome) in [
            (Verdict.endOfTape, LoopOutcome.endOfTape),
            (
                .end(Ending(.timeLimit, isInMidFlight: true)),
                .ended(Ending(.timeLimit, isInMidFlight: true))
            ),
        ] {
            var side = ScriptedSide()
            side.verdictAfter = (0, verdict)
            let result = try run([ScriptedCPU.portIn(1)], side: &side)
            #expect(result.outcome == outcome)
            #expect(result.runs == 0)
        }
    }

    @Test func `a tape that ends ends the run`() throws {
        var side = ScriptedSide()
        side.verdictAfter = (2, .endOfTape)
        let result = try run([ScriptedCPU.portIn(1), ScriptedCPU.portIn(1)], side: &side)
        #expect(result.outcome == .endOfTape)
        #expect(result.exits == 2)
    }

    // MARK: What does not count

    @Test func `kicks, signals and open interrupt windows are no exits`() throws {
        var side = ScriptedSide()
        let result = try run(
            [
                .interrupted, ScriptedCPU.portOut(1, [2]), .exit(.irqWindowOpen), .exit(.intr),
                .interrupted, .interrupted,
            ], side: &side)
        #expect(result.outcome == halted)
        #expect(result.exits == 2)
        #expect(result.runs == 7)
        #expect(result.acknowledgements == 3)
        #expect(side.exitCount == 2)
    }

    @Test func `a failure of KVM is thrown`() throws {
        var side = ScriptedSide()
        #expect {
            _ = try run(
                [ScriptedCPU.portOut(1, [2]), .failure(.request("KVM_RUN", errno: 5))],
                side: &side)
        } throws: { error in
            guard case ExecutionError.kvm(.request("KVM_RUN", errno: 5)) = error else {
                return false
            }
            return true
        }
        #expect(side.exitCount == 1)
    }

    // MARK: Ends that come from outside

    @Test func `a limit on exits ends after the exit was answered`() throws {
        var side = ScriptedSide()
        let result = try run(
            [ScriptedCPU.portIn(1), ScriptedCPU.portIn(1), ScriptedCPU.portIn(1)], side: &side,
            limit: 2)
        #expect(result.outcome == .exitLimit)
        #expect(result.exits == 2)
        #expect(result.runs == 2)
        #expect(side.calls.last == .verdict(nil))
    }

    @Test func `a guest that ends with the last exit allowed has ended`() throws {
        var side = ScriptedSide()
        let result = try run([ScriptedCPU.portIn(1)], side: &side, limit: 2)
        #expect(result.outcome == halted)
    }

    @Test func `a limit of no exits does not enter the CPU`() throws {
        var side = ScriptedSide()
        let result = try run([ScriptedCPU.portIn(1)], side: &side, limit: 0)
        #expect(result.outcome == .exitLimit)
        #expect(result.runs == 0)
    }

    @Test(arguments: [StopReason.user, .timeLimit, .sizeLimit])
    func `a request ends the run at an exit`(_ reason: StopReason) throws {
        let stop = StopRequest()
        var side = ScriptedSide()
        side.atVerdict = { if $0 == 2 { stop.request(reason) } }
        let result = try run(
            [ScriptedCPU.portIn(1), ScriptedCPU.portIn(1), ScriptedCPU.portIn(1)], side: &side,
            stop: stop)
        #expect(result.outcome == .stopped(reason, isInMidFlight: false))
        #expect(result.exits == 2)
    }

    @Test func `a request alone does not end a run in mid-flight`() throws {
        let stop = StopRequest()
        var side = ScriptedSide()
        let result = try run(
            [.then { stop.request(.user) }, .interrupted, .interrupted, ScriptedCPU.portIn(1)],
            side: &side, stop: stop)
        #expect(result.outcome == .stopped(.user, isInMidFlight: false))
        #expect(result.exits == 1)
    }

    @Test func `an insistent request ends a run in mid-flight`() throws {
        let stop = StopRequest()
        var side = ScriptedSide()
        let result = try run(
            [
                ScriptedCPU.portIn(1),
                .then {
                    stop.request(.timeLimit)
                    stop.insist()
                }, .interrupted, ScriptedCPU.portIn(1),
            ], side: &side, stop: stop)
        #expect(result.outcome == .stopped(.timeLimit, isInMidFlight: true))
        #expect(result.exits == 1)
    }

    @Test func `an end of the guest's own comes before a request`() throws {
        let stop = StopRequest()
        stop.request(.user)
        var side = ScriptedSide()
        #expect(try run([], side: &side, stop: stop).outcome == halted)
    }

    @Test func `a listener can end the run, and that exit does not count`() throws {
        var side = ScriptedSide()
        side.refusedExit = 1
        let atExit = try run([ScriptedCPU.portIn(1), ScriptedCPU.portIn(1)], side: &side)
        #expect(atExit.outcome == .endedByListener)
        #expect(atExit.exits == 1)
        #expect(side.calls.filter { if case .portIn = $0 { true } else { false } }.count == 1)

        var other = ScriptedSide()
        other.refusedAnswer = 1
        let atAnswer = try run([ScriptedCPU.portIn(1), ScriptedCPU.read(8, size: 1)], side: &other)
        #expect(atAnswer.outcome == .endedByListener)
        #expect(atAnswer.exits == 1)
    }

    @Test func `stamps of the host's clock do not go backwards`() throws {
        var side = ScriptedSide()
        _ = try run([ScriptedCPU.portIn(1), ScriptedCPU.portIn(1)], side: &side)
        #expect(side.stamps.count == 6)
        #expect(side.stamps == side.stamps.sorted())
    }
}

extension ExitDetail where Bytes == Range<Int> {
    /// A detail with bytes of its own.
    func copied(_ bytes: (Range<Int>) -> [UInt8]) -> ExitDetail<[UInt8]> {
        switch self {
        case .io(let isWrite, let size, let port, let count, let data):
            .io(isWrite: isWrite, size: size, port: port, count: count, data: bytes(data))
        case .mmio(let address, let length, let isWrite, let value):
            .mmio(address: address, length: length, isWrite: isWrite, value: value)
        case .rdmsr(let index, let why): .rdmsr(index: index, why: why)
        case .wrmsr(let index, let why, let value):
            .wrmsr(index: index, why: why, value: value)
        case .hypercall(let number, let isLongMode, let arguments):
            .hypercall(number: number, isLongMode: isLongMode, arguments: bytes(arguments))
        case .internalError(let suberror, let data):
            .internalError(suberror: suberror, data: bytes(data))
        case .failEntry(let reason, let cpu): .failEntry(hardwareReason: reason, cpu: cpu)
        case .systemEvent(let type, let data): .systemEvent(type: type, data: bytes(data))
        case .exception(let vector, let code): .exception(vector: vector, errorCode: code)
        case .debug(let exception, let pc, let dr6, let dr7):
            .debug(exception: exception, pc: pc, dr6: dr6, dr7: dr7)
        case .other(let reason, let data): .other(reason, data: bytes(data))
        }
    }
}
