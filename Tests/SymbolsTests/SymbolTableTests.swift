import Glibc
import TestSupport
import Testing

@testable import Symbols

@Suite struct SymbolTableTests {
    private func table(_ symbols: [Symbol], sections: [Range<UInt64>] = [0..<0x1000]) -> SymbolTable
    {
        SymbolTable(symbols, sections: sections, lastReach: 0) {
            $0.sizeInBytes < $1.sizeInBytes
        }
    }

    private func symbol(_ name: String, _ address: UInt64, _ size: UInt64 = 0) -> Symbol {
        Symbol(
            linkageName: name, address: address, sizeInBytes: size, kind: .function,
            binding: .global)
    }

    private func name(_ table: SymbolTable, _ address: UInt64) -> String? {
        table.symbol(at: address).map { "\($0.symbol.linkageName)+\($0.offset)" }
    }

    @Test func sizesBoundSymbols() {
        let table = table([symbol("a", 0x10, 8), symbol("b", 0x20, 8)])
        #expect(name(table, 0xF) == nil)
        #expect(name(table, 0x10) == "a+0")
        #expect(name(table, 0x17) == "a+7")
        #expect(name(table, 0x18) == nil)
        #expect(name(table, 0x20) == "b+0")
        #expect(name(table, 0x28) == nil)
    }

    @Test func symbolsWithoutSizeReachTheNextOrTheSectionsEnd() {
        let table = table(
            [symbol("a", 0x10), symbol("b", 0x20), symbol("outside", 0x80)], sections: [0..<0x40])
        #expect(name(table, 0x1F) == "a+15")
        #expect(name(table, 0x3F) == "b+31")
        #expect(name(table, 0x40) == nil)
        #expect(name(table, 0x80) == nil)
    }

    @Test func amongAliasesTheLargestAndThenTheLastWins() {
        #expect(name(table([symbol("x", 1, 4), symbol("y", 1, 2)]), 1) == "x+0")
        #expect(name(table([symbol("x", 1, 4), symbol("y", 1, 4)]), 1) == "y+0")
        #expect(name(table([symbol("y", 1, 4), symbol("x", 1, 0)]), 1) == "y+0")
    }

    @Test func outerSymbolsResumeAfterInnerOnes() {
        let table = table([symbol("outer", 0x10, 0x20), symbol("inner", 0x18, 4)])
        #expect(name(table, 0x17) == "outer+7")
        #expect(name(table, 0x18) == "inner+0")
        #expect(name(table, 0x1C) == "outer+12")
        #expect(name(table, 0x30) == nil)
    }

    @Test func endsOfTheAddressSpaceHold() {
        let table = table([symbol("all", 0, .max), symbol("top", .max - 1, .max)])
        #expect(name(table, 0) == "all+0")
        #expect(name(table, .max - 1) == "top+0")
        #expect(name(table, .max) == nil)
        #expect(name(SymbolTable.empty, 0) == nil)
    }

    /// What a linear search over the same rules says, for random tables.
    @Test func agreesWithALinearSearch() {
        var generator = SeededGenerator(seed: 3)
        for _ in 0..<200 {
            let symbols = (0..<Int.random(in: 1...20, using: &generator)).map { index in
                symbol(
                    "s\(index)", UInt64.random(in: 0..<64, using: &generator),
                    UInt64.random(in: 1..<16, using: &generator))
            }
            let table = table(symbols)
            for address in UInt64(0)..<90 {
                var best: Symbol?
                for symbol in symbols where symbol.address <= address {
                    let covers = address < symbol.address + symbol.sizeInBytes
                    // Of aliases only the one that gives the name counts.
                    let isName = !symbols.contains {
                        $0.address == symbol.address && $0.sizeInBytes > symbol.sizeInBytes
                    }
                    if covers, isName, best.map({ $0.address <= symbol.address }) ?? true {
                        best = symbol
                    }
                }
                #expect(table.symbol(at: address)?.symbol == best)
            }
        }
    }
}

@Suite struct ELFSymbolTests {
    private func name(_ fixture: Fixture, _ address: UInt64) throws -> String? {
        try fixture.image().symbols.symbol(at: address).map {
            "\($0.symbol.linkageName)+\($0.offset)"
        }
    }

