import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// Places, steps and breakpoints in ring 3.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TravelRing3Tests {
    /// A machine at the first place in ring 3 after an exit.
    private func enter(
        _ machine: inout TimeMachine, from exit: UInt64
    ) throws -> Bool {
        _ = try machine.seek(to: Position(exitCount: exit))
        for _ in 0..<4000 {
            if machine.systemRegisters.cpl == 3, machine.position.ring3 != nil { return true }
            guard case .arrived = try machine.step() else { return false }
        }
        return false
    }

    private func middle(_ name: String, _ machine: borrowing TimeMachine) -> UInt64 {
        machine.reader.exitCount / (name == "syscall" ? 2 : 3)
    }

    @Test(arguments: ["ring3", "syscall", "preempted-ring3"])
    func `steps in ring 3 lead to the same places in both directions`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        guard machine.usesRing3Stops else { return }
        let exit = middle(name, machine)
        try #require(try enter(&machine, from: exit))
        var sights = [try Sight(&machine)]
        for _ in 0..<60 {
            _ = try machine.step()
            sights.append(try Sight(&machine))
        }
        #expect(machine.divergence == nil)
        for (before, after) in zip(sights, sights.dropFirst()) {
            #expect(before.position < after.position)
        }
        #expect(sights.contains { $0.position.ring3 ?? 0 > 1 })
        for sight in sights.dropLast().reversed() {
            _ = try machine.reverseStep()
            #expect(try Sight(&machine) == sight, "\(sight.position)")
        }
        for index in [40, 7, 59, 0, 23] {
            _ = try machine.seek(to: sights[index].position)
            #expect(try Sight(&machine) == sights[index], "\(sights[index].position)")
            #expect(Position(sights[index].position.description) == sights[index].position)
        }
        #expect(try machine.seekEnd().word == "end")
        #expect(machine.divergence == nil)
    }

    @Test(arguments: ["ring3", "syscall", "preempted-ring3"])
    func `breakpoints in ring 3 are hit in both directions`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        guard machine.usesRing3Stops else { return }
        let exit = middle(name, machine)
        try #require(try enter(&machine, from: exit))
        _ = try machine.step(9)
        for _ in 0..<4000 where machine.position.ring3 ?? 0 < 2 { _ = try machine.step() }
        try #require(machine.position.ring3 ?? 0 >= 2)
        let address = machine.instructionAddress
        machine.insertBreakpoint(address)
        let start = machine.position
        var there = [try Sight(&machine)]
        while there.count < 12 {
            guard case .breakpoint(address) = try machine.resume() else {
                there.append(try Sight(&machine))
                break
            }
            #expect(machine.systemRegisters.cpl == 3)
            #expect(machine.instructionAddress == address)
            there.append(try Sight(&machine))
        }
        #expect(there.count > 1)
        #expect(machine.divergence == nil)
        for sight in there.dropLast().reversed() {
            let stop = try machine.reverseResume()
            #expect(stop.word == "breakpoint")
            #expect(try Sight(&machine) == sight, "\(sight.position)")
        }
        #expect(machine.position == start)
        machine.removeBreakpoint(address)
        #expect(try machine.seekEnd().word == "end")
    }
}
