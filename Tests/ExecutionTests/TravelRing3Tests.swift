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
    /// Addresses in the program of preempted-ring3, as `objdump -d` shows them.
    private enum Program {
        /// Behind the loop around `count_in_vector`.
        static let behindVectors = GuestVirtualAddress(0x1000FA)
        /// What stores `shared.state` behind the call of `compute`.
        static let store = GuestVirtualAddress(0x1000B7)
        /// The end of `compute`.
        static let computed = GuestVirtualAddress(0x100303)
        /// The HLT that faults.
        static let fault = GuestVirtualAddress(0x1001D0)
        /// `shared.state`.
        static let state = GuestVirtualAddress(0x100380)
    }

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
            let now = try Sight(&machine)
            let isMemory = now.memory != sight.memory
            #expect(now == sight, "\(sight.position)\(isMemory ? ", memory differs" : "")")
        }
        for index in [40, 7, 59, 0, 23] {
            _ = try machine.seek(to: sights[index].position)
            #expect(try Sight(&machine) == sights[index], "\(sights[index].position)")
            #expect(Position(sights[index].position.description) == sights[index].position)
        }
        #expect(try machine.seekEnd().word == "end")
        #expect(machine.divergence == nil)
    }

    /// What is seen of a place that may have no name yet.
    private struct Glimpse: Equatable {
        var registers: GeneralRegisters
        var state: Digest128

        init(_ machine: inout TimeMachine) throws {
            registers = machine.registers
            state = try machine.stateDigest()
        }
    }

    // The stretches of preempted-ring3 have millions of instructions.
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
        var there = [try Glimpse(&machine)]
        while there.count < 12 {
            guard case .breakpoint(address) = try machine.resume() else {
                there.append(try Glimpse(&machine))
                break
            }
            #expect(machine.systemRegisters.cpl == 3)
            #expect(machine.instructionAddress == address)
            there.append(try Glimpse(&machine))
        }
        #expect(there.count > 1)
        #expect(machine.divergence == nil)
        for (index, sight) in there.dropLast().enumerated().reversed() {
            let stop = try machine.reverseResume()
            #expect(stop.word == "breakpoint")
            #expect(try Glimpse(&machine) == sight, "\(index): \(machine.positionText)")
        }
        try machine.name()
        #expect(machine.position == start)
        machine.removeBreakpoint(address)
        #expect(try machine.seekEnd().word == "end")
    }

    /// An endless loop, in which no replay comes to where an interrupt was.
    @Test func `the way leads over places that the trace holds, in both directions`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "12 20").record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops, tape.outcome.report.midFlight.storedPlaces > 3 else { return }
        let exits = (machine.reader.exitCount / 4)..<(machine.reader.exitCount / 4 + 6)
        var sights: [Sight] = []
        for exit in exits {
            _ = try machine.seek(to: Position(exitCount: exit))
            sights.append(try Sight(&machine))
        }
        // From its beginning too, stepped through the first of the loop.
        _ = try machine.seek(to: Position(exitCount: exits.lowerBound))
        try #require(try enter(&machine, from: exits.lowerBound))
        for _ in 0..<30 { _ = try machine.step() }
        let inside = try Sight(&machine)
        for sight in sights.reversed() {
            _ = try machine.seek(to: sight.position)
            #expect(try Sight(&machine) == sight, "\(sight.position)")
        }
        _ = try machine.seek(to: inside.position)
        #expect(try Sight(&machine) == inside)
        // A breakpoint in ring 3 that is not on the way: where the loop is left is found none the less.
        machine.insertBreakpoint(GuestVirtualAddress(inside.registers.rip & ~0xFFF))
        #expect(try machine.seekEnd().word == "end")
        #expect(machine.divergence == nil)
    }

    // Nobody counts the instructions there: that so many steps lead from each place to the one where
    // all was known, and to the same state, says that it is the right one.
    @Test func `steps back deep in ring 3 undo steps`() throws {
        let host = try Host()
        let trip = try Trip(host, "preempted-ring3")
        var machine = try trip.machine(host)
        guard machine.usesRing3Stops else { return }
        let exit = middle("preempted-ring3", machine)
        try #require(try enter(&machine, from: exit))
        // Where user_main goes on after 80,000 rounds of counting in a vector register.
        machine.insertBreakpoint(Program.behindVectors)
        guard case .breakpoint = try machine.resume() else {
            Issue.record("no breakpoint deep in ring 3")
            return
        }
        #expect(machine.isNamed == false)
        var there = [try Glimpse(&machine)]
        let count = 40
        for _ in 0..<count {
            #expect(try machine.reverseStep().word == "arrived")
            #expect(machine.systemRegisters.cpl == 3)
            there.append(try Glimpse(&machine))
        }
        for sight in there.dropLast().reversed() {
            #expect(try machine.step().word == "arrived")
            #expect(try Glimpse(&machine) == sight)
        }
        // Back to the same place at once, on, and back to the breakpoint before.
        _ = try machine.reverseStep(UInt64(count))
        #expect(try Glimpse(&machine) == there[count])
        guard case .breakpoint = try machine.resume() else {
            Issue.record("the breakpoint is not hit again")
            return
        }
        #expect(try Glimpse(&machine) == there[0])
        // A breakpoint within the steps back, and one that is ahead of them.
        _ = try machine.reverseStep(20)
        machine.insertBreakpoint(GuestVirtualAddress(there[30].registers.rip))
        machine.removeBreakpoint(Program.behindVectors)
        let index = try #require(
            (21...count).first { there[$0].registers.rip == there[30].registers.rip })
        guard case .breakpoint = try machine.reverseResume() else {
            Issue.record("no breakpoint on the way back")
            return
        }
        #expect(try Glimpse(&machine) == there[index])
        #expect(machine.divergence == nil)
    }

    @Test(arguments: ["ring3", "syscall"])
    func `a place in ring 3 gets the name that steps give it`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        guard machine.usesRing3Stops else { return }
        try #require(try enter(&machine, from: middle(name, machine)))
        var sights = [try Sight(&machine)]
        while sights.count < 200 {
            _ = try machine.step()
            guard machine.position.ring3 != nil else { break }
            sights.append(try Sight(&machine))
        }
        let target = try #require(sights.dropFirst(2).last)
        // By two breakpoints and some steps, and back.
        _ = try machine.seek(to: sights[0].position)
        for sight in [sights[sights.count / 2], target] {
            machine.insertBreakpoint(GuestVirtualAddress(sight.registers.rip))
        }
        var steps = 0
        while machine.registers != target.registers, steps < sights.count {
            guard case .breakpoint = try machine.resume() else { break }
            steps += 1
        }
        #expect(machine.isNamed == false)
        #expect(machine.positionText.last == "?")
        #expect(machine.position <= target.position)
        for index in [2, 1] {
            _ = try machine.reverseStep()
            #expect(machine.registers == sights[sights.count - 4 + index].registers)
        }
        for _ in 0..<2 { _ = try machine.step() }
        #expect(try machine.stateDigest() == target.state)
        // One that steps back led to, too.
        _ = try machine.reverseStep()
        #expect(try machine.name(limit: 1) == false)
        #expect(machine.isNamed == false)
        #expect(try machine.name() == true)
        #expect(try Sight(&machine) == sights[sights.count - 2])
        _ = try machine.seek(to: sights[0].position)
        for _ in 0..<steps { _ = try machine.resume() }
        #expect(try machine.name())
        #expect(machine.isNamed == true)
        #expect(try Sight(&machine) == target)
        // A target in the same stretch, from a place without a name.
        _ = try machine.seek(to: sights[0].position)
        _ = try machine.resume()
        _ = try machine.seek(to: sights[1].position)
        #expect(try Sight(&machine) == sights[1])
    }

    /// What user_main of preempted-ring3 does with its state between two stores of it.
    private func computed(_ bytes: [UInt8], rounds: Int) -> [UInt8] {
        var value = bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
        for _ in 0..<rounds {
            value ^= value << 13
            value ^= value >> 7
            value ^= value << 17
        }
        return (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    // Half a million instructions between two changes, and an interrupt now and then; or a loop of few,
    // in which the trace holds the places of the interrupts.
    @Test(arguments: [("30 4", 60000), ("12 20", 1)])
    func `a watchpoint finds each change deep in ring 3, in both directions`(
        arguments: String, rounds: Int
    ) throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", arguments).record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops else { return }
        try #require(try enter(&machine, from: machine.reader.exitCount / 4))
        // shared.state
        let place = machine.physicalAddress(Program.state)
        let state = try #require(place)
        let watchpoint = try #require(Watchpoint(state, count: 8))
        machine.insertWatchpoint(watchpoint)
        let start = machine.position
        var there: [(hit: WatchHit, sight: Glimpse)] = []
        for _ in 0..<8 {
            guard case .watchpoint(let hit) = try machine.resume() else {
                Issue.record("no change after \(there.count), at \(machine.positionText)")
                return
            }
            #expect(hit.watchpoint == watchpoint)
            #expect(machine.memory(at: state, count: 8) == hit.new)
            #expect(hit.new == computed(hit.old, rounds: rounds))
            if let last = there.last { #expect(last.hit.new == hit.old) }
            there.append((hit, try Glimpse(&machine)))
        }
        #expect(machine.systemRegisters.cpl == 3)
        // A step back leads to before the change, and the machine stands behind it again by a step.
        _ = try machine.reverseStep()
        #expect(machine.memory(at: state, count: 8) == there[7].hit.old)
        #expect(try machine.step().word == "arrived")
        #expect(try Glimpse(&machine) == there[7].sight)
        for (hit, sight) in there.reversed() {
            guard case .watchpoint(let back) = try machine.reverseResume() else {
                Issue.record("no change on the way back, at \(machine.positionText)")
                return
            }
            #expect(back == hit)
            #expect(machine.memory(at: state, count: 8) == hit.old)
            let before = try Glimpse(&machine)
            // What is next changes it.
            guard case .watchpoint(hit) = try machine.resume() else {
                Issue.record("the change is not seen again, at \(machine.positionText)")
                return
            }
            #expect(try Glimpse(&machine) == sight)
            _ = try machine.reverseStep()
            #expect(try Glimpse(&machine) == before)
        }
        #expect(machine.position >= start)
        // On the same page, and never changed.
        machine.removeWatchpoint(watchpoint)
        let mode = try #require(Watchpoint(GuestPhysicalAddress(state.rawValue - 8), count: 8))
        machine.insertWatchpoint(mode)
        #expect(try machine.resume().word == "end")
        #expect(machine.divergence == nil)
    }

    /// One breakpoint stands on the very instruction that makes the change.
    @Test func `watchpoints and breakpoints deep in ring 3 stop in one order`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "30 4").record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops else { return }
        try #require(try enter(&machine, from: machine.reader.exitCount / 3))
        let place = machine.physicalAddress(Program.state)
        let watchpoint = place.flatMap { Watchpoint($0, count: 8) }
        machine.insertWatchpoint(try #require(watchpoint))
        let store = Program.store
        let end = Program.computed
        for address in [store, end] { machine.insertBreakpoint(address) }
        var there: [(stop: TravelStop, sight: Glimpse)] = []
        for _ in 0..<13 {
            let stop = try machine.resume()
            there.append((stop, try Glimpse(&machine)))
        }
        // The first may be any.
        let words = there.map(\.stop.word)
        for index in 1..<there.count {
            switch there[index - 1].stop {
            case .watchpoint: #expect(words[index] == "breakpoint")
            case .breakpoint(end):
                guard case .breakpoint(store) = there[index].stop else {
                    Issue.record("\(words)")
                    return
                }
            case .breakpoint: #expect(words[index] == "watchpoint")
            default: Issue.record("\(words)")
            }
        }
        // Back to before a change is back to the breakpoint there, which is not come to once more.
        var expected: [(word: String, sight: Glimpse)] = []
        for index in (1..<there.count).reversed() {
            switch there[index].stop {
            case .watchpoint: expected.append(("watchpoint", there[index - 1].sight))
            case .breakpoint(end) where index < there.count - 1:
                expected.append(("breakpoint", there[index].sight))
            default: break
            }
        }
        for (index, stop) in expected.enumerated() {
            #expect(try machine.reverseResume().word == stop.word, "\(index) of \(words)")
            #expect(try Glimpse(&machine) == stop.sight, "\(index), \(machine.positionText)")
        }
        #expect(machine.divergence == nil)
    }

    /// Each round of a REP is a read.
    @Test func `a watchpoint on reads finds each round of a REP deep in ring 3`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "12 12").record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops else { return }
        try #require(try enter(&machine, from: machine.reader.exitCount / 4))
        // In shared.blocks[0], on a page without code.
        let place = machine.physicalAddress(GuestVirtualAddress(0x101000))
        let watchpoint = place.flatMap { Watchpoint($0, count: 4, kind: .read) }
        machine.insertWatchpoint(try #require(watchpoint))
        var there: [Glimpse] = []
        // The page is written all the time, and read where a copy nears its end.
        for count in 1...3 as ClosedRange<UInt64> {
            guard case .watchpoint(let hit) = try machine.resume() else {
                Issue.record("no read after \(there.count), at \(machine.positionText)")
                return
            }
            #expect(hit.old == hit.new)
            #expect(machine.registers[.rsi] == 0x101000 + count)
            there.append(try Glimpse(&machine))
        }
        #expect(machine.isNamed == false)
        #expect(try machine.name())
        #expect(machine.position.ring3 ?? 0 > 3)
        #expect(try Glimpse(&machine) == there[2])
        for count in (1...3 as ClosedRange<UInt64>).reversed() {
            #expect(try machine.reverseResume().word == "watchpoint")
            #expect(machine.registers[.rsi] == 0x101000 + count - 1)
            _ = try machine.step()
            #expect(try Glimpse(&machine) == there[Int(count) - 1])
            _ = try machine.reverseStep()
        }
        #expect(machine.divergence == nil)
    }

    /// The CPU pushes a frame when ring 3 faults, which is no touch of the program's: the last
    /// instruction of the stretch is what is next then.
    @Test func `a frame that a fault pushes behind a long stretch is found before it`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "30 3").record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops else { return }
        // user_main's HLT.
        let fault = Program.fault.rawValue
        let bytes = (0..<8).map { UInt8(truncatingIfNeeded: fault >> ($0 * 8)) }
        var slot: GuestPhysicalAddress?
        for exit in machine.reader.exitCount / 3..<machine.reader.exitCount where slot == nil {
            guard try enter(&machine, from: exit) else { continue }
            let entry = machine.position
            _ = try machine.seek(
                to: Position(exitCount: entry.exitCount, instructions: entry.instructions + 1))
            // The error code, and RIP.
            let frame = GuestVirtualAddress(machine.registers[.rsp] &+ 8)
            guard machine.systemRegisters.cpl == 0, machine.memory(at: frame, count: 8) == bytes
            else { continue }
            slot = machine.physicalAddress(frame)
        }
        let watchpoint = try #require(slot.flatMap { Watchpoint($0, count: 8) })
        machine.insertWatchpoint(watchpoint)
        _ = try machine.seek(to: Position(exitCount: machine.reader.exitCount * 2 / 3))
        var found = 0
        // The handler moves RIP on in the frame, twenty times a round; one round has one such fault.
        for _ in 0..<100 where found == 0 {
            guard case .watchpoint(let hit) = try machine.reverseResume() else { break }
            // An interrupt's frame has another RIP.
            guard hit.new == bytes, !machine.isNamed else { continue }
            found += 1
            #expect(machine.registers.rip == fault)
            #expect(machine.systemRegisters.cpl == 3)
            _ = try machine.step()
            #expect(machine.systemRegisters.cpl == 0)
            #expect(machine.memory(at: watchpoint.address, count: 8) == bytes)
            _ = try machine.reverseStep()
            #expect(machine.registers.rip == fault)
        }
        #expect(found > 0)
        #expect(machine.divergence == nil)
    }

    // The stretch behind which the machine stands ends with an exception, an exit, or an interrupt.
    @Test(arguments: ["20 3", "20 4"])
    func `steps back out of ring 0 lead to the end of a long stretch of ring 3`(
        _ arguments: String
    ) throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", arguments).record(host, .host)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: tape.path))
        guard machine.usesRing3Stops else { return }
        let first = machine.reader.exitCount / 5
        var stretches = 0
        for exit in first..<first + 40 where stretches < 2 {
            guard try enter(&machine, from: exit) else { continue }
            let entry = machine.position
            let behind = Position(
                exitCount: entry.exitCount, instructions: entry.instructions + 1)
            _ = try machine.seek(to: behind)
            let steps = Position(
                exitCount: entry.exitCount, instructions: entry.instructions, ring3: 3000)
            _ = try machine.seek(to: steps)
            // A short one is no place to look from.
            guard machine.position == steps else { continue }
            _ = try machine.seek(to: behind)
            stretches += 1
            var there = [try Glimpse(&machine)]
            #expect(machine.systemRegisters.cpl == 0)
            for _ in 0..<3 {
                #expect(try machine.reverseStep().word == "arrived")
                #expect(machine.systemRegisters.cpl == 3, "\(machine.positionText)")
                there.append(try Glimpse(&machine))
            }
            for sight in there.dropLast().reversed() {
                #expect(try machine.step().word == "arrived")
                #expect(try Glimpse(&machine) == sight, "\(machine.positionText)")
            }
            // All at once.
            _ = try machine.reverseStep(2)
            #expect(try Glimpse(&machine) == there[2])
        }
        #expect(stretches > 0)
        #expect(machine.divergence == nil)
    }
}