    @Test func readsBothClasses() throws {
        #expect(try name(.kernel64, 0xFFFF_FFFF_8010_0003) == "entry_local+1")
        #expect(try name(.kernel32, 0x10_0003) == "entry_local+1")
        #expect(try name(.kernel32, 0x10_0000) == "start_alias+0")
        #expect(try name(.kernel32, 0x10_001A) == "sized_inner+0")
        #expect(try name(.kernel32, 0x10_001C) == "sized_outer+3")
    }

    @Test func leavesOutWhatNamesNoCode() throws {
        let symbols = try Fixture.kernel64.image().symbols
        #expect(symbols.symbols(named: "absolute_number").isEmpty)
        #expect(!symbols.symbols.contains { $0.linkageName.hasSuffix(".c") })
        #expect(symbols.symbols(named: "written").first?.kind == .object)
        #expect(symbols.symbols(named: "checksum").first?.binding == .weak)
    }

    @Test func strippedFilesHaveNone() throws {
        let image = try Fixture.stripped.image()
        #expect(image.symbols.isEmpty && !image.hasLines)
    }
}

@Suite struct SymbolMapTests {
    private func map(_ text: String) throws -> SymbolTable {
        try SymbolMap.read(Array(text.utf8), file: "map")
    }

    private func name(_ table: SymbolTable, _ address: UInt64) -> String? {
        table.symbol(at: address).map { "\($0.symbol.name)+\($0.offset)" }
    }

    @Test func readsSystemMap() throws {
        let table = try map(
            """
            0000000000000000 A fixed_percpu_data
            ffffffff81000000 T _stext
            ffffffff81000000 T _text
            ffffffff81000000 t startup_64
            ffffffff81000040 W weak_one
            ffffffff81000080 r table
            """)
        #expect(name(table, 0xFFFF_FFFF_8100_0000) == "_text+0")
        #expect(name(table, 0xFFFF_FFFF_8100_0045) == "weak_one+5")
        #expect(name(table, 0xFFFF_FFFF_8100_107F) == "table+4095")
        #expect(name(table, 0xFFFF_FFFF_8100_1080) == nil)
        #expect(name(table, 0) == nil)
    }

    @Test func readsWhatNMPrints() throws {
        let table = try map(
            """
                             U undefined
                             w not_here
            0000000000001000 0000000000000010 T sized
            0000000000001010 T foo::bar(int, char)\r
            0x1020 t local\t[module]
            0x1024 t .L256

            0000000000001030 D data
            """)
        #expect(name(table, 0x100F) == "sized+15")
        #expect(name(table, 0x1010) == "foo::bar(int, char)+0")
        #expect(name(table, 0x1021) == "local+1")
        #expect(table.symbols.count == 4)
        #expect(name(table, 0x1011) == "foo::bar(int, char)+1")
    }

    @Test func functionsAndGlobalsGoFirst() throws {
        #expect(name(try map("10 T long_name\n10 T short\n10 D d\n10 t s"), 0x10) == "short+0")
        #expect(name(try map("10 T b\n10 T a"), 0x10) == "a+0")
        #expect(name(try map("10 T a\n10 T b"), 0x10) == "a+0")
        #expect(name(try map("10 W weak\n10 t l"), 0x10) == "weak+0")
    }

    @Test(arguments: [
        "", "\n\n", "hello", "10 T", "xyz T name", "10 TT name", "10 ! name",
        "11112222333344445 T name", "0x T name", "10 20 30 T name",
    ])
    func refusesWhatIsNoMap(text: String) {
        #expect(throws: SymbolError.self) { try map(text) }
    }

    @Test func recognisesMaps() {
        #expect(SymbolMap.isMap(Array("00800000 t multiboot_header\n".utf8)))
        #expect(!SymbolMap.isMap(Array("#!/bin/sh\n".utf8)))
        #expect(!SymbolMap.isMap([0, 1, 2]))
        #expect(!SymbolMap.isMap([]))
    }

    @Test func takesAnyBytes() {
        var generator = SeededGenerator(seed: 4)
        for _ in 0..<300 {
            let bytes = (0..<200).map { _ in
                Array("0123456789abcdefTtDxX \t\n\r-\u{1b}".utf8).randomElement(using: &generator)
                    ?? 0
            }
            _ = try? SymbolMap.read(bytes, file: "map")
        }
    }

