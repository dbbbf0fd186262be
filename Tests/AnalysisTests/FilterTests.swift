import Machine
import Testing
import Trace

@testable import Analysis

/// An exit for the filter to look at.
private func frame(
    _ detail: ExitDetail<Range<Int>> = .other(.hlt, data: 0..<0), number: UInt64 = 7,
    sent: [UInt8] = [], answer: [UInt8]? = nil, _ change: (inout ExitFrame) -> Void = { _ in }
) -> ExitFrame {
    var frame = ExitFrame()
    frame.number = number
    frame.detail = detail
    frame.sent = ExitData(sent)
    if let answer {
        frame.answer = ExitData(answer)
        frame.answerForm = .io
        frame.eventMask = 1
    }
    change(&frame)
    return frame
}

private func out(_ port: UInt16, _ bytes: [UInt8], number: UInt64 = 7) -> ExitFrame {
    frame(
        .io(isWrite: true, size: 1, port: port, count: UInt32(bytes.count), data: 0..<0),
        number: number, sent: bytes)
}

private func matches(
    _ text: String, _ frame: ExitFrame, names: AddressNames = AddressNames()
) throws -> Bool {
    var filter = try Filter(text)
    return filter.matches(frame, names: names)
}

@Test(arguments: [
    ("reason == io", true), ("reason == 2", true), ("reason != io", false),
    ("reason in {hlt, io}", true), ("port == 0x3f8", true), ("port == 1016", true),
    ("port != 0x3f8", false), ("port in 0x3f8..0x3ff", true), ("port in {1, 0x3f8}", true),
    ("port in {1..5, 9}", false), ("dir == out", true), ("dir == in", false),
    ("dir in {out}", true), ("direction == write", true), ("size == 1", true),
    ("count == 2", true), ("length == 2", true), ("data == \"AB\"", true),
    ("data != \"AB\"", false), ("data == \"A\"", false), ("data == 0x4241", true),
    ("data == x\"41 42\"", true), ("data ~ \"B\"", true), ("data ~ \"^.B$\"", true),
    ("data in {\"x\", \"AB\"}", true), ("data in {0x4241}", true), ("0x300 < port", true),
    ("address == 0", false), ("address != 0", false), ("not address == 0", true),
    ("exit == 7 and port == 0x3f8", true), ("exit == 7 and port == 0x3f9", false),
    ("exit == 1 or exit == 2 or exit == 7", true), ("not exit == 7 or port > 1", true),
    ("not (exit == 7 and port > 1)", false), ("! not exit == 7", true),
    ("exit == 7 && (port == 1 || dir == out)", true), ("port & 0xf == 8", true),
    ("port - 0x3f8 == 0", true), ("port + 1 - 2 == 0x3f7", true), ("event == answer", false),
    ("time > 5ms", false), ("symbol ~ \"\"", false), ("symbol != \"x\"", false),
    ("exit == 0b111", true), ("exit < 1k", true), ("msr == 1", false),
])
func filterOverAnOut(_ text: String, _ expected: Bool) throws {
    #expect(try matches(text, out(0x3F8, [0x41, 0x42])) == expected)
}

@Test func filterOverRegisters() throws {
    let exit = frame {
        $0.registers[.rax] = 0x1122_3344_5566_7788
        $0.registers[.r9] = 0xFFFF_FFFF_0000_0001
        $0.registers[.rip] = 0x1002
        $0.rewind = 2
        $0.changedRegisters = 1 << 9
        $0.changedSystemWords = 1 << 30
        var code = Segment()
        code.selector = 0x10
        code.base = 0x7_0000
        $0.system[.cs] = code
        $0.system[.cr3] = 0x5000
        $0.cpl = 3
    }
    for text in [
        "rax == 0x1122334455667788", "eax == 0x55667788", "ax == 0x7788", "al == 0x88",
        "ah == 0x77", "r9d == 1", "r9 > 0xffffffff", "rip == 0x1000", "pc == 0x71000",
        "changed(r9)", "not changed(rax)", "changed(r9d)", "changed(cr3)", "not changed(cs)",
        "cs == 0x10", "cs.base == 0x70000", "cs.limit == 0xffff", "cr3 == 0x5000",
        "cpl == 3", "mode == real", "mode != long", "rax > r9 or rax < r9", "vcpu == 0",
        "reason == hlt", "port != 1 or cpl == 3",
    ] {
        #expect(try matches(text, exit), "\(text)")
    }
}

