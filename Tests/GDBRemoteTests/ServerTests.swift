import Glibc
import TestSupport
import Testing

@testable import GDBRemote

@Suite struct ServerTests {
    private static let spinning: @Sendable () -> ToyMachine = { ToyMachine(spins: true) }

    @Test func servesOneDebuggerAfterTheOther() throws {
        let server = try ServingThread(sessions: 4)
        #expect(server.address.hasPrefix("127.0.0.1:"))
        #expect(!server.address.hasSuffix(":0"), "the port that was chosen")
        let first = try Client(server.address)
        first.say("Z0,400024,1")
        try first.expect("+$OK#9a")
        first.say("s")
        try first.expect("thread:1;")
        first.say("D")
        try first.expectEnd()
        // In the middle of a packet.
        let second = try Client(server.address)
        second.say("s")
        try second.expect("thread:1;")
        second.say("Z0,400024,1")
        try second.expect("$OK#9a")
        second.send("$m400000,")
        second.hangUp()
        // In the middle of a command's answer.
        let third = try Client(server.address)
        third.say("s")
        third.hangUp()
        let fourth = try Client(server.address)
        fourth.say("k")
        try fourth.expectEnd()
        #expect(try server.endings() == [.detached, .disconnected, .disconnected, .killed])
        let positions = server.positions
        #expect(positions.prefix(2) == [1, 2], "the machine stays where it is")
        // The third was gone before or after its step.
        #expect(positions[2] == 2 || positions[2] == 3)
        #expect(positions[3] == positions[2])
        #expect(server.breakpointCounts == [0, 0, 0, 0])
    }

    @Test func doesNotServeWhoeverGoesWithoutAWord() throws {
        let server = try ServingThread()
        for _ in 0..<3 { try Client(server.address).hangUp() }
        let client = try Client(server.address)
        client.say("qC")
        try client.expect("$QC1#c5")
        client.say("D")
        #expect(try server.endings() == [.detached])
    }

    @Test func interruptsARun() throws {
        let server = try ServingThread(machine: Self.spinning)
        let client = try Client(server.address)
        client.say("vCont;c")
        // The acknowledgement is sent before the run begins.
        try client.expect("+")
        client.send([3])
        try client.expect("$T02thread:1;")
        client.say("D")
        #expect(try server.endings() == [.detached])
    }

    @Test func takesAnInterruptThatCameWithTheCommand() throws {
        let server = try ServingThread(machine: Self.spinning)
        let client = try Client(server.address)
        client.send(Talk.frame(Array("vCont;c".utf8)) + [3] + Talk.frame(Array("qC".utf8)))
        try client.expect("$T02thread:1;")
        try client.expect("+$QC1#c5")
        client.say("bc")
        client.send([3])
        client.say("D")
        #expect(try server.endings() == [.detached])
    }

    @Test func takesABreakpointByteInAPacketForData() throws {
        let server = try ServingThread(machine: Self.spinning)
        let client = try Client(server.address)
        client.say("vCont;c")
        try client.expect("+")
        // Not an interrupt: the run goes on until the one after it.
        client.send(Talk.frame(Array("X500000,1:".utf8) + [3]))
        client.send([3])
        try client.expect("$T02")
        try client.expect("$E.the recording is read-only")
        client.say("D")
        #expect(try server.endings() == [.detached])
    }

    @Test func stopsARunWhoseDebuggerIsGone() throws {
        let server = try ServingThread(machine: Self.spinning)
        let client = try Client(server.address)
        client.say("vCont;c")
        try client.expect("+")
        client.hangUp()
        #expect(try server.endings() == [.disconnected])
    }

    @Test func outlivesADebuggerThatTalksWithoutEnd() throws {
        let server = try ServingThread(machine: Self.spinning)
        let client = try Client(server.address)
        client.say("vCont;c")
        try client.expect("+")
        // More than is kept, and no interrupt outside of a packet: nobody reads on.
        let flood = [0x24] + [UInt8](repeating: 0x61, count: 1 << 20)
        while client.sendWithoutWaiting(flood) > 0 {}
        server.stop()
        #expect(try server.endings() == [.stopped])
    }

    @Test func sendsASecondDebuggerAway() throws {
        let server = try ServingThread(machine: Self.spinning)
        let first = try Client(server.address)
        first.say("qC")
        try first.expect("$QC1")
        let second = try Client(server.address)
        second.say("qSupported")
        try second.expect("$E.another debugger is attached to this machine#")
        try second.expectEnd()
        first.say("c")
        try first.expect("$QC1#c5+")
        let third = try Client(server.address)
        try third.expect("another debugger is attached")
        try third.expectEnd()
        first.send([3])
        try first.expect("$T02")
        first.say("D")
        #expect(try server.endings() == [.detached])
    }