    static let tboot = Files.guest("/boot/tboot-syms")

    /// Every symbol of Debian's tboot: at its start, in its middle and at its end, the name is
    /// that of a symbol at the same address.
    @Test(.enabled(if: tboot != nil, "Debian's tboot is not there"))
    func namesAllOfTboot() throws {
        let image = try SymbolImage(contentsOf: #require(Self.tboot))
        let symbols = image.symbols.symbols
        #expect(symbols.count > 300)
        for (index, symbol) in symbols.enumerated() {
            let next = symbols[index...].first { $0.address > symbol.address }?.address
            let end = next ?? symbol.address + 1
            let table = image.symbols
            for address in [symbol.address, (symbol.address + end) / 2, end - 1] {
                let found = try #require(table.symbol(at: address))
                #expect(found.symbol.address == symbol.address)
                #expect(found.offset == address - symbol.address)
            }
        }
        #expect(image.symbols.symbol(at: 0x80_4000)?.symbol.linkageName == "start")
    }
}

@Suite struct DemanglerTests {
    @Test(arguments: [
        ("kmain", "kmain", "kmain"), ("_Zebra", "_Zebra", "_Zebra"), ("", "", ""),
        ("_ZN3foo3barEi", "foo::bar(int)", "foo::bar"),
        ("_ZN6shapes4areaIiEET_S1_S1_", "int shapes::area<int>(int, int)", "shapes::area<int>"),
        (
            "_ZN6shapes12_GLOBAL__N_16hiddenEi", "shapes::(anonymous namespace)::hidden(int)",
            "shapes::(anonymous namespace)::hidden"
        ),
        (
            "_ZNK6shapes3BoxplES0_", "shapes::Box::operator+(shapes::Box) const",
            "shapes::Box::operator+"
        ),
        ("_ZN1AclEv", "A::operator()()", "A::operator()"),
        ("$e4main6kernelyyF", "main.kernel() -> ()", "main.kernel"),
        (
            "$s3app9swiftMainys6UInt64VADFA2DXEfU_",
            "closure #1 (Swift.UInt64) -> Swift.UInt64 in "
                + "app.swiftMain(Swift.UInt64) -> Swift.UInt64",
            "closure #1 in app.swiftMain"
        ),
        (
            "$e3app7largestyxx_xtSLRzlFs6UInt64V_Tg5",
            "generic specialization <Swift.UInt64> of "
                + "app.largest<A where A: Swift.Comparable>(A, A) -> A",
            "app.largest"
        ),
        ("a\u{1b}[2Jb", "a\u{FFFD}[2Jb", "a\u{FFFD}[2Jb"),
    ])
    func demangles(name: String, full: String, short: String) {
        #expect(Demangler.demangled(name) == full)
        #expect(Demangler.abbreviated(name) == short)
    }

    @Test func leavesVeryLongNamesAlone() {
        let name = "_Z" + String(repeating: "N1a", count: 100_000)
        #expect(Demangler.demangled(name) == name)
    }

    @Test func takesAnyName() {
        var generator = SeededGenerator(seed: 5)
        let letters = Array("_Z$sSVFyxlRzABCN0123456789EIiPKvTgf")
        for _ in 0..<2000 {
            let tail = String(
                (0..<Int.random(in: 0..<60, using: &generator)).map { _ in
                    letters.randomElement(using: &generator) ?? "_"
                })
            for prefix in ["_Z", "$s", "$e", "_$s", "_T0"] {
                _ = Demangler.abbreviated(prefix + tail)
            }
        }
    }
}

@Suite struct SourcePathTests {
    @Test(
        arguments: [
            ("/a/b.c", nil, "/a/b.c"), ("//<compiler-generated>", nil, "/<compiler-generated>"),
            ("././a//b.c", nil, "a/b.c"), ("b.c", "/src", "/src/b.c"),
            ("/a/./b.c", "/src", "/a/b.c"),
            ("sub/b.c", "sub", "sub/b.c"), ("../b.c", "/src/", "/src/../b.c"),
            ("", "/src", "/src/"),
        ] as [(String, String?, String)])
    func normalizes(path: String, directory: String?, expected: String) {
        #expect(SourcePath.normalized(path, directory: directory) == expected)
    }
}
