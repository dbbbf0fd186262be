import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// Page tables go back with the rest of memory.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TranslationTests {
    @Test(arguments: ["ring3", "syscall", "gaps", "preempted-ring3"])
    func `page tables that were put back are walked anew`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        let last = machine.reader.exitCount - 2
        _ = try machine.seek(to: Position(exitCount: 2))
        try machine.keep(machine.position)
        let before = try Sight(&machine)
        _ = try machine.seek(to: Position(exitCount: last))
        let after = try Sight(&machine)
        for _ in 0..<2 {
            _ = try machine.seek(to: before.position)
            #expect(try Sight(&machine) == before)
            _ = try machine.seek(to: after.position)
            #expect(try Sight(&machine) == after)
        }
    }
}