    @Test func stopsWhileItWaits() throws {
        let server = try ServingThread()
        server.stop()
        #expect(try server.endings() == [.stopped])
    }

    @Test func stopsWhileADebuggerIsThere() throws {
        let server = try ServingThread()
        let client = try Client(server.address)
        client.say("qC")
        try client.expect("$QC1")
        server.stop()
        try client.expectEnd()
        #expect(try server.endings() == [.stopped])
    }

    @Test func stopsWhileTheMachineRuns() throws {
        let server = try ServingThread(machine: Self.spinning)
        let client = try Client(server.address)
        client.say("c")
        try client.expect("+")
        server.stop()
        #expect(try server.endings() == [.stopped])
    }

    @Test func stopsWhileADebuggerDoesNotRead() throws {
        let server = try ServingThread()
        let client = try Client(server.address)
        let question = Talk.frame(Array("m400000,4000".utf8))
        var asked = 0
        // Until its own buffers are full, which is when the server has stopped reading.
        while asked < 1 << 16, client.sendWithoutWaiting(question) > 0 { asked += 1 }
        server.stop()
        #expect(try server.endings() == [.stopped])
    }

    @Test func servesAPipe() throws {
        var inward: [Int32] = [-1, -1]
        var outward: [Int32] = [-1, -1]
        // SAFETY: pipe fills two descriptors, and each array has two.
        try #require(unsafe pipe(&inward) == 0 && pipe(&outward) == 0)
        signal(SIGPIPE, SIG_IGN)
        let server = try ServingThread(
            DebugServer(input: inward[0], output: outward[1]), sessions: 2)
        let text = Talk.frame(Array("qC".utf8))
        // SAFETY: the array's bytes, alive through the call.
        #expect(unsafe write(inward[1], text, text.count) == text.count)
        let answers = DescriptorReader(owning: outward[0])
        try answers.read(untilText: "+$QC1#c5")
        close(inward[1])
        #expect(try server.endings() == [.disconnected, .disconnected])
        close(inward[0])
        close(outward[1])
    }

    // MARK: Unix sockets

    private func mode(_ path: String) -> mode_t? {
        var status = stat()
        // SAFETY: Swift passes a NUL-terminated string and a local.
        return unsafe lstat(path, &status) == 0 ? status.st_mode : nil
    }

    @Test func servesAPathForItsOwnerOnly() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("socket")
        do {
            let server = try ServingThread(at: Endpoint("unix:\(path)"))
            #expect(server.address == path)
            #expect(mode(path) == S_IFSOCK | 0o600)
            #expect(
                throws: TransportError.cannotListen(
                    "unix:\(path)", "somebody listens there already")
            ) {
                _ = try DebugServer(at: .unix(path: path))
            }
            server.stop()
            #expect(try server.endings() == [.stopped])
        }
        #expect(mode(path) == nil, "removed")
    }

    @Test func replacesWhatADeadServerLeft() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("socket")
        // A file that bind made and nobody removed.
        let socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        // SAFETY: the address lives through the call.
        let status = unsafe Client.withAddress(path) { unsafe bind(socket, $0, $1) }
        #expect(status == 0)
        close(socket)
        #expect(mode(path) != nil)
        let server = try ServingThread(at: Endpoint("unix:\(path)"))
        let client = try Client(path)
        client.say("k")
        #expect(try server.endings() == [.killed])
    }

    @Test func leavesOtherFilesAlone() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("precious")
        try Files.write(path, [1, 2, 3])
        #expect(
            throws: TransportError.cannotListen(
                "unix:\(path)", "there is a file of that name, and it is no socket")
        ) { _ = try DebugServer(at: .unix(path: path)) }
        #expect(Files.read(path) == [1, 2, 3])
    }

    @Test func saysWhyNobodyCanConnect() throws {
        let server = try ServingThread()
        let port = try #require(server.address.split(separator: ":").last.flatMap { UInt16($0) })
        #expect(throws: TransportError.cannotListen(server.address, "Address already in use")) {
            _ = try DebugServer(at: .tcp(host: nil, port: port))
        }
        #expect(throws: TransportError.self) {
            _ = try DebugServer(at: .unix(path: "/nonexistent/socket"))
        }
    }
}
