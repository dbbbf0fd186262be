import TestSupport
import Testing

@testable import GDBRemote

@Suite struct DeframerTests {
    private func events(_ bytes: some Sequence<UInt8>) -> [Deframer.Event] {
        var deframer = Deframer()
        return bytes.compactMap { deframer.take($0) }
    }

    private func events(_ text: String) -> [Deframer.Event] { events(Array(text.utf8)) }

    private func packet(_ text: String) -> Deframer.Event { .packet(Array(text.utf8)) }

    @Test func takesPacketsApart() {
        // The checksum is the sum of the bytes, modulo 256: 'g' is 0x67.
        #expect(events("$g#67") == [packet("g")])
        #expect(events("$#00") == [packet("")])
        #expect(events("+$g#67-$?#3f") == [.acknowledgement, packet("g"), .refusal, packet("?")])
        #expect(events("$m0,4#FD") == [packet("m0,4")], "digits in either case")
    }

    @Test func passesOverNoise() {
        #expect(events("abc\r\n$g#67##xx") == [packet("g")])
    }

    @Test func refusesWrongChecksums() {
        #expect(events("$g#68") == [.broken(.checksum)])
        #expect(events("$g#zz$g#67") == [.broken(.checksum), packet("g")])
    }

    @Test func beginsAnewAfterAPacketThatWasCutOff() {
        #expect(events("$m400000,$g#67") == [packet("g")])
        #expect(events("$m400000,4#") == [])
    }

    @Test func undoesEscapes() {
        let bytes: [UInt8] = [0x58, 0x7D, 0x03, 0x7D, 0x04, 0x7D, 0x5D, 0x7D, 0x0A]
        #expect(events(Talk.frame(bytes)) == [.packet([0x58, 0x23, 0x24, 0x7D, 0x2A])])
        #expect(events(Talk.frame([0x58, 0x7D])) == [.broken(.coding)])
    }

    @Test func writesOutRuns() {
        // `0* ` is a zero and three more: 0x20 - 29 = 3.
        #expect(events("$0* #7a") == [packet("0000")])
        #expect(
            events(Talk.frame(Array("a*~b".utf8))) == [
                packet(String(repeating: "a", count: 98) + "b")
            ])
        #expect(events(Talk.frame(Array("* ".utf8))) == [.broken(.coding)], "nothing to repeat")
        #expect(events(Talk.frame(Array("a*".utf8))) == [.broken(.coding)], "no count")
        #expect(events(Talk.frame([0x61, 0x2A, 0x1F])) == [.broken(.coding)], "count below 32")
    }

    @Test func boundsPackets() {
        let longest = [UInt8](repeating: 0x61, count: Limits.packet)
        #expect(events(Talk.frame(longest)) == [.packet(longest)])
        #expect(events(Talk.frame(longest + [0x61])) == [.broken(.oversized)])
        #expect(
            events(Talk.frame(longest + longest + longest) + Talk.frame([0x67]))
                == [.broken(.oversized), packet("g")])
        // 400 runs of 98 each.
        let runs =
            [UInt8]("a".utf8) + [UInt8](repeating: 0, count: 400).flatMap { _ in Array("*~".utf8) }
        #expect(events(Talk.frame(runs)) == [.broken(.oversized)])
    }

    @Test func knowsAnInterruptFromData() {
        #expect(events([3]) == [.interrupt])
        #expect(events(Talk.frame([0x58, 3])) == [.packet([0x58, 3])])
        #expect(events([0x24, 0x58, 3]) == [])
    }

    @Test func framesWhatItTakesApart() {
        var random = SeededGenerator(seed: 1)
        for _ in 0..<200 {
            let bytes = (0..<Int(random.next() % 300)).map { _ in
                UInt8(truncatingIfNeeded: random.next())
            }
            #expect(events(PacketFrame.framed(bytes)) == [.packet(bytes)])
        }
    }

    @Test func keepsMessagesInOnePlainLine() {
        let text = PacketFrame.text("a\nb#c$d}e*f\u{E9}")
        #expect(String(decoding: text, as: UTF8.self) == "a?b?c?d?e?f??")
        #expect(PacketFrame.text(String(repeating: "x", count: 5000)).count == 1000)
    }
}
