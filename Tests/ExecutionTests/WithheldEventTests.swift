import KVM
import Machine
import Testing
import Trace

@testable import Execution

/// Events of which KVM does not tell that they are on their way: a completed INT3's #BP.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct WithheldEventTests {
    /// The exit whose completion injects #BP; nil where the host executes INT3.
    private static func breakpointExit(_ path: String) throws -> UInt64? {
        var cursor = try TraceReader(path: path).events()
        while let event = try cursor.next() {
            guard case .completion(let range) = event else { continue }
            for case .event(.exception, vector: 3, _) in cursor.changes(range) {
                return cursor.exitNumber
            }
        }
        return nil
    }

    @Test func `an exception that KVM keeps to itself is known until it has come`() throws {
        let host = try Host()
        let trip = try Trip(host, "gaps")
        guard let exit = try Self.breakpointExit(trip.path) else { return }
        var machine = try trip.machine(host)
        guard machine.hasCounter else { return }
        _ = try machine.seek(to: Position(exitCount: exit + 1))
        let start = machine.registers
        #expect(try machine.machine.cpu.hasEventUnderWay())
        #expect(try !machine.machine.cpu.isQuiet())
        // As after a kick that came before it.
        machine.standing = .afterKick
        #expect(try !machine.canRest())
        machine.standing = .atExit
        let handler = PageWalk.handler(
            of: 3, system: machine.systemRegisters, memory: machine.machine.memory)

        let kept = try machine.machine.cpu.checkpoint()
        _ = try machine.step()
        let first = machine.registers
        #expect(first.rip != start.rip)
        #expect(try !machine.machine.cpu.hasEventUnderWay())
        // Once more from what was kept, which leads into the handler too.
        _ = try machine.seek(to: Position(exitCount: exit + 1))
        try machine.machine.cpu.abandon()
        try machine.machine.cpu.restore(kept)
        #expect(try machine.machine.cpu.hasEventUnderWay())
        try machine.machine.cpu.setGuestDebug(
            GuestDebug(breakpoints: [
                GuestDebug.Breakpoint(GuestVirtualAddress(try #require(handler)))
            ]))
        guard case .exit(.debug) = try machine.machine.cpu.run() else {
            Issue.record("the handler is not come to")
            return
        }
        #expect(machine.registers.rip == handler)
        try machine.machine.cpu.setGuestDebug(.off)
    }
}
