import Machine
import Testing
import Threads

@testable import KVM

@Suite(.needsKVM) struct KickTests {
    /// out 0x10, al; jmp self
    static let spinner: [UInt8] = [0xE6, 0x10, 0xEB, 0xFE]

    @Test("A kick made before the run is not lost, holds until acknowledged, and is one")
    func before() throws {
        let guest = try RealModeGuest(Self.spinner)
        var cpu = try guest.cpu().begin()
        cpu.kicker.kick()
        cpu.kicker.kick()
        for _ in 0..<3 {
            guard case .interrupted = try cpu.run() else { throw Unexpected(what: "an exit") }
            #expect(cpu.registers.rip == UInt64(RealModeGuest.code))
        }
        #expect(cpu.kicker.isRequested)
        let kicked1 = cpu.acknowledgeKick()
        #expect(kicked1)
        let kicked2 = cpu.acknowledgeKick()
        #expect(!kicked2)
        #expect(try cpu.io().port == 0x10)
    }

    @Test("A guest that spins is kicked from another thread")
    func fromOutside() throws {
        let guest = try RealModeGuest(Self.spinner)
        var cpu = try guest.cpu().begin()
        _ = try cpu.io()
        let kicker = cpu.kicker
        // A task would not do: the guest holds a thread of the pool that tasks share.
        let other = try WorkerThread("to kick") { kicker.kick() }
        guard case .interrupted = try cpu.run() else { throw Unexpected(what: "an exit") }
        let kicked3 = cpu.acknowledgeKick()
        #expect(kicked3)
        #expect(cpu.registers.rip == UInt64(RealModeGuest.code + 2))
        other.join()
        #expect(!kicker.isRequested)
    }

    @Test("A kicker outlives its CPU without harm")
    func outlives() throws {
        let kicker: Kicker
        do {
            let guest = try RealModeGuest(Self.spinner)
            kicker = try guest.cpu().begin().kicker
        }
        kicker.kick()
        #expect(kicker.isRequested)
    }

    @Test("A timer kicks in mid-flight, at any delay; a disarmed one does not")
    func timer() throws {
        let guest = try RealModeGuest(Self.spinner)
        var cpu = try guest.cpu().begin()
        _ = try cpu.io()
        let timer = try cpu.makeKickTimer()
        for delay in [1, 1_000, 20_000, 100_000, 1_000_000] as [UInt64] {
            try timer.arm(nanoseconds: delay)
            guard case .interrupted = try cpu.run() else { throw Unexpected(what: "an exit") }
            let kicked4 = cpu.acknowledgeKick()
            #expect(kicked4)
        }
        try timer.arm(nanoseconds: 3_600_000_000_000)
        try timer.disarm()
        let kicked5 = cpu.acknowledgeKick()
        #expect(!kicked5)
    }

    @Test("Settling does not swallow a kick")
    func settleKeepsKick() throws {
        // in al, 0x10; out 0x20, al
        let guest = try RealModeGuest([0xE4, 0x10, 0xE6, 0x20])
        var cpu = try guest.cpu().begin()
        _ = try cpu.io()
        cpu.ioValue = 0x42
        cpu.kicker.kick()
        let idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
        #expect(try idle.registers()[.rax] == 0x42)
        cpu = idle.begin()
        guard case .interrupted = try cpu.run() else { throw Unexpected(what: "an exit") }
        let kicked6 = cpu.acknowledgeKick()
        #expect(kicked6)
        _ = try cpu.io()
        #expect(cpu.ioValue == 0x42)
    }
}
