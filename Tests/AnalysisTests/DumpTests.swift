import Machine
import TestSupport
import Testing
import Trace

@testable import Analysis

private func frames(_ path: String, from exit: UInt64 = 0) throws -> [ExitFrame] {
    var frames = try FrameReader(TraceReader(path: path), from: exit)
    var frame = ExitFrame()
    var all: [ExitFrame] = []
    while try frames.next(into: &frame) { all.append(frame) }
    return all
}

private func dump(
    _ frames: [ExitFrame], width: Int = 100, colour: Bool = false,
    _ options: DumpOptions = DumpOptions()
) -> String {
    let stream = OutputStream()
    var text = TraceText(
        stream, style: TextStyle(width: width, hasColour: colour), options: options,
        names: syntheticNames(), lastExit: 99)
    for frame in frames { text.write(frame) }
    return stream.text
}

@Test func framesHoldWhatBelongsToAnExit() throws {
    let directory = try TemporaryDirectory()
    let all = try frames(writeShowcase("\(directory.path)/a.vmtape"))
    #expect(all.map(\.number) == Array(0..<UInt64(all.count)))
    let input = all[3]
    #expect(input.answerForm == .io)
    #expect(input.answer.bytes == [0x60])
    #expect(input.data.bytes == [0x60])
    #expect(input.instructionAddress == 0x10_0010)
    #expect(all[4].sent.bytes == Array("H".utf8))
    #expect(all[4].instructionAddress == 0x10_0018)
    #expect(all[4].registers.rip == 0x10_0019)
    // Times are kept in one byte each, at most 6 % off.
    #expect(all[4].time.map { (470...530).contains($0.vmm) } == true)
    let text = try #require(all.first { $0.sent.count > 8 })
    #expect(text.sent.bytes == Array("a string\n".utf8))
    let halt = try #require(all.first { $0.reason == .hlt })
    #expect(halt.events.count == 3)
    #expect(halt.cpl == 3)
    #expect(halt.mode == .long)
    #expect(halt.time?.sinceStart != nil)
    let last = try #require(all.last)
    guard case .end(let end, _) = last.events.last else {
        Issue.record("the last exit has no end")
        return
    }
    #expect(end.guestStatus == 3)
    #expect(try frames("\(directory.path)/a.vmtape", from: 4).first?.number == 4)
}

@Test(arguments: [(60, false), (100, false), (160, false), (100, true)])
func dumpLooksAsItDid(_ width: Int, _ colour: Bool) throws {
    let directory = try TemporaryDirectory()
    let all = try frames(writeShowcase("\(directory.path)/a.vmtape"))
    let suffix = colour ? "-colour" : ""
    expectSnapshot(dump(all, width: width, colour: colour), "dump-\(width)\(suffix).txt")
}

@Test func dumpShowsRegistersAndInstructions() throws {
    let directory = try TemporaryDirectory()
    let all = try frames(writeShowcase("\(directory.path)/a.vmtape", timing: false))
    var code = CodeBytes()
    code.add([0xEE, 0xEC, 0x90][...], at: 0x10_0018)
    code.add([0xE6, 0x5A][...], at: 0x10_0130)
    code.addOriginal([0x0F, 0x31], at: 0x10_0130)
    expectSnapshot(
        dump(all, DumpOptions(registers: .changed, code: code)), "dump-changed.txt")
    expectSnapshot(
        dump(Array(all[3...6]), DumpOptions(registers: .all)), "dump-all.txt")
}

@Test func jsonLinesLookAsTheyDid() throws {
    let directory = try TemporaryDirectory()
    let stream = OutputStream()
    var json = ExitJSON(stream, registers: .changed, names: syntheticNames())
    for frame in try frames(writeShowcase("\(directory.path)/a.vmtape")) { json.write(frame) }
    expectSnapshot(stream.text, "dump.jsonl")
}

@Test func guestBytesDoNotReachTheTerminal() {
    var frame = ExitFrame()
    frame.detail = .io(isWrite: true, size: 1, port: 0xE9, count: 1, data: 0..<0)
    frame.sent = ExitData([0x1B])
    let names = AddressNames { _ in AddressName(function: "evil\u{1B}[31m\u{9B}", offset: 0) }
    let stream = OutputStream()
    var text = TraceText(stream, names: names)
    text.write(frame)
    #expect(!stream.bytes.contains(0x1B))
    #expect(!stream.text.unicodeScalars.contains("\u{9B}"))
}

@Test func consoleOfATraceIsRebuilt() throws {
    let directory = try TemporaryDirectory()
    var console = ConsoleExtractor(machine: SyntheticTrace.machine)
    for frame in try frames(writeShowcase("\(directory.path)/a.vmtape")) { console.add(frame) }
    #expect(String(decoding: console.output, as: UTF8.self) == "Hi\na string\n")
}
