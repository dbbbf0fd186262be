import Machine
import TestSupport
import Testing
import Trace

@testable import Analysis

private func diff(
    _ a: String, _ b: String, _ level: DiffLevel = .full, context: Int = 5, window: Int = 2000,
    names: () -> AddressNames = { AddressNames() }
) throws -> DiffResult {
    try TraceDiff.compare(
        TraceReader(path: a), TraceReader(path: b),
        options: .init(level: level, context: context, window: window), namesA: names(),
        namesB: names())
}

private func divergence(_ result: DiffResult) throws -> Divergence {
    guard case .diverged(let found) = result.outcome else {
        Issue.record("the outcome is \(result.outcome)")
        throw NotDiverged()
    }
    return found
}

private struct NotDiverged: Error {}

private func polling(
    _ directory: TemporaryDirectory, _ name: String, exits: UInt64 = 13_001,
    character: @escaping (UInt64) -> UInt8 = { 0x61 + UInt8($0 % 26) },
    status: (UInt64) -> UInt8 = { _ in 0x60 }, finishes: Bool = true
) throws -> String {
    try writePolling(
        "\(directory.path)/\(name).vmtape", exits: exits, character: character, status: status,
        finishes: finishes)
}

@Test(arguments: DiffLevel.allCases)
func aTraceIsTheSameAsItself(_ level: DiffLevel) throws {
    let directory = try TemporaryDirectory()
    let a = try polling(directory, "a")
    let b = try polling(directory, "b")
    for other in [a, b] {
        let result = try diff(a, other, level)
        guard case .same = result.outcome else {
            Issue.record("the outcome is \(result.outcome)")
            return
        }
        #expect(result.agreed == (level == .io ? 6_501 : 13_001))
        #expect(result.firstInput == nil)
        #expect(result.aftermath == nil)
        if level != .symbol { #expect(result.blocksRead == (0, 0)) }
    }
}

@Test(arguments: [1, 4095, 4097, 12_287, 12_999] as [UInt64])
func theFirstDifferenceIsFound(_ exit: UInt64) throws {
    let directory = try TemporaryDirectory()
    let a = try polling(directory, "a")
    let b = try polling(directory, "b", character: { $0 == exit ? 0x21 : 0x61 + UInt8($0 % 26) })
    for level in DiffLevel.allCases {
        let result = try diff(a, b, level)
        let found = try divergence(result)
        #expect(found.exits.a == exit)
        #expect(found.exits.b == exit)
        #expect(found.frames.a?.number == exit)
        #expect(found.frames.b?.sent.bytes == [0x21])
        #expect(found.contextA.count == min(5, Int(exit)))
        #expect(result.agreed == (level == .io ? exit / 2 : exit))
        #expect(found.differences.contains { $0.name == "request" })
        #expect(found.differences.contains { $0.name == "rax" } == (level == .full))
        #expect(result.firstInput == nil)
        #expect(result.aftermath?.meeting?.exitA == exit + 1)
    }
}

@Test func oneBlockOfEachIsDecoded() throws {
    let directory = try TemporaryDirectory()
    let a = try polling(directory, "a")
    let b = try polling(directory, "b", character: { $0 == 12_999 ? 0x21 : 0x61 + UInt8($0 % 26) })
    for level in [DiffLevel.full, .io] {
        let result = try diff(a, b, level)
        #expect(result.blocksRead == (1, 1))
        // Four blocks: as many headers as a binary search looks at, and their partners.
        #expect(result.headersRead.a <= 4)
        #expect(result.headersRead.b <= 4)
    }
}

@Test func inputsThatDifferAreTheCause() throws {
    let directory = try TemporaryDirectory()
    let a = try polling(directory, "a")
    let b = try polling(directory, "b", status: { $0 == 10_000 ? 0x61 : 0x60 })
    let result = try diff(a, b)
    let found = try divergence(result)
    #expect(found.exits.a == 10_000)
    #expect(found.differences == [Difference("answer", "60 '`'", "61 'a'")])
    #expect(
        result.firstInput
            == InputDifference(
                agreed: 5000, exitA: 10_000, exitB: 10_000, a: "answer 60 '`'", b: "answer 61 'a'"))
    let io = try diff(a, b, .io)
    guard case .same = io.outcome else {
        Issue.record("the outcome is \(io.outcome)")
        return
    }
    #expect(io.firstInput?.exitA == 10_000)
}

