import Execution
import Testing
import Trace

/// Firmware of Debian packages, recorded and replayed on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct FirmwareTests {
    private static let latest = PCGuest.debian("/usr/share/bochs/BIOS-bochs-latest")
    private static let legacy = PCGuest.debian("/usr/share/bochs/BIOS-bochs-legacy")
    private static let sea = PCGuest.debian("/usr/share/seabios/bios.bin")
    /// Its FIFO is emptied while it starts, so that the first keys are lost; any stops its countdown.
    private static let uBoot = PCGuest.debian(
        "/usr/lib/u-boot/qemu-x86/u-boot.rom",
        input: String(repeating: "\r", count: 48) + "version\recho done typing\r")
    /// U-Boot waits by the counter: few exits a millisecond make its waits short.
    private static let fastVirtual = ClockKind.virtual(nanosecondsPerExit: 200_000)
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

    @Test(
        .enabled(if: uBoot.isThere, "no \(uBoot.path): install u-boot-qemu"),
        arguments: [ClockKind.host, fastVirtual])
    func `U-Boot comes to its prompt and does what is typed`(_ clock: ClockKind) throws {
        let host = try Host()
        let tape = try Self.uBoot.record(host, clock) { $0.exitLimit = 6_000 }
        #expect(tape.console().contains("=> echo done typing\r\ndone typing"))
        #expect(try tape.rewrittenCount() > 10)
        #expect(try tape.replay(host) == .identical)
        guard clock != .host else { return }
        let again = try Self.uBoot.record(host, clock) { $0.exitLimit = 6_000 }
        #expect(try tape.bytes() == again.bytes())
    }
}
