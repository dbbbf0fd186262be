import Devices
import Execution
import TestSupport
import Testing
import Trace

/// Guests with interrupts and time, recorded and replayed on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct PCGuestTests {
    private static let virtual = ClockKind.virtual(nanosecondsPerExit: 10_000)
    /// So slow a CPU that the timer has always something to ask for: an interrupt at nearly every
    /// exit, rewritten instructions among them.
    private static let crowded = ClockKind.virtual(nanosecondsPerExit: 3_000_000)

    private static let timer = PCGuest.sample("timer", "30 10")
    private static let entropy = PCGuest.sample("entropy")
    private static let apic = PCGuest.sample("apic-timer", machine: .pcAPIC)
    private static let echo = PCGuest.sample(
        "irq-echo", input: "hello\nlonger than the queue of thirty-two bytes\n\nquit\nrest")

    @Test(arguments: [timer, entropy, echo, apic], [ClockKind.host, virtual, crowded])
    func `a recording replays identically`(guest: PCGuest, clock: ClockKind) throws {
        let host = try Host()
        let tape = try guest.record(host, clock)
        #expect(tape.outcome.report.ending == Ending(.halted))
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }

    @Test(arguments: [timer, entropy, echo, apic], [virtual, crowded])
    func `two recordings under a virtual clock are the same file`(
        guest: PCGuest, clock: ClockKind
    ) throws {
        let host = try Host()
        let first = try guest.record(host, clock)
        let second = try guest.record(host, clock)
        #expect(try first.bytes() == second.bytes())
        #expect(first.console() == second.console())
    }

    @Test func `interrupts in mid-flight are found again`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted", "100").record(host, .host)
        #expect(tape.outcome.report.ending == Ending(.halted))
        // It has no exits but those of its handler and of its beginning and end.
        #expect(tape.outcome.report.midFlight.landmarks >= 90)
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }

    /// Registers, memory, a REP, vector registers: each alone.
    @Test(arguments: 1...4)
    func `what alone changes is told apart`(mode: Int) throws {
        let host = try Host()
        for guest in [
            PCGuest.sample("preempted", "30 \(mode)"),
            PCGuest.sample("preempted-ring3", "20 \(mode * 4)"),
        ] {
            let tape = try guest.record(host, .host)
            #expect(tape.outcome.report.ending == Ending(.halted))
            #expect(tape.outcome.report.midFlight.landmarks >= 15)
            let verdict = try tape.replay(host)
            #expect(verdict == .identical)
        }
    }

    /// What a host does that counts no instructions.
    @Test(arguments: [true, false])
    func `interrupts in mid-flight are found without a counter`(recordsCount: Bool) throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted", "25").record(host, .host) {
            $0.usesCounter = recordsCount
        }
        #expect(tape.outcome.report.midFlight.landmarks >= 20)
        let verdict = try tape.replay(host, usesCounter: false)
        #expect(verdict == .identical)
    }

    /// By itself; with faults between the interrupts; with exits; with both.
    @Test(arguments: 0..<4)
    func `interrupts in mid-flight in ring 3 are found again`(mode: Int) throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "60 \(mode)").record(host, .host)
        #expect(tape.outcome.report.ending == Ending(.halted))
        let counts = tape.outcome.report.midFlight
        if mode < 2 {
            #expect(counts.landmarks >= 50)
            // A few find the guest in a handler, where it computes for long.
            #expect(counts.landmarksInRing3 >= 30)
        }
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }

    /// No place in the program's loop comes seldom enough for a replay to stop there.
    @Test(arguments: [20, 24])
    func `an interrupt in an endless loop of ring 3 is replayed from where the trace has it`(
        mode: Int
    ) throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "12 \(mode)").record(host, .host)
        #expect(tape.outcome.report.ending == Ending(.halted))
        let counts = tape.outcome.report.midFlight
        #expect(counts.storedPlaces >= 10)
        // The place behind a REP, to which the guest is taken out of it, is none either.
        #expect(counts.landmarksInRing3 == counts.storedPlaces)
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }

    /// What a host does that neither stops nor counts ring 3.
    @Test(arguments: [(1, true), (1, false), (3, true), (3, false)])
    func `where no place in ring 3 is found, each is stored`(
        mode: Int, replaysWithCounter: Bool
    ) throws {
        let host = try Host()
        let tape = try PCGuest.sample("preempted-ring3", "20 \(mode)").record(host, .host) {
            $0.usesCounter = false
        }
        #expect(tape.outcome.report.ending == Ending(.halted))
        // Where it exits each round, a busy host may bring every interrupt to an exit.
        if mode == 1 { #expect(tape.outcome.report.midFlight.storedPlaces >= 1) }
        let verdict = try tape.replay(host, usesCounter: replaysWithCounter)
        #expect(verdict == .identical)
    }

    // MARK: Guests that do no good

    /// Opens the serial port's interrupt, level triggered for good measure, which nobody serves: the
    /// handler of IRQ 4 ends it, and it comes again. Else the code loops without an exit.
    private static let storm: [UInt8] = [
        0xFA,  // cli
        0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0,  // xor ax, ax; mov ds, ax; mov ss, ax
        0xBC, 0x00, 0x80,  // mov sp, 0x8000
        0xE8, 0x00, 0x00, 0x5B,  // call next; next: pop bx
        0x83, 0xC3, 0x37,  // add bx, handler - next
        0x89, 0x1E, 0x30, 0x00,  // mov [12 * 4], bx
        0x8C, 0xC8, 0xA3, 0x32, 0x00,  // mov ax, cs; mov [12 * 4 + 2], ax
        0xB0, 0x11, 0xE6, 0x20, 0xB0, 0x08, 0xE6, 0x21,  // ICW1; ICW2: vector 8
        0xB0, 0x04, 0xE6, 0x21, 0xB0, 0x01, 0xE6, 0x21,  // ICW3; ICW4
        0xB0, 0xEF, 0xE6, 0x21,  // only IRQ 4
        0xB0, 0x10, 0xBA, 0xD0, 0x04, 0xEE,  // ELCR
        0xBA, 0xFC, 0x03, 0xB0, 0x0B, 0xEE,  // OUT2
        0xBA, 0xF9, 0x03, 0xB0, 0x02, 0xEE,  // an interrupt when it can send
        0xFB,  // sti
        0x41, 0xEB, 0xFD,  // loop: inc cx; jmp loop
        0x50, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF,  // handler: end of interrupt; iret
    ]
    /// Where the STI is.
    private static let enabling = 0x40

    @Test func `a storm of interrupts ends at the run's limit, and replays`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("storm.bin")
        try Files.write(path, Self.storm)
        let tape = try PCGuest(path: path).record(try Host(), .host) { $0.exitLimit = 200 }
        #expect(tape.outcome.report.ending.reason == .exitLimit)
        #expect(try tape.vectors().count > 100)
        let verdict = try tape.replay(try Host())
        #expect(verdict == .identical)
    }

    @Test(arguments: [ClockKind.host, virtual])
    func `a guest that lets no interrupt in ends at the run's limit, and replays`(
        clock: ClockKind
    ) throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("deaf.bin")
        var code = Self.storm
        #expect(code[Self.enabling] == 0xFB)
        code[Self.enabling] = 0xFA
        try Files.write(path, code)
        let tape = try PCGuest(path: path).record(try Host(), clock) {
            $0.supervision.timeoutMilliseconds = 1000
        }
        #expect(tape.outcome.report.ending.reason == .timeLimit)
        #expect(try tape.vectors().isEmpty)
        let verdict = try tape.replay(try Host())
        #expect(verdict == .other("identicalToLastExit"))
    }

    // MARK: What the guests say

    @Test(arguments: [ClockKind.host, virtual])
    func `the timer ticks as often as it is told`(clock: ClockKind) throws {
        let tape = try Self.timer.record(try Host(), clock)
        let lines = tape.console().split(separator: "\n")
        #expect(lines.count == 3)
        #expect(lines.first?.hasPrefix("tick 10 at time stamp ") == true)
        #expect(lines.dropFirst().first?.hasPrefix("tick 20 at time stamp ") == true)
        #expect(lines.last == "done")
        let vectors = try tape.vectors()
        #expect(vectors == [UInt8](repeating: 0x20, count: 30))
    }

    /// The sample checks APICs and tables itself, and says what it found.
    @Test(arguments: [ClockKind.host, virtual, crowded])
    func `the APICs do what the sample asks of them`(clock: ClockKind) throws {
        let tape = try Self.apic.record(try Host(), clock)
        let console = tape.console()
        #expect(console.hasSuffix("apic-timer: all as expected\n"))
        #expect(!console.contains("should be"))
        #expect(console.contains("deadline: passed"))
        let vectors = try tape.vectors()
        for (vector, count) in [(0x41, 2), (0x52, 17), (0x63, 6), (0x64, 31), (0xFE, 1), (0x20, 3)]
        {
            #expect(vectors.count { $0 == vector } >= count)
        }
    }

    @Test func `without APICs the sample finds no table`() throws {
        let tape = try PCGuest.sample("apic-timer").record(try Host(), Self.virtual)
        #expect(tape.console().contains("no MADT"))
        #expect(tape.outcome.report.ending == Ending(.debugExit, guestStatus: 3))
    }

    @Test func `typed lines come back in capitals`() throws {
        let tape = try Self.echo.record(try Host(), Self.virtual)
        #expect(
            tape.console() == """
                irq-echo: type a line; quit ends\r
                hello\r
                HELLO\r
                longer than the queue of thirty-two bytes\r
                LONGER THAN THE QUEUE OF THIRTY-TWO BYTES\r
                \r
                \r
                quit\r

                """)
        let vectors = try tape.vectors()
        #expect(!vectors.isEmpty)
        #expect(vectors.allSatisfy { $0 == 0x24 })
    }

    @Test func `input that ends before quit ends the run in its HLT`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("irq-echo", input: "no end").record(host, Self.virtual)
        #expect(tape.outcome.report.ending == Ending(.halted))
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }

    @Test func `time differs from recording to recording, and the trace keeps it`() throws {
        let host = try Host()
        let first = try Self.entropy.record(host, .host)
        let second = try Self.entropy.record(host, .host)
        let (a, b) = (first.console(), second.console())
        #expect(a.contains("time-stamp counter: rises, "))
        #expect(a.contains("date: "))
        #expect(a != b)
        #expect(try first.replay(host) == .identical)
        #expect(try second.replay(host) == .identical)
        // Three in each of sixteen rounds, one before and one after; and CPUID's, if they are.
        #expect(try first.rewrittenCount() >= 50)
    }

    // MARK: Ends

    @Test func `a limit of exits amid interrupts replays`() throws {
        let host = try Host()
        let tape = try Self.timer.record(host, Self.crowded) { $0.exitLimit = 151 }
        #expect(tape.outcome.report.ending == Ending(.exitLimit))
        #expect(tape.outcome.report.exitCount == 151)
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }

    @Test(arguments: [0, 1, 60, 150] as [UInt64])
    func `a replay stops where it is asked to, amid interrupts`(until: UInt64) throws {
        let host = try Host()
        let tape = try Self.timer.record(host, Self.crowded)
        #expect(try tape.replay(host, until: until) == .identicalSoFar(until + 1))
    }

    @Test func `a guest that mostly sleeps is ended by its time limit at an exit`() throws {
        let host = try Host()
        let tape = try PCGuest.sample("timer", "4000000000 0").record(host, .host) {
            $0.supervision.timeoutMilliseconds = 300
            // However long a busy machine takes to the next exit, nobody kicks.
            $0.supervision.graceMilliseconds = 60_000
        }
        #expect(tape.outcome.report.ending == Ending(.timeLimit))
        let verdict = try tape.replay(host)
        #expect(verdict == .identical)
    }
}
