import Glibc
import TestSupport
import Testing

@testable import Trace

/// What bad input gets: one clear line on stderr and status 2.
@Suite(.serialized) struct BadInputTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func file(_ name: String, _ bytes: [UInt8]) throws -> String {
        let path = directory.file(name)
        try Files.write(path, bytes)
        return path
    }

    private func record(_ arguments: [String]) throws -> ChildProcess.Result {
        try ChildProcess.run(
            ["record", "-o", directory.file("out.vmtape")] + arguments)
    }

    /// Nothing may be left of a recording that could not begin.
    private func expectNothingRecorded(sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(
            Files.names(in: directory.path).filter { $0.hasPrefix("out") } == [],
            sourceLocation: sourceLocation)
    }

    // MARK: Images

    @Suite(.enabled(if: RealKVM.isThere, RealKVM.comment)) struct Images {
        private let tests: BadInputTests

        init() throws { tests = try BadInputTests() }

        private func expect(
            _ arguments: [String], _ parts: String...,
            sourceLocation: SourceLocation = #_sourceLocation
        ) throws {
            for command in ["run", "record"] {
                let result = try ChildProcess.run(
                    [command]
                        + (command == "record"
                            ? ["-o", tests.directory.file("out.vmtape")] : []) + arguments)
                result.expectOneLine(sourceLocation: sourceLocation)
                for part in parts {
                    #expect(
                        result.errors.contains(part), "\(result.errors)",
                        sourceLocation: sourceLocation)
                }
            }
            tests.expectNothingRecorded(sourceLocation: sourceLocation)
        }

        @Test func `that is not there`() throws {
            try expect([tests.directory.file("none")], "none", "No such file")
        }

        @Test func `that is a directory`() throws {
            try expect([tests.directory.path], "directory")
        }

        @Test func `that is empty`() throws {
            try expect([tests.file("empty", [])], "empty")
        }

        @Test func `that cannot be read`() throws {
            let path = try tests.file("secret", [0xF4])
            // SAFETY: Swift passes a NUL-terminated string for the call.
            _ = unsafe chmod(path, 0)
            guard geteuid() != 0 else { return }  // root reads everything
            try expect([path], "secret", "ermission")
        }

        @Test func `that is too big for RAM`() throws {
            try expect(
                ["--memory", "64K", tests.file("big", [UInt8](repeating: 0x90, count: 70_000))],
                "big", "RAM")
        }

        @Test func `that is an ELF of another machine, or not executable`() throws {
            var elf = try #require(Files.read(Files.sample("poll")))
            elf[18] = 183  // AArch64
            try expect([tests.file("arm", elf)], "arm", "machine")
            elf[18] = 62
            elf[4] = 9
            try expect([tests.file("class", elf)], "class")
        }

        @Test(arguments: [5, 17, 63, 64, 100, 4096])
        func `that is an ELF cut short`(_ length: Int) throws {
            let elf = try #require(Files.read(Files.sample("poll")))
            try expect([tests.file("cut", Array(elf.prefix(length)))], "cut")
        }

        @Test func `that is a gzip cut short`() throws {
            guard let tboot = Files.tboot else { return }
            let bytes = try #require(Files.read(tboot))
            for length in [3, 11, 5000] {
                try expect([tests.file("cut.gz", Array(bytes.prefix(length)))], "cut.gz")
            }
        }

        @Test func `that is a script or a bzImage`() throws {
            try expect([tests.file("script", Array("#!/bin/sh\n".utf8))], "script")
        }

        @Test func `options that do not suit it`() throws {
            try expect(["--load", "0x10000000000", Files.sample("add")])
            try expect(["--memory", "1000", Files.sample("add")], "RAM")
            try expect(["--memory", "63K", Files.sample("add")])
            try expect(["--module", Files.sample("add"), Files.sample("add")])
            try expect(
                ["--module", tests.directory.file("none"), Files.sample("add")], "none")
        }

        @Test func `input and output that cannot be opened`() throws {
            try expect(["--input", tests.directory.file("none"), Files.sample("echo")], "none")
            try expect(
                ["--serial", tests.directory.file("no/where"), Files.sample("echo")], "no/where")
        }
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func `a trace that cannot be written`() throws {
        let path = directory.file("no/where.vmtape")
        let result = try ChildProcess.run(["record", "-o", path, Files.sample("add")])
        result.expectOneLine("no/where.vmtape", "No such file")
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func `a trace that exists is kept, unless told otherwise`() throws {
        let path = try file("out.vmtape", [1, 2, 3])
        let result = try ChildProcess.run(["record", "-o", path, Files.sample("add")])
        result.expectOneLine("out.vmtape", "--force")
        #expect(Files.read(path) == [1, 2, 3])
        let forced = try ChildProcess.run(["record", "--force", "-o", path, Files.sample("add")])
        #expect(forced.ending == .status(0))
        #expect(try ChildProcess.run(["replay", path]).ending == .status(0))
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func `no room for even the side file is said before the guest runs`() throws {
        let image = try file("poll.bin", pollingGuest)
        let path = directory.file("out.vmtape")
        let result = try ChildProcess.run(
            [
                "-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" record -o \"$1\" \"$2\"",
                ChildProcess.vmtape, path, image,
            ], program: "/bin/sh")
        result.expectOneLine("out.vmtape")
        expectNothingRecorded()
    }

    /// A file system of the side file's length and 64 KiB.
    static let canMount = geteuid() == 0

    @Test(
        .enabled(if: RealKVM.isThere, RealKVM.comment),
        .enabled(if: canMount, "needs root, to mount a small file system"))
    func `a disk that becomes full keeps what was recorded`() throws {
        let disk = directory.file("disk")
        let mounted = try ChildProcess.run(
            ["-c", "mkdir \"$0\" && mount -t tmpfs -o size=9412k vmtape-test \"$0\"", disk],
            program: "/bin/sh")
        guard mounted.ending == .status(0) else { return }  // a container that forbids it
        defer {
            _ = try? ChildProcess.run(["-c", "umount \"$0\"", disk], program: "/bin/sh")
        }
        let image = try file("poll.bin", pollingGuest)
        let path = "\(disk)/out.vmtape"
        let result = try ChildProcess.run(
            ["record", "--timeout", "60", "--serial", "none", "-o", path, image])
        #expect(result.ending == .status(2))
        #expect(result.output == "")
        #expect(result.errorLines.count == 1, "\(result.errors)")
        #expect(result.errors.contains("No space left"), "\(result.errors)")
        #expect(result.errors.contains("out.vmtape.partial"), "\(result.errors)")
        let verify = try ChildProcess.run(["verify", "--json", path])
        #expect(verify.ending == .status(0), "\(verify.output)")
        #expect(verify.output.contains("\"sound\":true"))
        let reader = try TraceReader(path: path + ".partial")
        #expect(reader.exitCount > 10_000)
        let replay = try ChildProcess.run(["replay", path])
        #expect(replay.ending == .status(0), "\(replay.errors)")
        #expect(replay.errors.contains("incomplete"), "\(replay.errors)")
    }

    // MARK: Traces

    /// Every command that reads a trace.
    static let readers: [[String]] =
        [["replay"], ["info"], ["info", "--json"], ["dump"], ["console"], ["verify"]]
        .filter { RealKVM.isThere || $0 != ["replay"] }

    @Test(arguments: readers)
    func `a trace that is not there`(_ command: [String]) throws {
        try ChildProcess.run(command + [directory.file("none")])
            .expectOneLine("none", "No such file")
    }

    @Test(arguments: readers)
    func `a file that is no trace`(_ command: [String]) throws {
        for (name, bytes) in [
            ("empty", []), ("short", [0x89]), ("text", Array("not a trace at all\n".utf8)),
            ("zeros", [UInt8](repeating: 0, count: 10_000)),
        ] as [(String, [UInt8])] {
            try ChildProcess.run(command + [file(name, bytes)]).expectOneLine(name)
        }
        try ChildProcess.run(command + [directory.path]).expectOneLine()
    }

    /// The committed trace of the format's golden bytes.
    private static let golden = "\(Files.repository)/traces/golden/format-1.vmtape"

    @Test(arguments: readers)
    func `a trace of a newer version is refused by that name`(_ command: [String]) throws {
        let bytes = try #require(Files.read(Self.golden))
        var prelude = Prelude(identity: 1)
        prelude.writeVersion = 99
        prelude.readVersion = 99
        var buffer = ByteBuffer(capacity: Prelude.bytes)
        prelude.append(to: &buffer)
        try ChildProcess.run(
            command + [file("newer.vmtape", buffer.array() + bytes.dropFirst(Prelude.bytes))]
        ).expectOneLine("newer.vmtape", "format 99", "newer vmtape")
    }

    @Test func `a damaged trace has status 1, and what is left is readable`() throws {
        var bytes = try #require(Files.read(Self.golden))
        bytes[bytes.count / 2] ^= 0x40
        let path = try file("damaged.vmtape", bytes)
        let result = try ChildProcess.run(["verify", path])
        #expect(result.ending == .status(1))
        #expect(result.output.contains("damaged"))
        #expect(result.errors == "")
        let sound = try ChildProcess.run(["verify", Self.golden])
        #expect(sound.ending == .status(0))
        #expect(sound.output.contains("sound"))
    }

    @Test(arguments: [["find"], ["dump", "--filter"]])
    func `a bad filter is told of in a line`(_ command: [String]) throws {
        var arguments = command + ["port == 1 and prot == 2"]
        arguments.insert(Self.golden, at: 1)
        try ChildProcess.run(arguments).expectOneLine("column 15", "'prot == 2'", "'port'?")
    }

    @Test(arguments: [1, 40, 64, 100, 1000])
    func `a truncated trace is read as far as it goes, or refused in a line`(
        _ missing: Int
    ) throws {
        let bytes = try #require(Files.read(Self.golden))
        guard bytes.count > missing else { return }
        let path = try file("cut.vmtape", Array(bytes.dropLast(missing)))
        for command in Self.readers {
            let result = try ChildProcess.run(command + [path])
            switch result.ending {
            case .status(0), .status(1): break
            case .status(2):
                // What is damaged comes as notes before it.
                let lines = result.errorLines.filter { !$0.hasPrefix("vmtape: note:") }
                #expect(lines.count == 1, "\(result.errors)")
                #expect(lines.first?.contains("cut.vmtape") == true, "\(result.errors)")
            default: Issue.record("\(command) ended with \(result.ending): \(result.errors)")
            }
        }
    }

    @Test func `no KVM is said in a line`() throws {
        guard !RealKVM.isThere else { return }  // it cannot be taken away here
        try ChildProcess.run(["run", Files.sample("add")]).expectOneLine("/dev/kvm")
        try ChildProcess.run(["doctor"]).expectOneLine("/dev/kvm")
    }

    @Test(arguments: [
        ["info"], ["dump"], ["stat"], ["verify", "--json"], ["console"], ["export", "-f", "csv"],
    ])
    func `a full disk behind standard output has status 2`(_ command: [String]) throws {
        try expectFullOutput(command + ["\(Files.repository)/traces/swift-kernel.vmtape"])
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func `so has that of a replay and of doctor`() throws {
        try expectFullOutput(["replay", "--json", "\(Files.repository)/traces/swift-kernel.vmtape"])
        try expectFullOutput(["doctor"])
    }

    private func expectFullOutput(
        _ arguments: [String], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try run(arguments, redirected: ">/dev/full").expectOneLine(
            "standard output: cannot be written: No space left", sourceLocation: sourceLocation)
    }

    private func run(
        _ arguments: [String], redirected redirection: String
    ) throws -> ChildProcess.Result {
        try ChildProcess.run(
            ["-c", "exec \"$@\" " + redirection, "sh", ChildProcess.vmtape] + arguments,
            program: "/bin/sh")
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func `a trace without its image is told of before a debugger is started`() throws {
        let trace = directory.file("cut.vmtape")
        let whole = try #require(Files.read("\(Files.repository)/traces/swift-kernel.vmtape"))
        try Files.write(trace, Array(whole.prefix(1000)))
        let result = try ChildProcess.run(["gdb", trace, "--debugger", "/no/such/debugger"])
        #expect(result.ending == .status(2))
        #expect(result.errorLines.last?.contains("holds no guest image") == true)
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func `closed standard streams are no place for a trace`() throws {
        let trace = directory.file("a.vmtape")
        let recorded = try run(
            ["record", "-o", trace, Files.sample("swift-kernel")],
            redirected: "<&- >&- 2>&-")
        #expect(recorded.ending == .status(0))
        let verdict = try ChildProcess.run(["verify", trace])
        #expect(verdict.ending == .status(0))
        #expect(verdict.output.contains("sound"))
        try run(["info", trace], redirected: ">&-")
            .expectOneLine("standard output: cannot be written: Bad file")
    }
}
