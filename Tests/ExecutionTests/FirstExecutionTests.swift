import Execution
import Machine
import TestSupport
import Testing
import Trace

/// Instructions that are rewritten when they are first executed, on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct FirstExecutionTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("guest.vmtape")
    }

    /// What a trace tells of rewriting.
    private struct Told: Equatable {
        /// Where instructions were rewritten, in order.
        var places: [UInt64] = []
        /// Exits of rewritten instructions.
        var trapped = 0
        /// What the guest wrote to port 0x80.
        var written: [[UInt8]] = []
    }

    private func told() throws -> Told {
        var told = Told()
        var cursor = try TraceReader(path: path).events()
        while let event = try cursor.next() {
            guard case .exit(let exit) = event else { continue }
            switch exit.detail {
            case .debug(_, let pc, _, _):
                #expect(exit.flags.contains(.rewrittenInstruction))
                told.places.append(pc)
            case .io where exit.flags.contains(.rewrittenInstruction): told.trapped += 1
            case .io(true, _, 0x80, _, let data): told.written.append(cursor.array(data))
            default: break
            }
        }
        return told
    }

    private func recordAndReplay(
        _ code: [UInt8], clock: ClockKind = .host
    ) throws -> Told {
        let host = try Host()
        let guest = try TestGuest.flat(code, in: directory)
        let outcome = try guest.record(host, to: path) { configuration, _ in
            configuration.clock = clock
            configuration.supervision.timeoutMilliseconds = 60_000
        }
        #expect(outcome.report.ending == Ending(.halted))
        #expect(try TestGuest.replay(host, path).word == "identical")
        return try told()
    }

    /// mov cx, 3; (3) rdtsc; mov [0x3000], eax; out 0x80, eax; loop to 3; hlt
    ///
    /// (Of AL alone two are the same now and then.)
    private static let loop: [UInt8] = [
        0xB9, 3, 0, 0x0F, 0x31, 0x66, 0xA3, 0, 0x30, 0x66, 0xE7, 0x80, 0xE2, 0xF5, 0xF4,
    ]

    @Test func `a loop is caught at its first round, and replays under the host's clock`() throws {
        let told = try recordAndReplay(Self.loop)
        #expect(told.places == [0x1003])
        #expect(told.trapped == 3)
        #expect(Set(told.written).count == 3)
    }

    @Test func `recordings under a virtual clock are equal files`() throws {
        let host = try Host()
        let guest = try TestGuest.flat(Self.loop, in: directory)
        let other = directory.file("other.vmtape")
        for path in [path, other] {
            _ = try guest.record(host, to: path) { configuration, _ in
                configuration.clock = .virtual(nanosecondsPerExit: 1000)
            }
        }
        let bytes = try #require(Files.read(path))
        #expect(bytes == Files.read(other))
    }

    @Test func `data of the same bytes is never rewritten, executed code next to it is`() throws {
        // mov ax, [0x1011]; out 0x80, ax; rdtsc; mov ax, [0x1011]; out 0x80, ax; hlt; nop;
        // (0x100e) three bytes; (0x1011) 0F 31
        let code: [UInt8] =
            [0xA1, 0x11, 0x10, 0xE7, 0x80, 0x0F, 0x31, 0xA1, 0x11, 0x10, 0xE7, 0x80, 0xF4, 0x90]
            + [1, 2, 3, 0x0F, 0x31]
        let told = try recordAndReplay(code)
        #expect(told.places == [0x1005])
        #expect(told.written == [[0x0F, 0x31], [0x0F, 0x31]])
    }

    @Test func `code that the guest makes is found once it exits`() throws {
        // At 0x5000: out 0x80, al; rdtsc; hlt. Written there by:
        // mov dword [0x5000], 0x310F80E6; mov byte [0x5004], 0xF4; mov ax, 0x5000; jmp ax
        let code: [UInt8] =
            [0x66, 0xC7, 0x06, 0, 0x50, 0xE6, 0x80, 0x0F, 0x31]
            + [0xC6, 0x06, 0x04, 0x50, 0xF4, 0xB8, 0, 0x50, 0xFF, 0xE0]
        let told = try recordAndReplay(code)
        #expect(told.places == [0x5002])
        #expect(told.trapped == 1)
    }

    @Test func `more candidates than breakpoints are caught one after the other`() throws {
        // Twelve times: in al, 0x61; mov bl, al; rdtsc; mov al, bl; out 0x80, al. Breakpoints are
        // set anew while the IN is unfinished, and it keeps its answer.
        let round: [UInt8] = [0xE4, 0x61, 0x88, 0xC3, 0x0F, 0x31, 0x88, 0xD8, 0xE6, 0x80]
        let code = Array(repeating: round, count: 12).flatMap { $0 }
        let told = try recordAndReplay(code + [0xF4])
        #expect(told.places == (0..<12).map { 0x1004 + $0 * 10 })
        #expect(told.trapped == 12)
        #expect(told.written == Array(repeating: [0xFF], count: 12))
    }

    @Test func `an instruction left alone is not rewritten`() throws {
        let host = try Host()
        let guest = try TestGuest.flat(Self.loop, in: directory)
        _ = try guest.record(host, to: path) { configuration, _ in
            configuration.rewritesTimeStamp = false
        }
        #expect(try told().places.isEmpty)
        #expect(try told().trapped == 0)
    }

    @Test func `standing anywhere in such a run, forward and back`() throws {
        // Six times: in al, 0x61; mov bl, al; rdtsc; mov al, bl; out 0x80, al.
        let round: [UInt8] = [0xE4, 0x61, 0x88, 0xC3, 0x0F, 0x31, 0x88, 0xD8, 0xE6, 0x80]
        let rounds: [UInt8] = Array(repeating: round, count: 6).flatMap { $0 }
        let code = rounds + [0xF4]
        let told = try recordAndReplay(code)
        #expect(told.places.count == 6)
        let host = try Host()
        var machine = try TimeMachine(host: host, reader: TraceReader(path: path))
        #expect(try machine.seekEnd().word == "end")
        let end = try Sight(&machine)
        #expect(end.memory == (try machine.reader.end()?.event.memory))
        // Readers see what the guest was.
        #expect(machine.memory(at: GuestPhysicalAddress(0x1000), count: code.count) == code)
        #expect(try machine.seek(to: .begin).word == "arrived")
        var sights = [try Sight(&machine)]
        while try machine.step().word == "arrived" { sights.append(try Sight(&machine)) }
        #expect(sights.count > 24)
        for exit in [3, 9, 17, 5] as [UInt64] {
            #expect(try machine.seek(to: Position(exitCount: exit)).word == "arrived")
            let sight = try Sight(&machine)
            #expect(sights.contains(sight), "\(sight.position)")
            #expect(try machine.reverseStep(3).word == "arrived")
            #expect(sights.contains(try Sight(&machine)), "3 before \(sight.position)")
        }
    }
}
