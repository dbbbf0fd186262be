import Testing

@testable import GDBRemote

@Suite struct CommandParserTests {
    private func parse(_ text: String) throws -> Command {
        try CommandParser.parse(Array(text.utf8))
    }

    private static let good: [(String, Command)] = [
        ("?", .stopReason), ("!", .enableExtendedMode), ("g", .readRegisters),
        ("G0aFF", .writeRegisters([0x0A, 0xFF])), ("p1f", .readRegister(31)),
        ("P10=0102", .writeRegister(16, [1, 2])),
        ("m400000,10", .readMemory(address: 0x40_0000, count: 16, isBinary: false)),
        ("x0,0", .readMemory(address: 0, count: 0, isBinary: true)),
        ("mffffffffffffffff,1", .readMemory(address: .max, count: 1, isBinary: false)),
        ("M1000,2:a0B1", .writeMemory(address: 0x1000, [0xA0, 0xB1])),
        ("X1000,3:a:,", .writeMemory(address: 0x1000, Array("a:,".utf8))),
        ("X0,0:", .writeMemory(address: 0, [])),
        ("Z0,1000,1", .insert(Breakpoint(kind: .software, address: 0x1000))),
        ("z1,1000,4", .remove(Breakpoint(kind: .hardware, address: 0x1000))),
        ("Z2,1000,8", .insert(Breakpoint(kind: .write, address: 0x1000, length: 8))),
        ("Z3,1000,1", .insert(Breakpoint(kind: .read, address: 0x1000))),
        ("z4,1000,1000", .remove(Breakpoint(kind: .access, address: 0x1000, length: 0x1000))),
        ("c", .resume(.continue, thread: .any)), ("s", .resume(.step, thread: .any)),
        ("C05", .resume(.continue, thread: .any)), ("S05;", .resume(.step, thread: .any)),
        ("bc", .resume(.reverseContinue, thread: .any)),
        ("bs", .resume(.reverseStep, thread: .any)), ("vCont?", .resumeKinds),
        ("vCont;c", .resume(.continue, thread: .any)),
        ("vCont;s:1;c", .resume(.step, thread: .one(1))),
        ("vCont;c:1;s:2", .resume(.step, thread: .one(2))),
        ("vCont;C05:-1", .resume(.continue, thread: .all)),
        ("vCont;S05:2", .resume(.step, thread: .one(2))), ("vCont;t", .stopThreads),
        ("vCont;r1000,1008:1", .resume(.stepWhileIn(0x1000..<0x1008), thread: .one(1))),
        ("vCont;r1000,1000:1", .resume(.step, thread: .one(1))),
        ("Hg0", .setThread(.general, .any)), ("Hc-1", .setThread(.resuming, .all)),
        ("Hg2", .setThread(.general, .one(2))), ("T1", .isAlive(.one(1))), ("D", .detach),
        ("D;1", .detach), ("k", .kill), ("vKill;a410", .killAndReport), ("R00", .restart),
        ("vRun;", .restartAndReport), ("vMustReplyEmpty", .mustReplyEmpty),
        (
            "qSupported:swbreak+;xmlRegisters=i386",
            .supported(features: ["swbreak+", "xmlRegisters=i386"])
        ),
        ("qSupported", .supported(features: [])), ("QStartNoAckMode", .startNoAcknowledgement),
        ("qC", .currentThread), ("qfThreadInfo", .firstThreads), ("qsThreadInfo", .moreThreads),
        ("qThreadExtraInfo,2", .threadInformation(.one(2))), ("qAttached", .isAttached),
        ("qAttached:1", .isAttached), ("qSymbol::", .symbolLookup), ("qOffsets", .unknown),
        (
            "qXfer:features:read:target.xml:0,ffb",
            .transfer(.features(annex: "target.xml"), offset: 0, count: 0xFFB)
        ),
        ("qXfer:memory-map:read::10,20", .transfer(.memoryMap, offset: 16, count: 32)),
        (
            "qXfer:exec-file:read:1:0,ffffffff",
            .transfer(.executableName, offset: 0, count: Limits.packet)
        ),
        ("qXfer:auxv:read::0,100", .unknown), ("qXfer:features:write:x:0:00", .unknown),
        ("qRcmd,68656c70", .monitor(Array("help".utf8))), ("qqemu.PhyMemMode", .memorySpace),
        ("Qqemu.PhyMemMode:1", .setMemorySpace(.physical)),
        ("Qqemu.PhyMemMode:0", .setMemorySpace(.virtual)), ("vFile:setfs:0", .file(.setFileSystem)),
        ("vFile:open:2f61,0,1c0", .file(.open(name: Array("/a".utf8), flags: 0))),
        (
            "vFile:pread:3,ffff,10",
            .file(.read(descriptor: 3, count: Limits.memoryTransfer, offset: 16))
        ),
        ("vFile:fstat:3", .file(.status(descriptor: 3))),
        ("vFile:close:3", .file(.close(descriptor: 3))), ("vFile:unlink:2f", .file(.other)),
        ("", .unknown), ("y", .unknown), ("?x", .unknown), ("bx", .unknown), ("b", .unknown),
        ("Hx1", .unknown), ("vAttach;1", .unknown), ("vCtrlC", .unknown), ("qTStatus", .unknown),
        ("QNonStop:1", .unknown), ("jThreadsInfo", .unknown),
    ]

