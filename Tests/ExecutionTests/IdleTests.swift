import Devices
import Testing
import Trace

@testable import Execution

/// What a live world makes of a HLT.
@Suite struct IdleTests {
    private static let halted = Ending(.halted)
    private static let tenMilliseconds: UInt64 = 10_000_000

    private static func world(
        _ clock: ClockKind = .virtual(nanosecondsPerExit: 10_000),
        machine: MachineKind = .pc, input: String = "", stop: StopRequest = StopRequest()
    ) throws -> LiveWorld {
        LiveWorld(
            devices: try DeviceSet(
                .init(serial: .memory, machine: machine),
                input: ConsoleInput(bytes: Array(input.utf8))),
            clock: clock, stop: stop)
    }

    private static func write(
        _ world: inout LiveWorld, _ writes: (port: UInt16, value: UInt8)...
    ) throws {
        for write in writes {
            // SAFETY: the buffer is a local array.
            try unsafe [write.value].withUnsafeBytes {
                try unsafe world.portOut(write.port, size: 1, bytes: $0)
            }
        }
    }

    private static func read(_ world: inout LiveWorld, _ port: UInt16) throws -> UInt8 {
        var value: UInt8 = 0
        // SAFETY: the buffer is the local byte.
        try unsafe withUnsafeMutableBytes(of: &value) {
            try unsafe world.portIn(port, size: 1, into: $0)
        }
        return value
    }

    /// The first controller at vectors 0x20–0x27, with these lines masked.
    private static func startController(_ world: inout LiveWorld, mask: UInt8) throws {
        try write(&world, (0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, mask))
    }

    /// Channel 0 at 100 Hz.
    private static func startTimer(_ world: inout LiveWorld) throws {
        try write(&world, (0x43, 0x34), (0x40, 0x9C), (0x40, 0x2E))
    }

    /// The serial port's receive interrupt, through OUT2.
    private static func startSerial(_ world: inout LiveWorld) throws {
        try write(&world, (0x3FA, 0x07), (0x3FC, 0x0B), (0x3F9, 0x01))
    }

