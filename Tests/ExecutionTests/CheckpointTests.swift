import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// Checkpoints of whole machines: a guest that was put back does again what it did.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct CheckpointTests {
    /// Where a guest stands: everything that decides what it does next.
    private struct Standing: Equatable {
        var registers: GeneralRegisters
        var state: Digest128
        var memory: Digest128
    }

    @Test(arguments: TestGuest.all)
    func `a guest that was put back does the same again`(_ guest: TestGuest) throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        let path = directory.file("guest.vmtape")
        _ = try guest.record(host, to: path)
        let reader = try TraceReader(path: path)
        for share in [0, 5] as [UInt64] {
            try roundTrip(host, reader, at: reader.exitCount * share / 8)
        }
    }

    private func roundTrip(
        _ host: borrowing Host, _ reader: TraceReader, at exit: UInt64
    ) throws {
        var machine = try GuestMachine.replaying(
            reader, host: host, isForced: false, differences: [])
        let pin = try ThreadPin(toCPU: VCPUPlacement.choose(nil, as: reader.header))
        defer { extendLifetime(pin) }
        try machine.trackWrites()
        let progress = ReplayProgress()
        var tape = try Tape(
            reader.tape(), file: reader.path, registers: machine.registers,
            system: machine.systemRegisters, progress: progress)
        var loop = RunLoop(behaviour: host.probe.behaviour, traps: machine.traps, stop: .init())
        // Some exits before it is taken, so that memory is not what was loaded.
        var checkpoint = try Checkpoint(&machine.cpu, machine.memory)
        try advance(&machine, &loop, &tape, to: exit)
        if exit == 0 { try machine.cpu.refreshPage() }
        try checkpoint.renew(&machine.cpu, machine.memory)
        let place = (tape.place, loop.place)
        let before = try standing(&machine)
        #expect(before.memory == machine.memory.digest().digest)

        let ends = try [0, 1].map { round in
            let outcome = try machine.run(&loop, &tape)
            #expect(tape.mismatch == nil, "round \(round)")
            guard case .ended = outcome else {
                Issue.record("round \(round) came to \(outcome)")
                return try standing(&machine)
            }
            try settle(&machine)
            let end = try standing(&machine)
            #expect(end.memory == machine.memory.digest().digest)
            try checkpoint.restore(&machine.cpu, machine.memory)
            tape = try Tape(
                reader.tape(from: place.0.firstExit), file: reader.path, at: place.0,
                progress: progress)
            loop.place = place.1
            let after = try standing(&machine)
            #expect(after.registers == before.registers)
            #expect(after.state == before.state)
            #expect(after.memory == before.memory)
            #expect(after.memory == machine.memory.digest().digest)
            return end
        }
        #expect(ends.allSatisfy { $0 == ends[0] })
        #expect(ends[0].memory == (try reader.end()?.event.memory))
    }

    private func standing(
        _ machine: inout GuestMachine
    ) throws -> Standing {
        Standing(
            registers: try machine.cpu.checkpoint().registers,
            state: try machine.cpu.stateDigest(), memory: try machine.memoryDigest())
    }

    /// Runs to an exit, and on to where nothing is pending.
    private func advance(
        _ machine: inout GuestMachine, _ loop: inout RunLoop, _ tape: inout Tape, to exit: UInt64
    ) throws {
        while loop.exitCount < exit {
            var other = Exit.unknown(hardwareReason: 0)
            let step = try machine.cpu.run(other: &other)
            loop.other = other
            if case .interrupted = step { continue }
            if case .other = step, case .debug = other,
                try loop.passesDebugExit(&machine.cpu, memory: machine.memory)
            {
                continue
            }
            try take(step, &machine, &loop, &tape)
        }
        while case .exit(let exit) = try machine.cpu.settle() {
            try take(RunStep(exit, other: &loop.other), &machine, &loop, &tape)
        }
    }

    private func take(
        _ step: RunStep, _ machine: inout GuestMachine, _ loop: inout RunLoop,
        _ tape: inout Tape
    ) throws {
        let outcome = try loop.take(
            step, &machine.cpu, &tape, memory: machine.memory, entered: 0, returned: 0)
        #expect(outcome == nil)
        if loop.mendsSyscall {
            try loop.watchSyscalls(&machine.cpu, isListenedTo: true, memory: machine.memory)
        }
    }

    private func settle(_ machine: inout GuestMachine) throws {
        guard case .settled = try machine.cpu.settle() else {
            Issue.record("an exit after the end")
            return
        }
    }
}
