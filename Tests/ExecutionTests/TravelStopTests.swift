import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// Breakpoints and watchpoints, in both directions.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TravelStopTests {
    /// Where a machine stops on its way, from one end to the other.
    private func hits(
        _ machine: inout TimeMachine, backwards: Bool, limit: Int = 400
    ) throws -> [Position] {
        var hits: [Position] = []
        while hits.count < limit {
            let stop = try backwards ? machine.reverseResume() : machine.resume()
            guard case .breakpoint(let address) = stop else {
                #expect(stop.word == (backwards ? "begin" : "end"))
                return hits
            }
            #expect(machine.instructionAddress == address)
            #expect(machine.breakpoints.contains(address))
            hits.append(machine.position)
        }
        return hits
    }

    /// Addresses of instructions that the run executes now and then.
    private func addresses(
        _ machine: inout TimeMachine, _ count: Int
    ) throws -> [GuestVirtualAddress] {
        var found: [GuestVirtualAddress] = []
        let exits = machine.reader.exitCount
        for round in 0..<UInt64(count) {
            let exit = exits * round / UInt64(count)
            _ = try machine.seek(to: Position(exitCount: exit, instructions: 3 + round))
            if !found.contains(machine.instructionAddress) {
                found.append(machine.instructionAddress)
            }
        }
        return found
    }

    @Test(arguments: ["add", "triple-fault", "ring3", "timer", "preempted"])
    func `the same breakpoints are hit in both directions`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        for address in try addresses(&machine, 3) { machine.insertBreakpoint(address) }
        _ = try machine.seek(to: .begin)
        let there = try hits(&machine, backwards: false)
        #expect(!there.isEmpty)
        guard there.count < 400 else { return }
        let back = try hits(&machine, backwards: true)
        #expect(back.reversed() == there)
    }

    @Test(arguments: ["swift-kernel", "triple-fault", "timer"])
    func `more breakpoints than the CPU has are all hit`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        let wanted = try addresses(&machine, 11)
        #expect(wanted.count > 4)
        var each: [Position] = []
        for address in wanted {
            machine.insertBreakpoint(address)
            _ = try machine.seek(to: .begin)
            each += try hits(&machine, backwards: false, limit: 60)
            machine.removeBreakpoint(address)
        }
        for address in wanted { machine.insertBreakpoint(address) }
        _ = try machine.seek(to: .begin)
        let all = try hits(&machine, backwards: false, limit: 60)
        #expect(all == Array(each.sorted().prefix(all.count)))
        let back = try hits(&machine, backwards: true, limit: 60)
        #expect(back == Array(all.dropLast().reversed().prefix(60)))
    }

    @Test func `the store that caused the triple fault is found from the crash`() throws {
        let host = try Host()
        let trip = try Trip(host, "triple-fault")
        var machine = try trip.machine(host)
        #expect(try machine.seekEnd().word == "end")
        let end = machine.position
        let gate = machine.systemRegisters.idt.base + 14 * 16
        let mapped = machine.physicalAddress(GuestVirtualAddress(gate))
        let place = try #require(mapped)
        let watchpoint = try #require(Watchpoint(place, count: 16))
        let after = machine.memory(at: place, count: 16)
        let stop = try machine.seekLastWrite(watchpoint)
        guard case .watchpoint(let hit) = stop else {
            Issue.record("stopped by \(stop.word)")
            return
        }
        #expect(hit.new == after)
        #expect(machine.memory(at: place, count: 16) == hit.old)
        #expect(machine.position < end)
        let store = machine.position
        _ = try machine.step()
        #expect(machine.memory(at: place, count: 16) == hit.new)
        // Forward, the same change is found, and stopped after.
        _ = try machine.seek(to: Position(exitCount: store.exitCount - 2))
        machine.insertWatchpoint(watchpoint)
        var last = try machine.resume()
        while case .watchpoint(let next) = last, next.new != after { last = try machine.resume() }
        guard case .watchpoint(let again) = last else {
            Issue.record("stopped by \(last.word)")
            return
        }
        #expect(again.new == after)
        _ = try machine.reverseStep()
        #expect(machine.position == store)
    }

    @Test func `changes of a counter are the same in both directions`() throws {
        let host = try Host()
        let trip = try Trip(host, "timer")
        var machine = try trip.machine(host)
        // A place on the stack, which is written all the time.
        _ = try machine.seek(to: Position(exitCount: machine.reader.exitCount / 2, instructions: 9))
        let mapped = machine.physicalAddress(GuestVirtualAddress(machine.registers[.rsp]))
        let watchpoint = Watchpoint(try #require(mapped), count: 8)
        machine.insertWatchpoint(try #require(watchpoint))
        _ = try machine.seek(to: .begin)
        var there: [WatchHit] = []
        while case .watchpoint(let hit) = try machine.resume() { there.append(hit) }
        #expect(machine.ending != nil)
        #expect(!there.isEmpty)
        var back: [WatchHit] = []
        while case .watchpoint(let hit) = try machine.reverseResume() { back.append(hit) }
        #expect(machine.position == .begin)
        #expect(back.reversed() == there)
        for (one, next) in zip(there, there.dropFirst()) { #expect(one.new == next.old) }
    }

    @Test func `pushed flags do not show that the guest is stepped`() throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        // Real mode: pushf; pop bx; mov al, bh; out 0x80, al; and again; hlt
        let code: [UInt8] = [
            0xBC, 0x00, 0x20, 0x9C, 0x5B, 0x88, 0xF8, 0xE6, 0x80, 0x9C, 0x5B, 0x88, 0xF8, 0xE6,
            0x80, 0xF4,
        ]
        let guest = try TestGuest.flat(code, in: directory)
        let path = directory.file("guest.vmtape")
        _ = try guest.record(host, to: path)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: path))
        var steps = 0
        while case .arrived = try machine.step() {
            #expect(machine.registers.rflags & 1 << 8 == 0)
            steps += 1
        }
        #expect(machine.divergence == nil)
        #expect(machine.ending != nil)
        #expect(steps >= 9)
    }
}