@Test func outputsAreComparedWhereverTheyAre() throws {
    let directory = try TemporaryDirectory()
    // The second guest polls twice before each character: blocks hold other numbers of outputs.
    func write(_ name: String, polls: Int, change: Int?) throws -> String {
        var trace = try SyntheticTrace("\(directory.path)/\(name).vmtape", timing: false)
        for index in 0..<9000 {
            for _ in 0..<polls { try trace.in(0x3FD, answer: [0x60], at: 0x10_0010) }
            let byte = index == change ? 0x21 : UInt8(0x61 + index % 26)
            try trace.out(0x3F8, [byte], at: 0x10_0018)
        }
        return try trace.finish()
    }
    let once = try write("a", polls: 1, change: nil)
    let same = try diff(once, write("b", polls: 2, change: nil), .io)
    guard case .same = same.outcome else {
        Issue.record("the outcome is \(same.outcome)")
        return
    }
    #expect(same.agreed == 9001)
    for change in [0, 1, 2047, 2048, 4100, 8999] {
        let result = try diff(once, write("b", polls: 2, change: change), .io)
        let found = try divergence(result)
        #expect(result.agreed == UInt64(change))
        #expect(found.exits.a == UInt64(change * 2 + 1))
        #expect(found.exits.b == UInt64(change * 3 + 2))
        #expect(found.frames.b?.sent.bytes == [0x21])
    }
    let back = try diff(write("b", polls: 2, change: 8000), once, .io)
    #expect(try divergence(back).exits.b == 16_001)
}

@Test func aShorterRunIsAPrefix() throws {
    let directory = try TemporaryDirectory()
    let long = try polling(directory, "long", exits: 10_001)
    for (name, exits) in [("a", 3), ("b", 4096), ("c", 8191), ("d", 9999)] as [(String, UInt64)] {
        let short = try polling(directory, name, exits: exits, finishes: false)
        for level in DiffLevel.allCases {
            for (first, second, side) in [(short, long, DiffSide.a), (long, short, .b)] {
                let result = try diff(first, second, level)
                guard case .prefix(let shorter) = result.outcome else {
                    Issue.record("\(exits), \(level): the outcome is \(result.outcome)")
                    return
                }
                #expect(shorter == side)
                #expect(result.agreed == (level == .io ? exits / 2 : exits))
                #expect(result.notes.count == 1)
            }
        }
    }
    // A run that ended by itself where the other goes on has diverged.
    let ended = try polling(directory, "ended", exits: 5001)
    for level in DiffLevel.allCases {
        _ = try divergence(diff(ended, long, level))
        _ = try divergence(diff(long, ended, level))
    }
}

