import Glibc
import TestSupport
import Testing

/// Keyframe files and positions, from the command line.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct KeyframeFileTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("t.vmtape")
        let result = try ChildProcess.run(
            ["record", "-q", "--serial", "none", "-o", path, Files.sample("slow")]
                + ["--", "40", "20000"])
        #expect(result.ending == .status(0), "\(result.errors)")
    }

    private func at(_ position: String, _ options: [String] = []) throws -> ChildProcess.Result {
        try ChildProcess.run(["replay", path, "--at", position, "--regs"] + options)
    }

    @Test func `a second session begins with what the first has kept`() throws {
        let plain = try at("end")
        let first = try at("end", ["--keep-keyframes"])
        #expect(first.ending == .status(0), "\(first.errors)")
        #expect(first.output == plain.output)
        #expect(first.errors.contains("keyframes kept in \(path).keys"), "\(first.errors)")
        var status = stat()
        // SAFETY: the status is a local, the path a string.
        #expect(unsafe stat(path + ".keys", &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        let second = try at("50%", ["--keep-keyframes", "-q"])
        #expect(second.errors == "")
        #expect(try second.output == at("50%").output)
        #expect(Files.names(in: directory.path) == ["t.vmtape", "t.vmtape.keys"])
    }

    @Test func `what cannot be used is made anew, what is something else is left alone`() throws {
        let keys = directory.file("keys")
        let plain = try at("end")
        #expect(try at("end", ["--keyframe-file", keys]).output == plain.output)
        let whole = try #require(Files.read(keys))
        try Files.write(keys, Array(whole.dropLast(100)))
        let damaged = try at("end", ["--keyframe-file", keys])
        #expect(damaged.output == plain.output)
        #expect(damaged.errors.contains("made anew"), "\(damaged.errors)")
        #expect(damaged.errors.contains("keyframes kept in"), "\(damaged.errors)")
        #expect(try at("end", ["--keyframe-file", keys, "-q"]).errors == "")
        let other = directory.file("notes")
        try Files.write(other, Array("not yours".utf8))
        let refused = try at("end", ["--keyframe-file", other])
        #expect(refused.ending == .status(2))
        #expect(refused.errors.split(separator: "\n").count == 1)
        #expect(refused.errors.contains("is no keyframe file"), "\(refused.errors)")
        #expect(Files.read(other) == Array("not yours".utf8))
        let trace = try #require(Files.read(path))
        #expect(try at("end", ["--keyframe-file", path]).ending == .status(2))
        #expect(Files.read(path) == trace)
    }

    @Test func `positions are said as people say them`() throws {
        let words = try at("100%").output.split { $0 == " " || $0 == "," }
        let total = try #require(words.count > 1 ? Int(words[1]) : nil)
        #expect(try at("end").output.hasPrefix("position \(total)"))
        #expect(try at("0%").output == at("begin").output)
        let half = try at("50%").output
        #expect(try half == at("\((total + 1) / 2 - 1)").output, "\(half)")
        #expect(try at("99.999%").ending == .status(0))
    }

    @Test func `the tape is left where it ends, and in its middle`() throws {
        let serial = directory.file("serial")
        for position in ["end", "50%", "begin", "5+3"] {
            let live = try ChildProcess.run([
                "replay", path, "--live-from", position, "--serial", serial, "--record",
                directory.file("next.vmtape"), "--overwrite",
            ])
            #expect(live.ending == .status(0), "\(position): \(live.errors)")
            #expect(live.errors.contains("then ran"), "\(live.errors)")
            let replay = try ChildProcess.run(["replay", directory.file("next.vmtape")])
            #expect(replay.ending == .status(0), "\(position): \(replay.errors)")
        }
        let beyond = try ChildProcess.run(["replay", path, "--live-from", "5+99999999"])
        #expect(beyond.ending == .status(2))
        #expect(beyond.errors.contains("cannot stand at"), "\(beyond.errors)")
    }

    @Test func `the CPU that is asked for is the one that is used`() throws {
        for options in [
            ["--at", "end"], ["--live-from", "3"], ["--gdb", "stdio"], ["--devices"],
        ] {
            let refused = try ChildProcess.run(["replay", path, "--cpu", "99999"] + options)
            #expect(refused.ending == .status(2), "\(options)")
            #expect(refused.errors.contains("CPU 99999 cannot be used"), "\(refused.errors)")
        }
    }
}
