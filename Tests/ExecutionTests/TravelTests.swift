import Devices
import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// A recorded run to travel in; its files go with it.
struct Trip {
    let directory: TemporaryDirectory
    let path: String

    static let samples = [
        "add", "swift-kernel", "echo", "mmio", "string-io", "gaps", "ring3", "triple-fault", "poll",
        "slow", "timer", "preempted", "preempted-ring3", "irq-echo", "entropy",
        "syscall", "apic-timer",
    ]

    /// Records a sample.
    init(_ host: borrowing Host, _ name: String) throws {
        let guests = ["swift-kernel": "7", "poll": "500", "slow": "4 2000"]
        switch name {
        case "timer", "preempted", "preempted-ring3", "irq-echo", "entropy", "apic-timer":
            let arguments = ["timer": "20", "preempted": "60", "preempted-ring3": "40"]
            let guest = PCGuest.sample(
                name, arguments[name] ?? "", input: name == "irq-echo" ? "hello\rquit\r" : "",
                machine: name == "apic-timer" ? .pcAPIC : .pc)
            let tape = try guest.record(host, .host)
            directory = tape.directory
            path = tape.path
        default:
            directory = try TemporaryDirectory()
            path = directory.file("guest.vmtape")
            let guest = TestGuest(
                name, guests[name] ?? "", input: name == "echo" ? "hello\rexit 3\r" : "")
            _ = try guest.record(host, to: path)
        }
    }

    func machine(
        _ host: borrowing Host, _ options: TravelOptions = TravelOptions()
    ) throws -> TimeMachine {
        try TimeMachine(host: host, reader: TraceReader(path: path), options: options)
    }
}

/// Random numbers, the same in each run.
struct Random: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state >> 33 | state << 31
    }
}

/// Everything of a place that must be the same each time it is gone to.
struct Sight: Equatable {
    var position: Position
    var registers: GeneralRegisters
    var state: Digest128
    var memory: Digest128

    init(_ machine: inout TimeMachine) throws {
        position = machine.position
        registers = machine.registers
        state = try machine.stateDigest()
        memory = try machine.memoryDigest()
    }
}

extension TravelStop {
    /// The stop in a word.
    var word: String {
        switch self {
        case .arrived: "arrived"
        case .breakpoint: "breakpoint"
        case .watchpoint: "watchpoint"
        case .historyBegin: "begin"
        case .historyEnd: "end"
        case .interrupted: "interrupted"
        case .diverged(let divergence):
            "diverged at \(divergence.exitNumber): \(divergence.registerDifferences) "
                + "\(divergence.causes) \(divergence.expected?.row ?? []) "
                + "\(divergence.actual?.row ?? [])"
        }
    }
}