@Test func buildsAreComparedByFunction() throws {
    let directory = try TemporaryDirectory()
    func write(_ name: String, base: UInt64, extra: Bool) throws -> String {
        var trace = try SyntheticTrace("\(directory.path)/\(name).vmtape", timing: false)
        for index in 0..<100 {
            trace.registers[.rbx] = base &+ UInt64(index)
            try trace.out(0x3F8, [UInt8(index)], at: base + 0x10)
            if extra, index == 50 { try trace.out(0x80, [1], at: base + 0x20) }
        }
        return try trace.finish()
    }
    func names(_ base: UInt64) -> AddressNames {
        AddressNames { AddressName(function: "putc", offset: $0 &- base) }
    }
    let a = try TraceReader(path: write("a", base: 0x1000, extra: false))
    let b = try TraceReader(path: write("b", base: 0x5000, extra: false))
    let c = try TraceReader(path: write("c", base: 0x5000, extra: true))
    let same = TraceDiff.compare(
        a, b, options: .init(level: .symbol), namesA: names(0x1000), namesB: names(0x5000))
    #expect(same.isSame)
    #expect(!TraceDiff.compare(a, b).isSame)
    let result = TraceDiff.compare(
        a, c, options: .init(level: .symbol), namesA: names(0x1000), namesB: names(0x5000))
    let found = try divergence(result)
    #expect(found.exits.a == 51)
    #expect(found.differences.map(\.name) == ["request", "site"])
    #expect(
        result.aftermath
            == Aftermath(
                windowA: 49, windowB: 50, matched: 49, onlyA: 0, onlyB: 1,
                meeting: .init(exitA: 51, exitB: 52, length: 49, lasts: true),
                kinds: [.init(label: "out 0x80", onlyA: 0, onlyB: 1)], isCutShort: false))
}

@Test func theSetUpIsComparedFirst() throws {
    let directory = try TemporaryDirectory()
    var machine = SyntheticTrace.machine
    let a = try writePolling(
        "\(directory.path)/a.vmtape", exits: 10,
        header: TraceHeader(
            machine: machine,
            observedCPUID: [CPUIDEntry(function: 1, eax: 1, ebx: 2, ecx: 3, edx: 4)],
            hostFacts: HostFacts([HostFact("kvm.kind", "vmx", .behaviour)]),
            images: [ImageRecord(name: "k", kind: "elf64", bytes: [1, 2, 3])],
            commandLine: "quiet"))
    machine.ramBytes = 32 << 20
    machine.devices.removeLast()
    let b = try writePolling(
        "\(directory.path)/b.vmtape", exits: 10,
        header: TraceHeader(
            machine: machine,
            observedCPUID: [
                CPUIDEntry(function: 1, eax: 1, ebx: 2, ecx: 9, edx: 4),
                CPUIDEntry(function: 7, isIndexSignificant: true, eax: 0, ebx: 0, ecx: 0, edx: 0),
            ], hostFacts: HostFacts([HostFact("kvm.kind", "svm", .behaviour)]),
            images: [ImageRecord(name: "k", kind: "elf64", bytes: [1, 2, 4])]))
    let result = try diff(a, b)
    #expect(result.isSame)
    #expect(
        result.headerDifferences.map(\.name) == [
            "RAM", "device", "image 0", "command line", "CPUID 0x1", "CPUID 0x7/0",
            "host kvm.kind",
        ])
}

@Test func differentInitialStateIsToldAsSuch() throws {
    let directory = try TemporaryDirectory()
    func write(_ name: String, _ rip: UInt64) throws -> String {
        var trace = try SyntheticTrace("\(directory.path)/\(name).vmtape", timing: false, rip: rip)
        try trace.out(0x3F8, [0x41], at: 0x10_0018)
        return try trace.finish()
    }
    let result = try diff(write("a", 0x10_0000), write("b", 0x20_0000))
    let found = try divergence(result)
    #expect(found.exits.a == nil)
    #expect(found.differences.map(\.name) == ["rip"])
}

@Test func emptyAndDamagedTracesAreCompared() throws {
    let directory = try TemporaryDirectory()
    let empty = try polling(directory, "empty", exits: 0)
    let long = try polling(directory, "long", exits: 9000)
    #expect(try diff(empty, empty).isSame)
    for level in DiffLevel.allCases {
        _ = try divergence(diff(empty, long, level))
    }
    // One byte in the middle of the second block is turned round.
    let whole = try #require(readBytes(long))
    let reader = try TraceReader(bytes: whole)
    let block = try reader.summary(ofBlock: 1)
    var damaged = whole
    damaged[Int(block.offset) + block.storedBytes / 2] ^= 0xFF
    let broken = try TraceReader(bytes: damaged)
    let same = TraceDiff.compare(reader, broken)
    #expect(same.isSame)
    let other = try TraceReader(
        path: polling(
            directory, "other", exits: 9000,
            character: { $0 == 5001 ? 0x21 : 0x61 + UInt8($0 % 26) }))
    let result = TraceDiff.compare(broken, other)
    guard case .unreadable(let reason) = result.outcome else {
        Issue.record("the outcome is \(result.outcome)")
        return
    }
    #expect(!reason.contains("\n"))
    #expect(result.agreed == 4096)
}

