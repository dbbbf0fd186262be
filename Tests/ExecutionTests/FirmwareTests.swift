import Execution
import Testing
import Trace

/// Firmware of Debian packages, recorded and replayed on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct FirmwareTests {
    private static let latest = PCGuest.debian("/usr/share/bochs/BIOS-bochs-latest")
    private static let legacy = PCGuest.debian("/usr/share/bochs/BIOS-bochs-legacy")
    private static let sea = PCGuest.debian("/usr/share/seabios/bios.bin")
    private static let virtual = ClockKind.virtual(nanosecondsPerExit: 10_000)

    /// Both clocks, and the file twice.
    private func check(
        _ guest: PCGuest, ends reason: EndReason, prints text: String,
        prepare: (inout LiveConfiguration) -> Void = { _ in }
    ) throws {
        let host = try Host()
        for clock in [ClockKind.host, Self.virtual] {
            let tape = try guest.record(host, clock, prepare)
            #expect(tape.outcome.report.ending.reason == reason)
            #expect(tape.console().contains(text))
            #expect(try tape.replay(host) == .identical)
            guard clock == Self.virtual else { continue }
            #expect(try tape.bytes() == guest.record(host, clock, prepare).bytes())
        }
    }

    @Test(.enabled(if: latest.isThere, "no \(latest.path): install bochsbios"))
    func `the Bochs BIOS finds nothing to boot`() throws {
        try check(Self.latest, ends: .halted, prints: "No bootable device.")
    }

    @Test(.enabled(if: legacy.isThere, "no \(legacy.path): install bochsbios"))
    func `the legacy Bochs BIOS finds nothing to boot`() throws {
        try check(Self.legacy, ends: .halted, prints: "No bootable device.")
    }

    @Test(.enabled(if: sea.isThere, "no \(sea.path): install seabios"))
    func `SeaBIOS comes to its boot attempts`() throws {
        try check(Self.sea, ends: .exitLimit, prints: "Booting from Floppy") { $0.exitLimit = 3500 }
    }
}