@Test func filterOverAnswersAndEvents() throws {
    let exit = frame(
        .io(isWrite: false, size: 1, port: 0x3FD, count: 1, data: 0..<0), answer: [0x60]
    ) {
        $0.events = [.interruption(Interruption(.external, vector: 0x20))]
        $0.eventMask |= 1 << 2
        $0.time = FrameTime(sinceStart: 6_000_000, guest: 900, vmm: 40)
    }
    for text in [
        "data == 0x60", "data == \"`\"", "dir == in", "event == answer",
        "event == interruption", "event in {end, interruption}", "event != end",
        "not event == device_write", "vector == 0x20", "irq in 32..47", "time > 5ms",
        "guest_ns < 1us", "vmm_ns == 40",
    ] {
        #expect(try matches(text, exit), "\(text)")
    }
}

@Test func filterDecidesNamesOncePerAddress() throws {
    var asked = 0
    let names = AddressNames { address in
        asked += 1
        guard address >= 0x1000 else { return nil }
        return AddressName(
            function: address < 0x2000 ? "kernelPanic" : "main", offset: address & 0xF,
            file: "/src/kernel/panic.swift", line: 34)
    }
    var filter = try Filter("symbol ~ \"Panic$\" and file == \"panic.swift\" and line == 34")
    var literal = try Filter("symbol ~ \"ernel\" and symbol != \"main\"")
    for _ in 0..<10 {
        for (address, expected) in [(UInt64(0x1001), true), (0x2000, false), (0x10, false)] {
            let exit = frame {
                $0.registers[.rip] = address
                $0.mode = .long
            }
            #expect(filter.matches(exit, names: names) == expected)
            #expect(literal.matches(exit, names: names) == expected)
        }
    }
    #expect(asked == 3)
    #expect(filter.usesSymbols)
    #expect(try !Filter("port == 1").usesSymbols)
    #expect(try Filter("line > 1").usesSymbols)
}

@Test func longDataIsMatched() throws {
    let text = Array("a line with the word panic in it".utf8)
    let exit = frame(
        .io(isWrite: true, size: 1, port: 0xE9, count: UInt32(text.count), data: 0..<0), sent: text)
    #expect(try matches("data ~ \"panic\"", exit))
    #expect(try matches("data ~ \"pan.c in\"", exit))
    #expect(try !matches("data ~ \"panik\"", exit))
    #expect(try !matches("data == 5 or data != 5", exit))
    #expect(try matches("length == 32", exit))
}

@Test(arguments: [
    ("", 1, "empty"), ("port ==", 8, "the end"), ("prot == 1", 1, "did you mean 'port'?"),
    ("reason == ioo", 11, "did you mean 'io'?"), ("dir == sideways", 8, "in, out, read, write"),
    ("port = \"x\"", 8, "is a number"), ("symbol == 5", 11, "a string"),
    ("symbol < \"a\"", 8, "which is text"), ("port ~ \"a\"", 6, "matches text"),
    ("port == 1 port == 2", 11, "'and', 'or'"), ("(port == 1", 11, "')'"),
    ("port == 0xfg", 9, "hexadecimal"), ("port == 1x", 9, "no number"),
    ("port == 99999999999999999999", 9, "64 bits"), ("exit in 5..1", 9, "before it begins"),
    ("exit in 5", 10, "'..'"), ("exit in {5", 11, "'}'"), ("data == \"a", 9, "no end"),
    ("port == 1 # x", 11, "not part of"), ("data ~ \"(\"", 8, "not a regular expression"),
    ("changed(foo)", 9, "no register"), ("event > end", 7, "cannot be asked"),
    ("reason + 1 == 2", 1, "not a number"), ("port", 5, "a comparison"),
    ("x\"4\" == data", 1, "two hexadecimal digits"), ("5 in {1} 6", 10, "'and'"),
    ("port == symbol", 9, "on the right"), ("exit == 99999999999s", 9, "64 bits"),
])
func filterErrorsPointAtTheColumn(_ text: String, _ column: Int, _ part: String) {
    do {
        _ = try Filter(text)
        Issue.record("'\(text)' was taken")
    } catch {
        #expect(error.column == column, "\(error)")
        #expect(error.message.contains(part), "\(error)")
        #expect(!error.description.contains("\n"))
    }
}

