import GDBRemote
import Machine
import Testing

/// What goes over the wire, byte by byte, for each family of packets.
@Suite struct TranscriptTests {
    @Test func acknowledges() {
        var talk = Talk(acknowledges: true)
        #expect(talk.bytes("$qAttached#8f") == "+$1#31")
        #expect(talk.bytes("+") == "")
        #expect(talk.bytes("-") == "$1#31", "what was sent last comes again")
        #expect(talk.bytes("$qAttached#8e") == "-", "a wrong checksum")
        #expect(talk.bytes("$qAttached#8f$qC#b4") == "+$1#31+$QC1#c5", "two at once")
        #expect(talk.bytes("\u{3}") == "", "nothing runs")
        #expect(talk.bytes("$vMustReplyEmpty#3a") == "+$#00")
        #expect(talk.bytes("$QStartNoAckMode#b0") == "+$OK#9a", "the last one acknowledged")
        #expect(talk.bytes("$qAttached#8f") == "$1#31")
        #expect(talk.bytes("-") == "")
        #expect(talk.bytes("$qAttached#00") == "$E.a packet arrived damaged#5c")
    }

    @Test func answersOversizedPackets() {
        var talk = Talk()
        let packet = [UInt8](repeating: 0x67, count: Limits.packet + 1)
        let answer = talk.bytes(Talk.frame(packet))
        #expect(Talk.payloads(answer) == ["E.a packet may have 32768 bytes, and this one has more"])
        #expect(talk.ask("qAttached") == "1", "and goes on")
    }

    @Test func givesUpOnWhoeverRefusesEverything() {
        var talk = Talk(acknowledges: true)
        #expect(talk.bytes("$qC#b4") == "+$QC1#c5")
        let answer = talk.bytes(String(repeating: "-", count: 100))
        #expect(Talk.payloads(answer).count == 32)
        #expect(talk.conversation.ending == .failed(.refusesEverything))
    }