    @Test func understandsEveryPacket() throws {
        for (text, command) in Self.good {
            #expect(try parse(text) == command, "\(text)")
        }
    }

    private static let bad: [(String, String)] = [
        ("m", "malformed packet: address is missing"),
        ("m1000", "malformed packet: ',' is missing"),
        ("m1000,", "malformed packet: length is missing"),
        ("m10000000000000000,1", "malformed packet: address does not fit 64 bits"),
        ("m0,4001", "length 16385 is more than 16384"),
        ("mffffffffffffffff,2", "the range goes beyond the end of memory"),
        ("m0,1;", "malformed packet: something follows its end"),
        ("M0,2:00", "malformed packet: 1 bytes for 2"),
        ("M0,1:0", "malformed packet: data is not pairs of hexadecimal digits"),
        ("M0,1", "malformed packet: ':' is missing"),
        ("X0,1:", "malformed packet: 0 bytes for 1"),
        ("p", "malformed packet: register is missing"),
        ("p10000", "register 65536 is more than 65535"),
        ("P0", "malformed packet: '=' is missing"),
        ("Gxx", "malformed packet: data is not pairs of hexadecimal digits"),
        ("Z5,0,1", "there are breakpoint types 0 to 4, not 5"),
        ("Z100,0,1", "there are breakpoint types 0 to 4, not 256"),
        ("Z0,0", "malformed packet: ',' is missing"),
        ("Z0,0,1;X3,0", "conditions are left to the debugger: set them there"),
        ("Z2,0,0", "a watchpoint covers 1 to 4096 bytes"),
        ("Z2,0,1001", "a watchpoint covers 1 to 4096 bytes"),
        ("Z2,ffffffffffffffff,2", "the range goes beyond the end of memory"),
        ("c1000", "a run starts where the machine stands: set rip first"),
        ("C", "malformed packet: signal is missing"),
        ("Cfff", "signal 4095 is more than 255"),
        ("vCont;", "vCont knows c, C, s, S, t and r"),
        ("vCont;x", "vCont knows c, C, s, S, t and r"),
        ("vCont;c1", "malformed packet: ';' is missing"),
        ("vCont;r1", "malformed packet: ',' is missing"),
        ("Hg", "malformed packet: thread is missing"),
        ("T100000000", "thread 4294967296 is more than 4294967295"),
        ("qXfer:features:read:target.xml:0", "malformed packet: ',' is missing"),
        ("qXfer:features:read:target.xml", "malformed packet: ':' is missing"),
        ("qRcmd,6", "malformed packet: the command is not hexadecimal"),
        ("Qqemu.PhyMemMode:2", "mode 2 is more than 1"),
        ("vFile:open:zz,0,0", "malformed packet: data is not pairs of hexadecimal digits"),
    ]

    @Test func saysWhatIsWrong() {
        for (text, message) in Self.bad {
            #expect(throws: CommandError(message), "\(text)") { try parse(text) }
        }
    }

    @Test func boundsActions() {
        let text = "vCont" + String(repeating: ";c:1", count: Limits.threads + 1)
        #expect(throws: CommandError("too many actions")) { try parse(text) }
    }
}
