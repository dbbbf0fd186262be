import Glibc
import TestSupport
import Testing

/// A server that thousands of debuggers came to and left is as large as before.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct DebuggerGrowthTests {
    /// What a debugger may send and leave, in mid-packet too.
    private static let openings: [[String]] = [
        ["+", packet("qSupported:swbreak+;hwbreak+"), packet("?"), packet("g"), packet("m0,40")],
        [packet("qSupported"), "$m0,4", "#00"], ["$", "}}}}#zz"], ["\u{3}\u{3}+-+-"],
        [packet("vCont?"), packet("Z0,1000,1"), packet("Z2,2000,8"), packet("s")],
        [packet("QStartNoAckMode"), packet("qXfer:features:read:target.xml:0,fff"), "-"],
        [packet("qRcmd,7768656e"), packet("qRcmd,68656c70"), packet("bs"), packet("p0")],
        [String(repeating: "$x", count: 3000)], [],
    ]

    private static func packet(_ text: String) -> String {
        let sum = text.utf8.reduce(UInt8(0)) { $0 &+ $1 }
        return "$\(text)#" + (sum < 16 ? "0" : "") + String(sum, radix: 16)
    }

    private static func connect(_ path: String) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        // SAFETY: a path of a temporary directory is shorter than sun_path; the address lives
        // through the call.
        let status = unsafe withUnsafeMutableBytes(of: &name) { bytes in
            for (index, byte) in path.utf8.prefix(107).enumerated() {
                unsafe bytes[2 + index] = byte
            }
            guard let start = bytes.baseAddress else { return -1 as Int32 }
            return unsafe Glibc.connect(
                descriptor, start.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
        }
        #expect(status == 0)
        return descriptor
    }

    private static func send(_ text: String, _ descriptor: Int32) {
        let bytes = Array(text.utf8)
        // SAFETY: the array's bytes, alive through the call. The server may have gone.
        _ = unsafe Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    /// Waits until a server has answered, so that everything before is done.
    private static func ask(_ path: String) throws {
        while true {
            let descriptor = connect(path)
            let answers = DescriptorReader(owning: descriptor)
            send(packet("qAttached"), descriptor)
            try answers.read(untilText: "#")
            shutdown(descriptor, Int32(SHUT_RDWR))
            // Sent away while the one before was not gone yet, of which nothing is told if it was silent.
            if !answers.text.contains("E.another debugger") { return }
        }
    }

    /// Open descriptors, and memory in KiB that nobody shares.
    private static func size(_ pid: pid_t) throws -> (descriptors: Int, memory: Int) {
        let status = String(decoding: Files.read("/proc/\(pid)/status") ?? [], as: UTF8.self)
        let line = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
        let memory = line?.split(whereSeparator: { !$0.isNumber }).first.flatMap { Int($0) }
        return (Files.names(in: "/proc/\(pid)/fd").count, try #require(memory))
    }

    @Test func `connections that come and go leave nothing`() throws {
        let directory = try TemporaryDirectory()
        let trace = directory.file("add.vmtape")
        let record = try ChildProcess.run(["record", "-q", "-o", trace, Files.sample("add")])
        #expect(record.ending == .status(0), "\(record.errors)")
        let socket = directory.file("gdb")
        let server = try ChildProcess(["replay", trace, "--gdb", "unix:\(socket)"])
        try server.errors.read(untilText: "target remote \(socket)")
        func visit(_ count: Int) throws {
            for number in 0..<count {
                let descriptor = Self.connect(socket)
                for text in Self.openings[number % Self.openings.count] {
                    Self.send(text, descriptor)
                }
                close(descriptor)
                guard number % 100 == 99 else { continue }
                // It tells of each that left, into a pipe that holds so much.
                let told = server.errors.bytes.count
                try Self.ask(socket)
                try server.errors.read { $0.bytes.count > told }
            }
        }
        try visit(500)
        let before = try Self.size(server.pid)
        try visit(2500)
        let after = try Self.size(server.pid)
        // The last ones to leave may still be seen; one in nine of the 2,500 would be 277.
        #expect(after.descriptors - before.descriptors < 50)
        // Two KiB a connection would be five MiB.
        #expect(after.memory - before.memory < 4096, "\(before.memory) to \(after.memory) KiB")

        // One that stays: ten thousand packets and their answers.
        let descriptor = Self.connect(socket)
        let answers = DescriptorReader(owning: descriptor)
        func talk(_ count: Int) throws {
            for number in 0..<count / 4 {
                for text in [
                    "m0,40", "qRcmd,7768656e", "qXfer:features:read:target.xml:0,ff",
                    "qThreadExtraInfo,\(number)",
                ] {
                    let have = answers.bytes.count
                    Self.send("+" + Self.packet(text), descriptor)
                    try answers.read { $0.bytes.count > have + 1 }
                }
            }
        }
        try talk(2000)
        let young = try Self.size(server.pid)
        try talk(8000)
        let old = try Self.size(server.pid)
        #expect(old.descriptors - young.descriptors < 50)
        #expect(old.memory - young.memory < 4096, "\(young.memory) to \(old.memory) KiB")
        server.kill(SIGTERM)
        _ = server.wait()
    }
}