    @Test func tellsWhatItCanDo() {
        var talk = Talk()
        #expect(
            talk.ask("qSupported:multiprocess+;swbreak+;hwbreak+")
                == "PacketSize=8000;QStartNoAckMode+;swbreak+;hwbreak+;vContSupported+;ReverseStep+"
                + ";ReverseContinue+;binary-upload+;qXfer:features:read+;qXfer:memory-map:read+"
                + ";qXfer:exec-file:read+")
        #expect(talk.ask("vCont?") == "vCont;c;C;s;S;t;r")
        #expect(talk.ask("!") == "OK")
        #expect(talk.ask("qSymbol::") == "OK")
        #expect(talk.ask("qOffsets") == "")
        #expect(talk.ask("qTStatus") == "")
        #expect(talk.ask("vNonsense") == "")
        #expect(talk.ask("") == "")
        talk.machine.executable = nil
        #expect(!talk.ask("qSupported").contains("exec-file"))
    }

    /// RBP, RSP and RIP, as stop replies tell them.
    private static func state(
        _ rip: String, rsp: String = "f00f500000000000", rbp: String = "0000000000000000"
    ) -> String {
        "06:\(rbp);07:\(rsp);10:\(rip)00000000000;"
    }

    @Test func stops() {
        var talk = Talk()
        _ = talk.ask("qSupported:swbreak+;hwbreak+")
        #expect(talk.ask("?") == "T05thread:1;" + Self.state("00004"))
        #expect(talk.ask("s") == "T05thread:1;" + Self.state("05004"))
        #expect(talk.ask("Z0,400020,1") == "OK")
        #expect(
            talk.ask("c") == "T05swbreak:;thread:1;" + Self.state("20004", rsp: "e80f500000000000"))
        #expect(talk.ask("z0,400020,1") == "OK")
        #expect(talk.ask("Z1,400021,1") == "OK")
        #expect(
            talk.ask("vCont;c:1") == "T05hwbreak:;thread:1;"
                + Self.state("21004", rsp: "e00f500000000000"))
        #expect(talk.ask("z1,400021,1") == "OK")
        #expect(talk.ask("c").hasPrefix("T05replaylog:end;thread:1;"))
        #expect(talk.ask("bs").hasPrefix("T05thread:1;"))
        #expect(talk.ask("bc") == "T05replaylog:begin;thread:1;" + Self.state("00004"))
        #expect(talk.ask("bs").hasPrefix("T05replaylog:begin;"))
        #expect(talk.ask("vCont;t").hasPrefix("T05thread:1;"))
        #expect(talk.ask("vCont;r400000,400020:2").contains("thread:2;"))
        talk.interrupt.raise()
        #expect(talk.ask("c").hasPrefix("T02thread:1;"))
    }

    @Test func keepsReasonsFromDebuggersThatDoNotKnowThem() {
        var talk = Talk()
        #expect(talk.ask("Z0,400020,1") == "OK")
        #expect(talk.ask("c").hasPrefix("T05thread:1;"))
    }

    @Test func watches() {
        var talk = Talk()
        #expect(talk.ask("Z2,500000,8") == "OK")
        #expect(talk.ask("c").hasPrefix("T05watch:500000;thread:1;"))
        #expect(talk.ask("z2,500000,8") == "OK")
        #expect(talk.ask("Z3,500004,1") == "OK")
        #expect(talk.ask("c").hasPrefix("T05rwatch:500004;"))
        #expect(talk.ask("z3,500004,1") == "OK")
        #expect(talk.ask("Z4,500008,8") == "OK")
        #expect(talk.ask("c").hasPrefix("T05awatch:500008;"))
        #expect(talk.ask("bc").hasPrefix("T05awatch:500008;"))
        #expect(talk.ask("bc").hasPrefix("T05replaylog:begin;"))
    }

    @Test func saysMoreThanTheReason() {
        var talk = Talk()
        talk.machine.note = "look here"
        let answers = talk.say("s")
        #expect(answers.count == 2)
        #expect(consoleText(answers) == "look here\n")
        talk.machine.failure = DebugError("the tape is torn")
        #expect(talk.ask("c") == "E.the tape is torn")
    }

    @Test func readsRegisters() {
        var talk = Talk()
        let all = talk.ask("g")
        #expect(
            all.count == 2
                * (16 * 8 + 8 + 4 + 6 * 4 + 8 * 10 + 8 * 4 + 16 * 16 + 4 + 16 + 15 * 8 + 4 * 4 - 8))
        #expect(all.hasPrefix(String(repeating: "0", count: 16)))
        #expect(talk.ask("p7") == "f00f500000000000")
        #expect(talk.ask("p10") == "0000400000000000")
        #expect(talk.ask("p11") == "02000000")
        #expect(talk.ask("p12") == "xxxxxxxx", "not known")
        #expect(talk.ask("pff") == "E.there are registers 0 to 76, not 255")
    }

    @Test func refusesToChangeThePast() {
        var talk = Talk()
        let refusal = "E.the recording is read-only: vmtape replay --live-from changes what happens"
        #expect(talk.ask("P0=0100000000000000") == refusal)
        #expect(talk.ask("G00") == refusal)
        #expect(talk.ask("M500000,1:07") == refusal)
        #expect(talk.ask("X500000,1:a") == refusal)
        #expect(talk.ask("X500000,0:") == "OK", "how gdb finds out about binary data")
        #expect(talk.ask("m500000,1") == "00")
        let answers = talk.say("s")
        #expect(
            consoleText(answers)
                == "The write to 0x500000 was refused: the recording is read-only: "
                + "vmtape replay --live-from changes what happens\n")
        #expect(talk.say("s").count == 1, "said once")
    }

    @Test func writesWhereItMay() {
        var machine = ToyMachine()
        machine.isWritable = true
        var talk = Talk(machine)
        #expect(talk.ask("P0=2a00000000000000") == "OK")
        #expect(talk.ask("p0") == "2a00000000000000")
        #expect(talk.ask("P0=2a") == "E.rax has 8 bytes, and 1 were given")
        #expect(talk.ask("P12=00000000") == "E.cs is not known here, and cannot be set")
        let all = talk.ask("g")
        #expect(talk.ask("G07" + all.dropFirst(2).replacing("x", with: "0")) == "OK")
        #expect(talk.ask("p0") == "0700000000000000")
        #expect(talk.ask("G00") == "E.all registers have 680 bytes, and 1 were given")
        #expect(talk.ask("M500000,2:0708") == "OK")
        #expect(talk.ask("X500002,2:}\u{3}b") == "OK", "an escaped #")
        #expect(talk.ask("m500000,4") == "07082362")
        #expect(talk.ask("M600000,1:00") == "E.nothing is mapped there")
    }

    @Test func readsMemory() {
        var talk = Talk()
        #expect(talk.ask("m400000,5") == "b905000000")
        #expect(talk.ask("m400000,0") == "")
        #expect(talk.ask("m500ffe,10") == "0000", "as far as it is mapped")
        #expect(talk.ask("m501000,1") == "E01", "gdb 13 would take a text for data")
        #expect(talk.ask("x400005,2") == "b\u{E8}\u{16}")
        #expect(talk.ask("x400010,4") == "b\u{89}\u{4}%\u{8}")
        #expect(talk.ask("x400020,0") == "b")
        _ = talk.ask("qSupported:error-message+")
        #expect(talk.ask("m501000,1") == "E.nothing is mapped at 0x501000")
    }

    @Test func readsPhysicalMemory() {
        var talk = Talk()
        #expect(talk.ask("qqemu.PhyMemMode") == "0")
        #expect(talk.ask("Qqemu.PhyMemMode:1") == "OK")
        #expect(talk.ask("qqemu.PhyMemMode") == "1")
        #expect(talk.ask("m0,2") == "b905")
        #expect(talk.ask("m400000,2") == "E01")
        #expect(talk.ask("Qqemu.PhyMemMode:0") == "OK")
        #expect(talk.ask("m400000,2") == "b905")
    }

    @Test func keepsBreakpoints() {
        var talk = Talk()
        #expect(talk.ask("Z0,400020,1") == "OK")
        #expect(talk.ask("Z0,400020,1") == "OK", "again: nothing changes")
        #expect(talk.machine.breakpoints.count == 1)
        #expect(talk.ask("z0,400021,1") == "OK", "none there: nothing changes")
        #expect(talk.ask("m400020,1") == "55", "never in memory")
        for address in 1..<Limits.breakpoints {
            #expect(talk.ask("Z1,\(String(address, radix: 16)),1") == "OK")
        }
        #expect(talk.ask("Z1,ffff,1") == "E.there are 4096 breakpoints already: delete some")
        #expect(talk.ask("D") == "OK")
        #expect(talk.machine.breakpoints.isEmpty)
        #expect(talk.conversation.ending == .detached)
        #expect(talk.say("qC").isEmpty, "nothing after the end")
    }

    @Test func saysWhyABreakpointIsRefused() {
        var talk = Talk()
        talk.machine.refusal = DebugError("not mapped here")
        #expect(talk.ask("Z2,1000,8") == "E.not mapped here")
        #expect(talk.ask("Z2,1000,8") == "E.not mapped here")
        #expect(talk.ask("z2,1000,8") == "OK")
        #expect(consoleText(talk.say("s")) == "The watchpoint at 0x1000: not mapped here\n")
        talk.machine.refusal = nil
        #expect(talk.ask("Z2,1000,8") == "OK")
    }

    @Test func listsThreads() {
        var talk = Talk()
        #expect(talk.ask("qC") == "QC1")
        #expect(talk.ask("qfThreadInfo") == "m1,2")
        #expect(talk.ask("qsThreadInfo") == "l")
        #expect(talk.ask("qThreadExtraInfo,2") == hexadecimal("vCPU 1"))
        #expect(talk.ask("T2") == "OK")
        #expect(talk.ask("T3") == "E.there is no such thread")
        #expect(talk.ask("Hg2") == "OK")
        #expect(talk.ask("Hg7") == "E.there is no such thread")
        #expect(talk.ask("Hc2") == "OK")
        #expect(talk.ask("s").hasPrefix("T05thread:2;"))
        #expect(talk.ask("Hc-1") == "OK")
        #expect(talk.ask("s").hasPrefix("T05thread:1;"))
        #expect(talk.ask("vCont;s:9") == "E.there is no such thread")
    }

    @Test func sendsObjects() {
        var talk = Talk()
        let first = talk.ask("qXfer:features:read:target.xml:0,20")
        #expect(first == "m<?xml version=\"1.0\"?>\n<!DOCTYPE ")
        let second = talk.ask("qXfer:features:read:target.xml:20,ffff")
        #expect(second.hasPrefix("ltarget SYSTEM"))
        #expect(second.hasSuffix("</target>\n"))
        let size = String(first.count + second.count - 2, radix: 16)
        #expect(talk.ask("qXfer:features:read:target.xml:\(size),10") == "l")
        #expect(
            talk.ask("qXfer:features:read:target.xml:fffff,10").hasPrefix(
                "E.offset 1048575 is beyond"))
        #expect(
            talk.ask("qXfer:features:read:other.xml:0,10")
                == "E.there is no target description other.xml")
        let map = talk.ask("qXfer:memory-map:read::0,1000")
        #expect(map.contains("<memory type=\"ram\" start=\"0x0\" length=\"0x8000000000000000\"/>"))
        #expect(talk.ask("qXfer:exec-file:read::0,100") == "l/toy")
    }

    @Test func describesTheCPUThatTheProgramIsFor() {
        let question = "qXfer:features:read:target.xml:0,4000"
        var talk = Talk()
        #expect(talk.ask(question).contains("<architecture>i386:x86-64</architecture>"))
        var machine = ToyMachine()
        machine.executable = DebugExecutable(name: "toy32", bytes: ToyProgram.elf32)
        var other = Talk(machine)
        #expect(other.ask(question).contains("<architecture>i386</architecture>"))
        #expect(other.ask("p8") == "00004000", "eip")
        #expect(other.ask("?") == "T05thread:1;05:00000000;04:f00f5000;08:00004000;")
        other.machine.executable = nil
        #expect(other.ask(question).contains("<architecture>i386</architecture>"), "for good")
    }

    @Test(arguments: [
        (CPUMode.real, "i8086"), (.protected16, "i8086"), (.protected32, "i386"),
        (.compatibility, "i386:x86-64"), (.long, "i386:x86-64"),
    ])
    func describesTheCPUInItsMode(mode: CPUMode, name: String) {
        var machine = ToyMachine()
        machine.executable = nil
        machine.system = Self.system(in: mode)
        var talk = Talk(machine)
        let answer = talk.ask("qXfer:features:read:target.xml:0,4000")
        #expect(answer.contains("<architecture>\(name)</architecture>"))
        // Told once, where registers are cut.
        talk.machine.system = Self.system(in: .long)
        let isNarrow = name != "i386:x86-64"
        #expect(consoleText(talk.say("s")).contains("long mode") == isNarrow)
        #expect(talk.say("s").count == 1)
    }

    private static func system(in mode: CPUMode) -> SystemRegisters {
        var system = SystemRegisters()
        system[.cr0] = mode == .real ? 0 : 1
        system[.efer] = mode == .long || mode == .compatibility ? 1 << 10 : 0
        system[.cs] = Segment(db: mode == .protected32, l: mode == .long)
        return system
    }

    @Test func sendsTheProgram() {
        var talk = Talk()
        #expect(talk.ask("vFile:setfs:0") == "F0")
        #expect(talk.ask("vFile:open:\(hexadecimal("/etc/passwd")),0,0") == "F-1,2")
        #expect(talk.ask("vFile:open:\(hexadecimal("/toy")),1,0") == "F-1,1e", "for writing")
        #expect(talk.ask("vFile:open:\(hexadecimal("/toy")),0,0") == "F3")
        #expect(talk.ask("vFile:pread:3,4,0") == "F4;\u{7F}ELF")
        #expect(talk.ask("vFile:pread:3,4,ffffffffffffffff") == "F0;")
        #expect(talk.ask("vFile:pread:4,4,0") == "F-1,9")
        let status = talk.ask("vFile:fstat:3")
        #expect(status.hasPrefix("F40;"))
        #expect(status.unicodeScalars.count == 4 + 64)
        #expect(talk.ask("vFile:close:3") == "F0")
        #expect(talk.ask("vFile:unlink:\(hexadecimal("/toy"))") == "")
        talk.machine.executable = nil
        #expect(talk.ask("vFile:open:\(hexadecimal("/toy")),0,0") == "F-1,2")
        #expect(talk.ask("qXfer:exec-file:read::0,100") == "")
    }

    @Test func restarts() {
        var talk = Talk()
        _ = talk.say("c")
        #expect(talk.ask("vRun;").hasPrefix("T05thread:1;" + Self.state("00004")))
        _ = talk.say("s")
        #expect(talk.say("R00").isEmpty, "no answer is expected")
        #expect(talk.machine.position == .begin)
    }

    @Test func endsAsTold() {
        var talk = Talk()
        #expect(talk.say("k").isEmpty)
        #expect(talk.conversation.ending == .killed)
        var other = Talk()
        #expect(other.ask("vKill;1") == "OK")
        #expect(other.conversation.ending == .killed)
        var third = Talk()
        _ = third.ask("Z0,400020,1")
        third.conversation.close(&third.machine)
        #expect(third.machine.breakpoints.isEmpty)
        #expect(third.conversation.ending == .disconnected)
    }
}