    @Test func `a bare machine has nothing that could wake it`() throws {
        var world = try Self.world(machine: .bare)
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .end(Self.halted))
    }

    @Test func `interrupts that are off are not waited for`() throws {
        var world = try Self.world()
        try Self.startController(&world, mask: 0xFE)
        try Self.startTimer(&world)
        #expect(try world.verdict(natural: Self.halted, canWake: false) == .end(Self.halted))
    }

    @Test func `a timer that is masked is not waited for`() throws {
        var world = try Self.world()
        try Self.startController(&world, mask: 0xFF)
        try Self.startTimer(&world)
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .end(Self.halted))
    }

    @Test func `a virtual clock jumps to the timer's interrupt`() throws {
        var world = try Self.world()
        try Self.startController(&world, mask: 0xFE)
        try Self.startTimer(&world)
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .go)
        #expect(try world.hasInterrupt())
        #expect(try world.acknowledgeInterrupt() == 0x20)
        // Eight writes, the HLT itself, one period, this reading.
        let now = try world.timeStamp()
        #expect((Self.tenMilliseconds...Self.tenMilliseconds + 200_000).contains(now))
    }

    @Test func `the host's clock waits the period out`() throws {
        var world = try Self.world(.host)
        try Self.startController(&world, mask: 0xFE)
        let start = try world.timeStamp()
        try Self.startTimer(&world)
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .go)
        #expect(try world.acknowledgeInterrupt() == 0x20)
        // 11,932 ticks of the counter, of which the first may have begun before.
        #expect(try world.timeStamp() - start >= 9_999_000)
    }

    @Test func `an interrupt that waits already is not waited for`() throws {
        var world = try Self.world(input: "x")
        try Self.startController(&world, mask: 0xEF)
        try Self.startSerial(&world)
        #expect(try world.hasInterrupt())
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .go)
        #expect(try world.acknowledgeInterrupt() == 0x24)
        #expect(try Self.read(&world, 0x3F8) == UInt8(ascii: "x"))
    }

    @Test func `input that nobody wants to be told of wakes nobody`() throws {
        var world = try Self.world(input: "never read, and longer than the FIFO of the port")
        try Self.startController(&world, mask: 0xEF)
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .end(Self.halted))
    }

    @Test func `input waits while the guest sets its serial port up`() throws {
        var world = try Self.world(input: "ab")
        try Self.startController(&world, mask: 0xEF)
        try Self.write(&world, (0x3FA, 0x07), (0x3FA, 0x87))
        try Self.startSerial(&world)
        #expect(try Self.read(&world, 0x3F8) == UInt8(ascii: "a"))
        #expect(try Self.read(&world, 0x3F8) == UInt8(ascii: "b"))
    }

    @Test(arguments: [ClockKind.host, .virtual(nanosecondsPerExit: 1)])
    func `a request to end is not slept through`(clock: ClockKind) throws {
        let stop = StopRequest()
        var world = try Self.world(clock, stop: stop)
        try Self.startController(&world, mask: 0xFE)
        try Self.startTimer(&world)
        stop.request(.user)
        // The loop ends the run at this very exit.
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .go)
        #expect(try !world.hasInterrupt())
    }

    @Test func `a device's own end goes before the HLT`() throws {
        var world = try Self.world()
        try Self.write(&world, (0xF4, 3))
        let verdict = try world.verdict(natural: nil, canWake: true)
        #expect(verdict == .end(Ending(.debugExit, guestStatus: 7)))
    }

    @Test func `a virtual clock does not run on for ever`() throws {
        var world = try Self.world()
        try Self.startController(&world, mask: 0xFE)
        try Self.startTimer(&world)
        #expect(try world.verdict(natural: Self.halted, canWake: true) == .go)
        #expect(try world.acknowledgeInterrupt() == 0x20)
        // No end of interrupt: the timer goes on, and the controller holds it back.
        let verdict = try world.verdict(natural: Self.halted, canWake: true)
        #expect(verdict == .end(Ending(.stalled)))
    }

    // MARK: Without an exit

    private static func stalling(_ policy: StallPolicy) throws -> LiveWorld {
        var world = LiveWorld(
            devices: try DeviceSet(.init(serial: .memory, machine: .pc), input: ConsoleInput()),
            clock: .virtual(nanosecondsPerExit: 10_000), stall: policy)
        try startController(&world, mask: 0xFE)
        try startTimer(&world)
        return world
    }

    private static func look(
        _ world: inout LiveWorld, exits: UInt64, progress: UInt64?, canWake: Bool = true
    ) throws -> Ending? {
        try world.silence(exitCount: exits, progress: progress, canWake: canWake)
    }

    @Test func `a guest that waits for the clock without an exit is stalled in the end`() throws {
        var world = try Self.stalling(.end)
        let watches = world.watchesSilence
        #expect(watches)
        let long = Silence.longestInstructions
        #expect(try Self.look(&world, exits: 5, progress: 1000) == nil)
        #expect(try Self.look(&world, exits: 5, progress: 1000 + long - 1) == nil)
        // An exit: it begins anew.
        #expect(try Self.look(&world, exits: 6, progress: 1000 + long) == nil)
        #expect(try Self.look(&world, exits: 6, progress: 999 + 2 * long) == nil)
        // With interrupts off it does not wait for one.
        #expect(try Self.look(&world, exits: 6, progress: 1001 + 2 * long, canWake: false) == nil)
        #expect(
            try Self.look(&world, exits: 6, progress: 1001 + 2 * long)
                == Ending(.stalled, isInMidFlight: true))
        #expect(try !world.hasOverdueInterrupt())
    }

    @Test func `time passes by kicks where that is asked for`() throws {
        var world = try Self.stalling(.kick)
        #expect(try Self.look(&world, exits: 5, progress: nil) == nil)
        #expect(try !world.hasOverdueInterrupt())
        #expect(try Self.look(&world, exits: 5, progress: nil) == nil)
        #expect(try world.hasOverdueInterrupt())
        #expect(try world.acknowledgeInterrupt() == 0x20)
    }

    // It would come wherever a kick found the guest, and two recordings would differ.
    @Test(arguments: StallPolicy.allCases)
    func `an interrupt that waits already comes by kicks alone where that is asked for`(
        policy: StallPolicy
    ) throws {
        var world = try Self.stalling(policy)
        // That the serial port can send.
        try Self.write(&world, (0x21, 0xEF), (0x3FC, 0x0B), (0x3F9, 0x02))
        #expect(try world.hasInterrupt())
        for _ in 0..<2 { #expect(try Self.look(&world, exits: 5, progress: nil) == nil) }
        #expect(try world.hasOverdueInterrupt() == (policy == .kick))
    }

    @Test func `without timers nobody waits for the clock`() throws {
        var world = try Self.world()
        for _ in 0..<3 {
            #expect(try Self.look(&world, exits: 1, progress: .max) == nil)
        }
        var host = try Self.world(.host)
        let watches = host.watchesSilence
        #expect(!watches)
        #expect(try !host.hasOverdueInterrupt())
    }
}
