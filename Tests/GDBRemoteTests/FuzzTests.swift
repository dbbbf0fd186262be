import GDBRemote
import TestSupport
import Testing

/// Broken input at random, the same in every run. `tools/fuzz debugger` looks further.
@Suite struct FuzzTests {
    /// A packet of each family.
    private static let packets = [
        "qSupported:swbreak+;error-message+", "!", "?", "g", "G00", "p10", "P0=0102030405060708",
        "m400000,10", "x400000,10", "M500000,2:abcd", "X500000,2:ab", "Z0,400020,1", "z0,400020,1",
        "Z2,500000,8", "Z4,ffffffffffffffff,1", "s", "c", "C05", "bs", "bc", "vCont?",
        "vCont;s:1;c", "vCont;r400000,400020:1", "Hg1", "Hc-1", "T1", "qC", "qfThreadInfo",
        "qsThreadInfo", "qThreadExtraInfo,1", "qXfer:features:read:target.xml:0,ffb",
        "qXfer:memory-map:read::0,100", "qXfer:exec-file:read::0,100", "vFile:setfs:0",
        "vFile:open:2f746f79,0,0", "vFile:pread:3,100,0", "vFile:fstat:3", "vFile:close:3",
        "qRcmd,7768656e", "qRcmd,676f746f20656e64", "qRcmd,6c6173742d7772697465203078",
        "qqemu.PhyMemMode", "Qqemu.PhyMemMode:1", "QStartNoAckMode", "R00", "vRun;", "D", "k",
        "vKill;1", "qAttached", "vMustReplyEmpty", "qRcmd," + hexadecimal("disassemble 1 2"),
    ]

    /// Bytes that mean something to some packet.
    private static let telling = Array("$#}*+-,:;=.0123456789abcdefxZzqv\u{3}\u{0} ".utf8)

    private func mutate(_ packet: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        var bytes = packet
        for _ in 0..<Int(random.next() % 4) {
            let at = bytes.isEmpty ? 0 : Int(random.next() % UInt64(bytes.count))
            let byte =
                random.next() % 2 == 0
                ? Self.telling[Int(random.next() % UInt64(Self.telling.count))]
                : UInt8(truncatingIfNeeded: random.next())
            switch random.next() % 5 {
            case 0: bytes.insert(byte, at: at)
            case 1 where !bytes.isEmpty: bytes[at] = byte
            case 2 where !bytes.isEmpty: bytes.remove(at: at)
            case 3: bytes.insert(contentsOf: repeatElement(byte, count: 20), at: at)
            default: bytes = Array(bytes.prefix(at))
            }
        }
        return bytes
    }

    /// A frame, mostly a good one.
    private func frame(_ payload: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        var frame = Talk.frame(payload)
        switch random.next() % 12 {
        case 0: frame[frame.count - 1] ^= 1
        case 1: frame = Array(frame.prefix(Int(random.next() % UInt64(frame.count))))
        case 2: frame.insert(UInt8(truncatingIfNeeded: random.next()), at: 0)
        default: break
        }
        return frame
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func answersWhateverComes(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var answered = 0
        for _ in 0..<60 {
            var machine = ToyMachine()
            machine.isWritable = random.next() % 2 == 0
            var talk = Talk(machine, acknowledges: random.next() % 2 == 0)
            for _ in 0..<40 where talk.conversation.ending == nil {
                let packet = Self.packets[Int(random.next() % UInt64(Self.packets.count))]
                let bytes = frame(mutate(Array(packet.utf8), &random), &random)
                let answers = Talk.payloads(talk.bytes(bytes))
                #expect(!answers.contains { $0.hasPrefix("wrong checksum") })
                answered += answers.isEmpty ? 0 : 1
            }
            talk.conversation.close(&talk.machine)
            #expect(talk.machine.breakpoints.isEmpty)
        }
        // It must have got past the frames, and not ended at once each time.
        #expect(answered > 400)
    }

    @Test func takesNoise() {
        var random = SeededGenerator(seed: 7)
        var talk = Talk(acknowledges: true)
        for _ in 0..<200 {
            _ = talk.bytes((0..<300).map { _ in UInt8(truncatingIfNeeded: random.next()) })
        }
        #expect(talk.bytes("#00$qC#b4").hasSuffix("+$QC1#c5"), "and goes on")
    }
}