@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TravelTests {
    @Test(arguments: Trip.samples)
    func `the whole run is the recording, and its end is found again`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        let begin = try Sight(&machine)
        #expect(begin.position == .begin)
        let first = try machine.seekEnd()
        #expect(first.word == "end", "\(first.word)")
        #expect(machine.position.exitCount == machine.reader.exitCount)
        let end = try Sight(&machine)
        #expect(end.memory == (try machine.reader.end()?.event.memory))
        #expect(try machine.seek(to: .begin).word == "arrived")
        #expect(try Sight(&machine) == begin)
        #expect(try machine.seekEnd().word == "end")
        #expect(try Sight(&machine) == end)
    }

    @Test(arguments: Trip.samples)
    func `back and forward again leads to the same place`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var options = TravelOptions()
        options.keyframeSpacing = 5_000_000
        var machine = try trip.machine(host, options)
        #expect(try machine.seekEnd().word == "end")
        var random = Random(state: 0xD1CE)
        for round in 0..<15 {
            let exit = UInt64.random(in: 0..<machine.reader.exitCount, using: &random)
            let ahead = UInt64.random(in: 0..<3000, using: &random)
            let steps = UInt64.random(in: 1...40, using: &random)
            let target = Position(exitCount: exit, instructions: ahead)
            let there = try machine.seek(to: target)
            #expect(machine.position >= target || there.word == "end", "\(target): \(there.word)")
            let sight = try Sight(&machine)
            let back = try machine.reverseStep(steps)
            let low = machine.position
            #expect(
                back.word == "arrived" || (back.word == "begin" && low == .begin),
                "\(sight.position) back \(steps) to \(low): \(back.word)")
            #expect(low < sight.position || sight.position == .begin)
            guard back.word == "arrived" else { continue }
            let forward = try machine.step(steps)
            let again = try Sight(&machine)
            #expect(
                again == sight,
                "round \(round): \(sight.position) back \(steps) to \(low), \(forward.word)")
        }
    }

    @Test(arguments: ["swift-kernel", "preempted"])
    func `memory stays under its cap, and places stay the same`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var free = try trip.machine(host)
        #expect(try free.seekEnd().word == "end")
        let loaded = try trip.machine(host).keyframeSummary.byteCount
        var options = TravelOptions()
        options.keyframeSpacing = 1_000
        options.keyframeBytes = loaded + 60_000
        var machine = try trip.machine(host, options)
        #expect(try machine.seekEnd().word == "end")
        let summary = machine.keyframeSummary
        #expect(summary.byteCount <= options.keyframeBytes)
        #expect(summary.count > 1)
        var random = Random(state: 0xCA9)
        for _ in 0..<12 {
            let target = Position(
                exitCount: .random(in: 0..<machine.reader.exitCount, using: &random),
                instructions: .random(in: 0..<500, using: &random))
            _ = try machine.seek(to: target)
            _ = try free.seek(to: target)
            #expect(try Sight(&machine) == Sight(&free), "\(target)")
            _ = try machine.reverseStep()
            _ = try free.reverseStep()
            #expect(try Sight(&machine) == Sight(&free), "before \(target)")
        }
        #expect(machine.keyframeSummary.byteCount <= options.keyframeBytes)
        #expect(machine.keyframeSummary.spacingNanoseconds > 1_000)
    }

    @Test(arguments: ["add", "poll", "ring3", "timer"])
    func `without a counter, steps count instructions`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var options = TravelOptions()
        options.usesCounter = false
        var machine = try trip.machine(host, options)
        #expect(try machine.seekEnd().word == "end")
        let end = try Sight(&machine)
        #expect(end.memory == (try machine.reader.end()?.event.memory))
        var random = Random(state: 0x5EED)
        for _ in 0..<6 {
            let target = Position(
                exitCount: .random(in: 0..<machine.reader.exitCount, using: &random),
                instructions: .random(in: 0..<20, using: &random))
            _ = try machine.seek(to: target)
            let sight = try Sight(&machine)
            let back = try machine.reverseStep(7)
            guard case .arrived = back else { continue }
            #expect(machine.position < sight.position)
            _ = try machine.step(7)
            #expect(try Sight(&machine) == sight, "\(target)")
        }
        #expect(try machine.seekEnd().word == "end")
        #expect(try Sight(&machine) == end)
    }

    @Test func `going back a long way forgets the places that are too far`() throws {
        let host = try Host()
        let trip = try Trip(host, "swift-kernel")
        var machine = try trip.machine(host)
        let start = Position(exitCount: 40, instructions: 900)
        _ = try machine.seek(to: start)
        _ = try machine.reverseStep(250)
        let wanted = try Sight(&machine)
        for limit in [2, 16, 100] {
            var short = try trip.machine(host)
            short.placeLimit = limit
            _ = try short.seek(to: start)
            _ = try short.reverseStep(250)
            #expect(try Sight(&short) == wanted, "\(limit)")
        }
    }

    @Test func `an interruption stops a long way, and the way goes on`() throws {
        let host = try Host()
        let trip = try Trip(host, "swift-kernel")
        var machine = try trip.machine(host)
        var looks = 0
        let stop = try machine.seekEnd {
            looks += 1
            return looks == 3
        }
        #expect(stop.word == "interrupted")
        #expect(machine.ending == nil)
        #expect(machine.position > .begin)
        let sight = try Sight(&machine)
        #expect(try machine.seekEnd().word == "end")
        _ = try machine.seek(to: sight.position)
        #expect(try Sight(&machine) == sight)
    }
}
