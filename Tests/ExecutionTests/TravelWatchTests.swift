import Devices
import Guest
import KVM
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution

/// Watchpoints of all kinds, in both directions.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TravelWatchTests {
    /// A guest in real mode whose instructions read and write two bytes at 0x3000 in all ways.
    private static let reader: [UInt8] = [
        0xBC, 0x00, 0x20,  // 00: mov sp, 0x2000
        0xA1, 0x00, 0x30,  // 03: mov ax, [0x3000]: read
        0xA3, 0x00, 0x30,  // 06: mov [0x3000], ax: written, what is there already
        0xFF, 0x06, 0x02, 0x30,  // 09: inc word [0x3002]
        0xFF, 0x36, 0x00, 0x30,  // 0d: push word [0x3000]: read
        0x58,  // 11: pop ax
        0xBE, 0x00, 0x30,  // 12: mov si, 0x3000
        0xBF, 0x00, 0x40,  // 15: mov di, 0x4000
        0xB9, 0x08, 0x00,  // 18: mov cx, 8
        0xF3, 0xA4,  // 1b: rep movsb: read
        0xBB, 0xF0, 0x2F,  // 1d: mov bx, 0x2ff0
        0xB0, 0x10,  // 20: mov al, 0x10
        0xD7,  // 22: xlat: read
        0xB8, 0x10, 0x00,  // 23: mov ax, 16
        0x0F, 0xA3, 0x06, 0xFE, 0x2F,  // 26: bt [0x2ffe], ax: read, the word behind
        0xFD,  // 2b: std
        0xBE, 0x03, 0x30,  // 2c: mov si, 0x3003
        0xB9, 0x02, 0x00,  // 2f: mov cx, 2
        0xF3, 0xAD,  // 32: rep lodsw: read, going down
        0xFC,  // 34: cld
        0xBA, 0xE9, 0x00,  // 35: mov dx, 0xe9
        0xBE, 0x00, 0x30,  // 38: mov si, 0x3000
        0x6E,  // 3b: outsb: read, and an exit
        0xA0, 0x08, 0x30,  // 3c: mov al, [0x3008]
        0x8D, 0x06, 0x00, 0x30,  // 3f: lea ax, [0x3000]
        0xBF, 0x00, 0x30,  // 43: mov di, 0x3000
        0xB9, 0x04, 0x00,  // 46: mov cx, 4
        0xF3, 0xAA,  // 49: rep stosb: written
        0xE6, 0x80,  // 4b: out 0x80, al
        0xF4,  // 4d: hlt
    ]

    private func trip(
        _ host: borrowing Host, _ code: [UInt8], in directory: TemporaryDirectory
    ) throws -> TimeMachine {
        let guest = try TestGuest.flat(code, in: directory)
        let path = directory.file("guest.vmtape")
        _ = try guest.record(host, to: path)
        return try TimeMachine(host: host, reader: TraceReader(path: path))
    }

    /// Every touch of the watchpoints, with the positions before and after.
    private struct Found: Equatable {
        var before: [Position] = []
        var places: [UInt64] = []
        var hits: [WatchHit] = []
    }

    private func forwards(_ machine: inout TimeMachine) throws -> (hits: [WatchHit], [Position]) {
        var hits: [WatchHit] = []
        var positions: [Position] = []
        _ = try machine.seek(to: .begin)
        var stop = try machine.resume()
        while case .watchpoint(let hit) = stop {
            hits.append(hit)
            positions.append(machine.position)
            stop = try machine.resume()
        }
        #expect(stop.word == "end")
        return (hits, positions)
    }

    private func backwards(_ machine: inout TimeMachine, from base: UInt64) throws -> Found {
        var found = Found()
        _ = try machine.seekEnd()
        var stop = try machine.reverseResume()
        while case .watchpoint(let hit) = stop {
            found.hits.insert(hit, at: 0)
            found.before.insert(machine.position, at: 0)
            found.places.insert(machine.instructionAddress.rawValue &- base, at: 0)
            stop = try machine.reverseResume()
        }
        #expect(stop.word == "begin")
        return found
    }

    @Test(arguments: [
        (0x3000, 2, Watchpoint.Kind.read, [0x03, 0x0D, 0x1B, 0x22, 0x26, 0x32, 0x3B]),
        (0x3000, 2, .access, [0x03, 0x06, 0x0D, 0x1B, 0x22, 0x26, 0x32, 0x3B, 0x49]),
        (0x3000, 2, .change, []),
        (0x3002, 2, .change, [0x09, 0x49]),
        (0x3004, 1, .read, [0x1B, 0x32]),
        (0x1FFE, 2, .read, [0x11]),
        (0x1FFE, 2, .access, [0x0D, 0x11]),
        (0x4007, 1, .access, [0x1B]),
        (0x4007, 1, .read, []),
    ])
    func `each instruction that touches it stops, and no other`(
        _ address: UInt64, _ count: Int, _ kind: Watchpoint.Kind, _ places: [UInt64]
    ) throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        var machine = try trip(host, Self.reader, in: directory)
        let base = machine.instructionAddress.rawValue
        let watchpoint = Watchpoint(GuestPhysicalAddress(address), count: count, kind: kind)
        machine.insertWatchpoint(try #require(watchpoint))
        let (hits, after) = try forwards(&machine)
        let found = try backwards(&machine, from: base)
        #expect(found.places == places)
        #expect(found.hits == hits)
        for (before, after) in zip(found.before, after) {
            _ = try machine.seek(to: before)
            _ = try machine.step()
            #expect(machine.position == after)
        }
    }

    @Test func `a read far away is found without stepping all the way`() throws {
        // mov dx, 4; again: mov cx, 0xffff; loop $; dec dx; jnz again; mov al, [0x3000];
        // out 0x80, al; mov dx, 4; again: mov cx, 0xffff; loop $; dec dx; jnz again; hlt
        let wait: [UInt8] = [
            0xBA, 0x04, 0x00, 0xB9, 0xFF, 0xFF, 0xE2, 0xFE, 0x4A, 0x75, 0xF8,
        ]
        let code = wait + [0xA0, 0x00, 0x30, 0xE6, 0x80] + wait + [0xF4]
        let host = try Host()
        let directory = try TemporaryDirectory()
        var machine = try trip(host, code, in: directory)
        let base = machine.instructionAddress.rawValue
        let watchpoint = Watchpoint(GuestPhysicalAddress(0x3000), count: 1, kind: .read)
        machine.insertWatchpoint(try #require(watchpoint))
        let stop = try machine.resume()
        #expect(stop.word == "watchpoint")
        #expect(machine.instructionAddress.rawValue == base + UInt64(wait.count) + 3)
        _ = try machine.seekEnd()
        #expect(try machine.reverseResume().word == "watchpoint")
        #expect(machine.instructionAddress.rawValue == base + UInt64(wait.count))
    }

    @Test(arguments: ["timer", "swift-kernel", "add"])
    func `shielded and stepped find the same`(_ name: String) throws {
        let host = try Host()
        let trip = try Trip(host, name)
        var machine = try trip.machine(host)
        _ = try machine.seek(to: Position(exitCount: machine.reader.exitCount / 2, instructions: 9))
        // The stack, code that is read as data, and a gate of the interrupt table.
        let stack = machine.registers[.rsp]
        let gate = machine.systemRegisters.idt.base &+ 32 * 16
        for (address, kind) in [(stack, Watchpoint.Kind.read), (gate, .access)] {
            guard let place = machine.physicalAddress(GuestVirtualAddress(address)),
                let watchpoint = Watchpoint(place, count: 8, kind: kind)
            else { continue }
            machine.insertWatchpoint(watchpoint)
            let (hits, positions) = try forwards(&machine)
            machine.usesShield = false
            let (same, samePositions) = try forwards(&machine)
            machine.usesShield = true
            #expect(hits == same)
            #expect(positions == samePositions)
            machine.removeWatchpoint(watchpoint)
        }
    }

    /// Its memory is written by the serial port's answers, by itself and by fw_cfg.
    private static let served: [UInt8] = [
        0xBF, 0x00, 0x30,  // 00: mov di, 0x3000
        0xB9, 0x04, 0x00,  // 03: mov cx, 4
        0xBA, 0xFD, 0x03,  // 06: mov dx, 0x3fd
        0xF3, 0x6C,  // 09: rep insb
        0xC6, 0x06, 0x10, 0x30, 0x05,  // 0b: mov byte [0x3010], 5
        // 10: what fw_cfg is to do, numbers big-endian: select 0, read 4 bytes to 0x3020
        0x66, 0xC7, 0x06, 0x00, 0x20, 0x00, 0x00, 0x00, 0x0A,
        0x66, 0xC7, 0x06, 0x04, 0x20, 0x00, 0x00, 0x00, 0x04,
        0x66, 0xC7, 0x06, 0x08, 0x20, 0x00, 0x00, 0x00, 0x00,
        0x66, 0xC7, 0x06, 0x0C, 0x20, 0x00, 0x00, 0x30, 0x20,
        0xBA, 0x14, 0x05,  // 34: mov dx, 0x514
        0x66, 0x31, 0xC0,  // 37: xor eax, eax
        0x66, 0xEF,  // 3a: out dx, eax
        0xBA, 0x18, 0x05,  // 3c: mov dx, 0x518
        0x66, 0xB8, 0x00, 0x00, 0x20, 0x00,  // 3f: mov eax, 0x200000
        0x66, 0xEF,  // 45: out dx, eax
        0xE6, 0x80,  // 47: out 0x80, al
        0xF4,  // 49: hlt
    ]

    @Test func `what answers and devices write is found in both directions`() throws {
        let host = try Host()
        let directory = try TemporaryDirectory()
        let path = directory.file("guest.vmtape")
        var configuration = LiveConfiguration(
            plan: try TestGuest.flat(Self.served, in: directory).plan())
        // Many times what it makes: a test ends, whatever happens.
        configuration.exitLimit = 1000
        var pc = PCConfiguration(
            memoryBelow4GiB: configuration.plan.ram.lowLength, memoryAbove4GiB: 0)
        pc.offersFirmwareDMA = true
        let devices = try DeviceSet(
            .init(
                serial: ConsoleOutput.Target.none, debugConsole: ConsoleOutput.Target.none,
                machine: .pc, pc: pc))
        _ = try RecordSession(
            host: host, configuration: configuration, devices: devices,
            recording: RecordSession.Recording(path: path)
        ).run(SessionCallbacks())
        var machine = try TimeMachine(host: host, reader: TraceReader(path: path))
        let base = machine.instructionAddress.rawValue
        let wanted: [(address: UInt64, count: Int, place: UInt64, new: [UInt8], isAtExit: Bool)] = [
            (0x3002, 1, 0x09, [0x60], true), (0x3000, 4, 0x09, [0x60, 0x60, 0x60, 0x60], true),
            (0x3010, 1, 0x0B, [5], false), (0x3020, 4, 0x45, Array("QEMU".utf8), true),
        ]
        for want in wanted {
            let place = GuestPhysicalAddress(want.address)
            let watchpoint = try #require(Watchpoint(place, count: want.count))
            machine.insertWatchpoint(watchpoint)
            let (hits, after) = try forwards(&machine)
            let found = try backwards(&machine, from: base)
            machine.removeWatchpoint(watchpoint)
            #expect(hits.count == 1 && found.hits == hits, "\(hits)")
            #expect(found.places == [want.place])
            let hit = try #require(hits.first)
            #expect(hit.new == want.new && hit.old == want.new.map { _ in 0 })
            #expect((hit.exit != nil) == want.isAtExit, "\(want.address)")
            if want.isAtExit { #expect(hit.exit == found.before[0].exitCount) }
            // The two ways lead to neighbours.
            _ = try machine.seek(to: found.before[0])
            _ = try machine.step()
            #expect(machine.position == after[0])
            // What wrote last is found from the end, and from far behind it.
            _ = try machine.seekEnd()
            #expect(try machine.seekLastWrite(watchpoint).word == "watchpoint")
            #expect(machine.position == found.before[0])
        }
    }

    @Test func `what completions write is found in both directions`() throws {
        let host = try Host()
        let trip = try Trip(host, "gaps")
        var machine = try trip.machine(host)
        // The memory that each completion wrote.
        var wanted: [(exit: UInt64, watchpoint: Watchpoint, bytes: [UInt8])] = []
        var cursor = try machine.reader.events()
        while let event = try cursor.next() {
            guard case .completion(let range) = event, let exit = cursor.exitNumber else {
                continue
            }
            for case .memory(let place, let bytes) in cursor.changes(range) {
                guard let watchpoint = Watchpoint(place, count: bytes.count) else { continue }
                wanted.append((exit, watchpoint, bytes))
            }
        }
        #expect(host.probe.behaviour.unemulated.isEmpty || !wanted.isEmpty)
        for want in wanted.prefix(6) {
            _ = try machine.seek(to: Position(exitCount: want.exit + 1))
            let after = machine.position
            guard case .watchpoint(let hit) = try machine.seekLastWrite(want.watchpoint) else {
                Issue.record("\(want)")
                continue
            }
            // A write of what was there already is none.
            guard hit.exit == want.exit else {
                #expect(hit.new == want.bytes)
                continue
            }
            #expect(hit.new == want.bytes)
            #expect(machine.position.exitCount == want.exit)
            machine.insertWatchpoint(want.watchpoint)
            let forwards = try machine.resume()
            guard case .watchpoint(hit) = forwards else {
                Issue.record("\(want): \(forwards)")
                continue
            }
            #expect(machine.position == after)
            machine.removeWatchpoint(want.watchpoint)
        }
    }
}