private func text(
    _ result: DiffResult, width: Int = 100, colour: Bool = false
) -> String {
    let stream = OutputStream()
    result.write(
        to: stream, style: TextStyle(width: width, hasColour: colour), pathA: "a.vmtape",
        pathB: "b.vmtape", namesA: syntheticNames(), namesB: syntheticNames())
    return stream.text
}

@Test(arguments: [(60, false), (100, false), (160, false), (100, true)])
func diffLooksAsItDid(_ width: Int, _ colour: Bool) throws {
    let directory = try TemporaryDirectory()
    let a = try writeShowcase("\(directory.path)/a.vmtape", greeting: "Hello\n")
    let b = try writeShowcase("\(directory.path)/b.vmtape", greeting: "Help!\n")
    let suffix = "\(width)\(colour ? "-colour" : "")"
    expectSnapshot(text(try diff(a, b), width: width, colour: colour), "diff-\(suffix).txt")
}

@Test func otherOutcomesLookAsTheyDid() throws {
    let directory = try TemporaryDirectory()
    let a = try polling(directory, "a", exits: 5000)
    let b = try polling(directory, "b", exits: 5000, status: { $0 == 4998 ? 0 : 0x60 })
    let short = try polling(directory, "c", exits: 4500, finishes: false)
    var shown = text(try diff(a, a)) + "\n" + text(try diff(a, b)) + "\n"
    shown += text(try diff(a, b, .io)) + "\n" + text(try diff(a, short))
    expectSnapshot(shown.replacing(directory.path, with: "DIR"), "diff-outcomes.txt")
    let stream = OutputStream()
    try diff(a, b).writeJSON(to: stream, pathA: "a", pathB: "b")
    try diff(a, a).writeJSON(to: stream, pathA: "a", pathB: "a")
    expectSnapshot(stream.text, "diff.json")
}

@Test func alignmentsAreShortest() {
    var random = SeededGenerator(seed: 42)
    for _ in 0..<300 {
        let a = (0..<random.below(12)).map { _ in Int32(random.below(3)) }
        let b = (0..<random.below(12)).map { _ in Int32(random.below(3)) }
        let alignment = Alignment(a, b, limit: 100)
        #expect(!alignment.isCutShort)
        #expect(alignment.pairs.count == longestCommon(a, b), "\(a) \(b)")
        var last = (-1, -1)
        for pair in alignment.pairs {
            #expect(a[pair.a] == b[pair.b])
            #expect(pair.a > last.0 && pair.b > last.1)
            last = (pair.a, pair.b)
        }
        let short = Alignment(a, b, limit: 2)
        #expect(short.pairs.count <= alignment.pairs.count)
        #expect(short.reach.a <= a.count && short.reach.b <= b.count)
    }
    let long = (0..<3000).map { Int32($0) }
    let other = (0..<3000).map { Int32($0 + 5000) }
    #expect(Alignment(long, other, limit: 500).isCutShort)
}

private func longestCommon(_ a: [Int32], _ b: [Int32]) -> Int {
    var table = [[Int]](repeating: [Int](repeating: 0, count: b.count + 1), count: a.count + 1)
    for i in a.indices {
        for j in b.indices {
            table[i + 1][j + 1] =
                a[i] == b[j] ? table[i][j] + 1 : max(table[i][j + 1], table[i + 1][j])
        }
    }
    return table[a.count][b.count]
}
