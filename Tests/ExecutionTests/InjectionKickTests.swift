import KVM
import Machine
import Testing
import Trace

@testable import Execution

/// Kicks that come while an interrupt is being delivered.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct InjectionKickTests {
    @Test func `an interrupt that a kick found on its way is told of until it has come`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted", "30").record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.hasCounter else { return }
        // In the loop, with interrupts enabled.
        let position = try #require(Position(after: 12, instructions: 500))
        _ = try machine.seek(to: position)
        try #require(machine.registers.rflags & 1 << 9 != 0)
        try #require(try machine.keepHere())
        let start = machine.registers
        for round in 0..<300 {
            try machine.restore(machine.keyframes.index(atOrBefore: position))
            #expect(machine.registers == start)
            try machine.machine.cpu.interrupt(vector: 0x20)
            // From before the guest is entered to after the handler's beginning.
            try machine.machine.cpu.armKick(nanoseconds: UInt64(200 + round * 40))
            if case .interrupted = try machine.machine.cpu.run() {
                _ = machine.machine.cpu.acknowledgeKick()
                let now = machine.registers
                let isUnderWay = try machine.machine.cpu.hasEventUnderWay()
                let hasCome = now.rip != start.rip || now[.rsp] != start[.rsp]
                #expect(isUnderWay != hasCome)
                let isQuiet = try machine.machine.cpu.isQuiet()
                #expect(hasCome || !isQuiet)
            }
            try machine.machine.cpu.armKick(nanoseconds: 0)
            try machine.machine.cpu.abandon()
        }
    }
}
