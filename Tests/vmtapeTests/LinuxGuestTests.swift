import Glibc
import TestSupport
import Testing
import Trace

/// A Linux kernel, where it has been built.
enum RealLinux {
    static let directory = "\(Files.repository)/.build/guests/linux"
    static let isThere = Files.exists("\(directory)/built-from")
    static let comment: Comment = "needs \(directory): tools/build-linux builds it"
}

/// The largest guest that the tests have: a Linux kernel from its entry to the reboot that its init
/// asks for, recorded, replayed and debugged backwards.
@Suite(
    .enabled(if: RealKVM.isThere, RealKVM.comment),
    .enabled(if: RealLinux.isThere, RealLinux.comment))
struct LinuxGuestTests {
    private static let commandLine =
        "console=ttyS0,115200 quiet nolapic noapic reboot=k lpj=2700 tsc_early_khz=1000000 "
        + "tsc=unstable panic=-1 random.trust_bootloader=1"

    /// Records a boot and checks what it printed.
    private func record(in directory: TemporaryDirectory) throws -> String {
        let (path, console) = (directory.file("linux.vmtape"), directory.file("console"))
        let record = try ChildProcess.run([
            "record", "-q", "-o", path, "--kind", "linux", "--clock", "virtual", "--serial",
            console, "--initrd", "\(RealLinux.directory)/initrd",
            "\(RealLinux.directory)/vmlinux", "--", Self.commandLine,
        ])
        #expect(record.ending == .status(0), "\(record.errors)")
        let printed = try #require(Files.text(console))
        // Its program in ring 3 computed, slept, and had a child.
        #expect(printed.contains("init: hash 6806724118461793155"), "\(printed)")
        #expect(printed.contains("init: the child ended with 7"), "\(printed)")
        return path
    }

    @Test func `a boot is replayed`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let replay = try ChildProcess.run(["replay", record(in: directory)])
        #expect(replay.ending == .status(0), "\(replay.errors)")
        #expect(replay.errors.contains("final registers and all of RAM"), "\(replay.errors)")
    }

    @Test(.enabled(if: RealGDB.isThere, RealGDB.comment))
    func `a boot is debugged in both directions`() throws {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        let mark = DebuggerSession.mark
        let session = try DebuggerSession(
            record(in: directory),
            [
                "break start_kernel", mark("start"), "continue", "bt", "monitor when",
                "break rest_init", mark("rest"), "continue", "bt", "monitor when",
                mark("registers"), "info registers", mark("way"), "reverse-stepi 20",
                "monitor when", "stepi 20", mark("again"), "info registers",
                mark("back"), "reverse-continue", "monitor when",
            ], at: "begin")
        #expect(session.part("start").contains("start_kernel () at "), "\(session.output)")
        #expect(session.part("start").contains("x86_64_start_kernel ("))
        #expect(session.part("rest").contains("rest_init () at "), "\(session.output)")
        #expect(session.part("rest").contains(" in start_kernel () at "))
        #expect(session.part("registers").contains("cr3"))
        #expect(session.part("again") == session.part("registers"))
        #expect(session.position("way") != session.position("rest"))
        #expect(session.position("start") != nil)
        #expect(session.position("back") == session.position("start"), "\(session.output)")
    }
}
