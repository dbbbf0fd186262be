import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// A second session in a trace starts where the first had come to, and stands at the same places.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct KeyframeFileTests {
    private static var options: TravelOptions {
        var options = TravelOptions()
        options.keyframeSpacing = 1_000_000
        return options
    }

    /// Walks a run to its end and keeps its keyframes.
    private static func walk(
        _ host: borrowing Host, _ trip: borrowing Trip, _ keys: String
    ) throws {
        var machine = try trip.machine(host, options)
        #expect(try machine.seekEnd().word == "end")
        #expect((machine.hasUnsavedKeyframes) == (machine.keyframeSummary.count > 1))
        let summary = try machine.saveKeyframes(to: keys)
        #expect((machine.hasUnsavedKeyframes) == false)
        #expect(summary.count == machine.keyframeSummary.count - 1)
    }

    @Test func `the end is found without replaying the run`() throws {
        let host = try Host()
        let trip = try Trip(host, "poll")
        let keys = trip.directory.file("keys")
        var options = Self.options
        // However fast this host is.
        options.worthRestoring = 0
        var first = try trip.machine(host, options)
        let count = first.reader.exitCount
        for exit in stride(from: 50, to: count - 5, by: 50) {
            _ = try first.seek(to: Position(exitCount: exit))
            #expect(try first.keepHere())
        }
        _ = try first.seek(to: Position(exitCount: count - 5))
        #expect(try first.keepHere())
        #expect(try first.seekEnd().word == "end")
        #expect(first.replayedExits == count)
        let summary = try first.saveKeyframes(to: keys)
        #expect(summary.count > 10)
        var machine = try trip.machine(host, options)
        #expect(try machine.useKeyframes(of: keys) == summary)
        #expect((machine.hasUnsavedKeyframes) == false)
        #expect(try machine.seekEnd().word == "end")
        #expect(try machine.memoryDigest() == machine.reader.end()?.event.memory)
        #expect(machine.keyframeFileProblem == nil)
        #expect(machine.replayedExits == 5)
    }

    /// Two machines must be at one place. Where SYSCALL is mended, accessed bits in the guest's page
    /// tables differ from session to session, with a file and without: registers are compared there.
    private static func compare(
        _ a: inout TimeMachine, _ b: inout TimeMachine, _ name: String, _ what: String
    ) throws {
        let (one, other) = (try Sight(&a), try Sight(&b))
        if name == "syscall" {
            #expect(one.position == other.position, "\(what)")
            #expect(one.registers == other.registers, "\(what)")
        } else {
            #expect(one == other, "\(what)")
        }
    }

    @Test(arguments: Trip.samples)
    func `every place is the same with the file and without`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        let keys = trip.directory.file("keys")
        try Self.walk(host, trip, keys)
        var plain = try trip.machine(host, Self.options)
        var stored = try trip.machine(host, Self.options)
        _ = try stored.useKeyframes(of: keys)
        // From the end first: everything that follows stands on what the file has.
        #expect(try plain.seekEnd().word == "end")
        #expect(try stored.seekEnd().word == "end")
        try Self.compare(&stored, &plain, name, "the end")
        var random = Random(state: 0xF17E)
        for round in 0..<10 {
            let target = Position(
                exitCount: .random(in: 0..<plain.reader.exitCount, using: &random),
                instructions: .random(in: 0..<2000, using: &random))
            _ = try plain.seek(to: target)
            _ = try stored.seek(to: target)
            try Self.compare(&stored, &plain, name, "round \(round): \(target)")
            _ = try plain.reverseStep(3)
            _ = try stored.reverseStep(3)
            try Self.compare(&stored, &plain, name, "round \(round): before \(target)")
        }
        #expect(stored.keyframeFileProblem == nil)
        // What was added on the way joins what was there, and a third session has both.
        if stored.hasUnsavedKeyframes {
            let summary = try stored.saveKeyframes(to: keys)
            var third = try trip.machine(host, Self.options)
            #expect(try third.useKeyframes(of: keys).count == summary.count)
            #expect(try third.seekEnd().word == "end")
            _ = try plain.seekEnd()
            try Self.compare(&third, &plain, name, "the end of the third session")
        }
    }

    @Test func `the cap holds for what comes from a file, too`() throws {
        let host = try Host()
        let trip = try Trip(host, "swift-kernel")
        let keys = trip.directory.file("keys")
        var free = try trip.machine(host, Self.options)
        let loaded = free.keyframeSummary.byteCount
        #expect(try free.seekEnd().word == "end")
        for exit in stride(from: 5, to: free.reader.exitCount, by: 9) {
            _ = try free.seek(to: Position(exitCount: exit))
            #expect(try free.keepHere())
        }
        _ = try free.saveKeyframes(to: keys)
        var options = Self.options
        options.keyframeBytes = loaded + 60_000
        var machine = try trip.machine(host, options)
        let summary = try machine.useKeyframes(of: keys)
        #expect(machine.keyframeSummary.byteCount <= options.keyframeBytes)
        #expect(machine.keyframeSummary.count - 1 < summary.count)
        #expect(try machine.seekEnd().word == "end")
        for exit in [3, 100, 55, 200] as [UInt64] {
            _ = try machine.seek(to: Position(exitCount: exit))
            _ = try free.seek(to: Position(exitCount: exit))
            #expect(try Sight(&machine) == Sight(&free))
        }
        #expect(machine.keyframeSummary.byteCount <= options.keyframeBytes)
    }

    @Test func `damaged pages are noticed when they are used, and the run is replayed instead`()
        throws
    {
        let host = try Host()
        let trip = try Trip(host, "swift-kernel")
        let keys = trip.directory.file("keys")
        var plain = try trip.machine(host, Self.options)
        #expect(try plain.seekEnd().word == "end")
        let target = Position(exitCount: 150, instructions: 2)
        _ = try plain.seek(to: target)
        _ = try plain.keepHere()
        _ = try plain.saveKeyframes(to: keys)
        let sight = try Sight(&plain)
        let bytes = try #require(Files.read(keys))
        var damages = 0
        // A byte here and there; Trace's tests flip each.
        for index in stride(from: 300, to: bytes.count, by: bytes.count / 40) {
            var damaged = bytes
            damaged[index] ^= 0x10
            try Files.write(keys, damaged)
            var machine = try trip.machine(host, Self.options)
            do throws(KeyframeFileError) { _ = try machine.useKeyframes(of: keys) } catch {
                #expect(error.kind == .unusable)
            }
            _ = try machine.seek(to: target)
            #expect(try Sight(&machine) == sight, "byte \(index)")
            if machine.keyframeFileProblem != nil {
                damages += 1
                #expect(machine.keyframes.frames.allSatisfy { $0.memory == nil })
                _ = try machine.seek(to: .begin)
                #expect(try machine.seekEnd().word == "end")
                #expect(try machine.memoryDigest() == machine.reader.end()?.event.memory)
            }
        }
        #expect(damages > 0)
    }

    @Test func `a file of another recording, host or way of counting is refused`() throws {
        let host = try Host()
        let trip = try Trip(host, "add")
        let other = try Trip(host, "string-io")
        let keys = trip.directory.file("keys")
        var machine = try trip.machine(host, Self.options)
        _ = try machine.seek(to: Position(exitCount: 1))
        #expect(try machine.keepHere())
        _ = try machine.saveKeyframes(to: keys)
        var stranger = try other.machine(host, Self.options)
        #expect {
            try stranger.useKeyframes(of: keys)
        } throws: { ($0 as? KeyframeFileError)?.message.contains("another recording") == true }
        #expect(try stranger.seekEnd().word == "end")
        var options = Self.options
        options.usesCounter = false
        var stepping = try trip.machine(host, options)
        if machine.hasCounter {
            #expect {
                try stepping.useKeyframes(of: keys)
            } throws: {
                ($0 as? KeyframeFileError)?.message.contains("counter is no here") == true
            }
        }
        #expect(try stepping.seekEnd().word == "end")
    }

    /// What a file says is checked against the machine before any of it is used.
    @Test func `records of another machine are refused`() throws {
        let host = try Host()
        let trip = try Trip(host, "add")
        var machine = try trip.machine(host, Self.options)
        _ = try machine.seek(to: Position(exitCount: 1))
        #expect(try machine.keepHere())
        let frame = machine.keyframes.frames[1]
        let first = machine.keyframes.frames[0]
        let record = KeyframeRecord(
            position: frame.position, memory: .zero,
            parts: KeyframeCoding.parts(of: frame, withSites: true), pages: [], written: [])
        let again = try #require(
            KeyframeCoding.frame(record, like: first, sites: first.loop.sites))
        #expect(again.position == frame.position)
        #expect(again.cpu.registers == frame.cpu.registers)
        #expect(again.cpu.extended == frame.cpu.extended)
        #expect(again.cpu.msrs == frame.cpu.msrs)
        #expect(again.tape == frame.tape && again.spanStart == frame.spanStart)
        for index in record.parts.indices {
            var changed = record
            changed.parts[index].words.removeLast()
            #expect(
                KeyframeCoding.frame(changed, like: first, sites: first.loop.sites) == nil,
                "part \(record.parts[index].tag) is too short")
            var twice = record
            twice.parts.append(record.parts[index])
            let isSites = record.parts[index].tag == record.parts.last?.tag
            #expect(
                isSites
                    || KeyframeCoding.frame(twice, like: first, sites: first.loop.sites) == nil)
        }
        var moved = record
        moved.position.instructions += 1
        #expect(KeyframeCoding.frame(moved, like: first, sites: first.loop.sites) == nil)
    }
}