@Test func filterErrorsShowWhatStandsThere() throws {
    func text(_ filter: String) -> String? {
        #expect(throws: FilterError.self) { try Filter(filter) }?.description
    }
    #expect(
        text("port == 1 and prot == 2")
            == "filter, column 15, at 'prot == 2': there is no field 'prot'; did you mean 'port'?")
    #expect(text("port ==")?.hasPrefix("filter, column 8, at its end: ") == true)
    #expect(text("")?.hasPrefix("filter, column 1: ") == true)
    #expect(
        text("prot\tin\n{1, 2, 3, 4, 5, 6, 7, 8}")?
            .hasPrefix("filter, column 1, at 'prot in {1, 2, 3, 4, 5, …': ") == true)
}

@Test func deepAndLongFiltersAreRefusedOrWork() throws {
    let deep =
        String(repeating: "(", count: 5000) + "port == 1" + String(repeating: ")", count: 5000)
    #expect(throws: FilterError.self) { try Filter(deep) }
    let long = Array(repeating: "exit==9", count: 1400).joined(separator: " or ")
    #expect(try !matches(long, frame()))
    #expect(try Filter(long).mayMatch(exits: 9...9))
    #expect(try !Filter(long).mayMatch(exits: 0...8))
    let sum = Array(repeating: "1", count: 500).joined(separator: "+") + " == 1"
    #expect(throws: FilterError.self) { try Filter(sum) }
    #expect(throws: FilterError.self) { try Filter(String(repeating: "not ", count: 5000)) }
}

@Test(
    arguments: [
        ("exit in 100..200", 100, 200), ("exit == 5", 5, 5), ("exit >= 5 and port == 1", 5, .max),
        ("exit < 5 or exit == 9", 0, 9), ("port == 1", 0, .max),
        ("port == 1 or exit == 3", 0, .max),
        ("not exit == 5", 0, .max), ("10 > exit and exit > 3 and exit != 5", 4, 9),
        ("exit in {3, 7..9}", 3, 9), ("not (exit > 5 and port == 1)", 0, .max),
    ] as [(String, UInt64, UInt64)])
func filterKnowsWhichExitsItMayMatch(_ text: String, _ low: UInt64, _ high: UInt64) throws {
    #expect(try Filter(text).exitBounds == low...high)
}

@Test func filterSkipsBlocks() throws {
    let filter = try Filter("(exit == 5 or exit == 5000) and port == 1")
    #expect(filter.mayMatch(exits: 0...9))
    #expect(!filter.mayMatch(exits: 6...4999))
    #expect(filter.mayMatch(exits: 4096...8191))
    #expect(try !Filter("not exit < 100").mayMatch(exits: 0...99))
    #expect(try Filter("not exit < 100").mayMatch(exits: 0...100))
    #expect(try Filter("exit > 5 and exit < 5").exitBounds == nil)
}

@Test func mutatedFiltersNeverTrap() {
    let seeds = [
        "reason == io and port in {0x60, 0x3f8..0x3ff} and data ~ \"a.c\"",
        "not (symbol ~ \"panic\" or rax + 1 & 0xff != 3) and changed(cr3)",
    ]
    let pieces = [
        "(", ")", "{", "}", "..", ",", "\"", "\\", "x\"", "not", "in", "~", "==", "0x", "&", "é",
        "9", "and", "exit", "\u{0}", "[", "*",
    ]
    var random = SystemRandomNumberGenerator()
    for round in 0..<3000 {
        var text = Array(seeds[round % seeds.count])
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            let at = Int.random(in: 0...text.count, using: &random)
            if Bool.random(using: &random), at < text.count {
                text.remove(at: at)
            } else {
                text.insert(contentsOf: pieces[Int.random(in: 0..<pieces.count)], at: at)
            }
        }
        if var filter = try? Filter(String(text)) {
            _ = filter.matches(out(0x3F8, [0x61, 0x62, 0x63]), names: AddressNames())
            _ = filter.exitBounds
            _ = filter.mayMatch(exits: 3...9)
        }
    }
}
