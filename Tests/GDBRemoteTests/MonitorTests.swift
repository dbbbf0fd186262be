import Machine
import Testing

@testable import GDBRemote

@Suite struct MonitorTests {
    private func parse(_ text: String) throws -> MonitorParser.Request {
        try MonitorParser.parse(Array(text.utf8))
    }

    private static let good: [(String, MonitorParser.Request)] = [
        ("", .help), ("  ", .help), ("help", .help), ("when", .command(.when(isExact: false))),
        ("when exact", .command(.when(isExact: true))),
        ("goto begin", .command(.goTo(.position(.begin)))), ("goto end", .command(.goTo(.end))),
        ("goto 17+4", .command(.goTo(.position(Position(exitCount: 18, instructions: 4))))),
        (
            "goto 17+4.9",
            .command(.goTo(.position(Position(exitCount: 18, instructions: 4, ring3: 9))))
        ),
        ("goto 33.3%", .command(.goTo(.share(33_300)))),
        ("goto begin+3", .command(.goTo(.position(Position(exitCount: 0, instructions: 3))))),
        ("exits", .command(.exits(nil))), ("exits 5", .command(.exits(5...5))),
        ("exits 5..9", .command(.exits(5...9))), ("exit 12", .command(.exit(12))),
        ("next io", .command(.nextIO(port: nil))),
        ("next io 0x3f8", .command(.nextIO(port: 0x3F8))),
        ("prev io 64", .command(.previousIO(port: 64))), ("checkpoint", .command(.checkpoint)),
        ("last-write 0x1000", .command(.lastWrite(address: 0x1000, length: 1))),
        ("last-write 4096,8", .command(.lastWrite(address: 4096, length: 8))),
        ("disassemble", .command(.disassemble(address: nil, count: 10))),
        ("disassemble 0x7c00", .command(.disassemble(address: 0x7C00, count: 10))),
        ("disassemble 0x7c00 3", .command(.disassemble(address: 0x7C00, count: 3))),
        ("registers", .command(.registers)), ("info\n", .command(.info)),
        ("hints off", .hints(false)), ("hints on", .hints(true)),
        ("console off", .console(false)), ("console on", .console(true)),
    ]

    @Test func understandsCommands() throws {
        for (text, request) in Self.good { #expect(try parse(text) == request, "\(text)") }
    }

    private static let positions = "begin, end, 17, 17+4, 17+4.9 (in ring 3) or 50%"

    private static let bad: [(String, String)] = [
        ("nonsense", "there is no monitor command 'nonsense'; try monitor help"),
        ("when now", "monitor when: 'now' is too much; try monitor help"),
        ("when exact now", "monitor when: 'now' is too much; try monitor help"),
        ("goto", "monitor goto needs a position: \(positions)"),
        ("goto -1", "'-1' is no position; write \(positions)"),
        ("exits 9..5", "'9..5' is no range of exits; write 17 or 17..40"),
        ("exits 9.", "'9.' is no range of exits; write 17 or 17..40"),
        ("exits 0..1000", "monitor exits lists at most 1000 exits at once"),
        ("exits 0..18446744073709551615", "monitor exits lists at most 1000 exits at once"),
        ("exit", "monitor exit needs the number of an exit"),
        ("next", "monitor next knows: next io [PORT]"),
        ("prev mmio", "monitor prev knows: prev io [PORT]"),
        ("next io 65536", "'65536' is no port; write 0 to 0xffff"),
        ("last-write", "monitor last-write needs an address: 0x1000 or 0x1000,8"),
        ("last-write x", "'x' is no address; write 0x1000 or 0x1000,8"),
        ("last-write 0x1000,0", "'0' is no length; write 1 to 4096 bytes, within memory"),
        (
            "last-write 0xffffffffffffffff,2",
            "'2' is no length; write 1 to 4096 bytes, within memory"
        ),
        ("disassemble me", "'me' is no number; write disassemble [ADDRESS] [COUNT]"),
        ("disassemble 0 0", "monitor disassemble shows 1 to 1000 instructions"),
        ("hints", "monitor hints knows: on, off"),
        ("console maybe", "monitor console knows: on, off"),
        (
            String(repeating: "y", count: 100),
            "there is no monitor command '\(String(repeating: "y", count: 40))...'; try monitor help"
        ),
        (String(repeating: "y", count: 1025), "a monitor command has at most 1024 bytes"),
    ]

    @Test func saysWhatIsExpected() {
        for (text, message) in Self.bad {
            #expect(throws: DebugError(message), "\(text)") { try parse(text) }
        }
    }

    @Test func helpKnowsEveryCommand() {
        for (text, _) in Self.good {
            guard let name = text.split(separator: " ").first?.split(separator: "\n").first else {
                continue
            }
            #expect(name == "help" || MonitorHelp.text.contains("\(name)"))
        }
    }

    @Test func answersOnTheConsole() {
        var talk = Talk()
        var answers = talk.say("qRcmd," + hexadecimal("when"))
        #expect(consoleText(answers) == "begin\n")
        #expect(answers.last == "OK")
        answers = talk.say("qRcmd," + hexadecimal("goto begin+3"))
        #expect(consoleText(answers) == "at begin+3\n" + MonitorHelp.moved)
        #expect(talk.ask("qRcmd," + hexadecimal("hints off")) == "OK")
        answers = talk.say("qRcmd," + hexadecimal("goto end"))
        #expect(consoleText(answers) == "at begin+52\n")
        #expect(
            talk.machine.asked
                == [
                    .when(isExact: false),
                    .goTo(.position(Position(exitCount: 0, instructions: 3))), .goTo(.end),
                ])
        answers = talk.say("qRcmd," + hexadecimal("help"))
        #expect(consoleText(answers) == MonitorHelp.text)
        answers = talk.say("qRcmd," + hexadecimal("info"))
        #expect(consoleText(answers).count == 15_000)
        #expect(answers.count == 9, "in pieces that fit a packet")
    }

    @Test func tellsErrorsAsTheDebuggerUnderstandsThem() {
        var talk = Talk()
        let answers = talk.say("qRcmd," + hexadecimal("goto begin+99"))
        #expect(consoleText(answers) == "begin+99 is beyond the end\n")
        #expect(answers.last == "E01")
        _ = talk.ask("qSupported:error-message+")
        #expect(talk.ask("qRcmd," + hexadecimal("goto begin+99")) == "E.begin+99 is beyond the end")
    }
}
