import Machine
import TestSupport
import Testing

@testable import Symbols

@Suite struct SymbolizerTests {
    @Test func namesFunctionsAndPlaces() throws {
        let symbolizer = try Fixture.kernel64.symbolizer()
        let address = try #require(symbolizer.addresses(ofSymbol: "mix").first)
        let answer = try #require(symbolizer.symbolize(address))
        #expect(answer.function == "mix")
        #expect(answer.offset == 0)
        #expect(answer.image == "kernel64.elf")
        #expect(answer.text == "mix+0x0 (kernel.c:39)")
        #expect(answer.frames.last?.file == "/fixtures/kernel.c")
        let next = try #require(symbolizer.symbolize(.init(address.rawValue + 3)))
        #expect(next.site == "mix+0x3")
    }

    /// Each IN of the status port is inlined two deep into whoever writes a byte.
    @Test func tellsInlinedFunctions() throws {
        let symbolizer = try Fixture.kernel64.symbolizer()
        let start = try #require(symbolizer.addresses(ofSymbol: "kmain").first)
        let inlined = (0..<0x70).compactMap { offset in
            symbolizer.symbolize(.init(start.rawValue + offset))
        }.filter { $0.frames.count == 3 }
        let answer = try #require(inlined.first)
        #expect(answer.stack == ["kmain", "uart_put", "port_in"])
        #expect(answer.frames.map(\.isInlined) == [true, true, false])
        #expect(answer.fullText == "\(answer.site) (kernel.c:12, inlined port_in in uart_put)")
        #expect(answer.text == "\(answer.site) (kernel.c:12)")
    }

    @Test func demanglesSwiftAndCXX() throws {
        let swift = try Fixture.swift.symbolizer()
        let write = try #require(swift.symbolize(.init(0x20_0000)))
        #expect(write.function == "app.Port.write(Swift.UInt8) -> Swift.UInt16")
        #expect(write.linkageName == "$e3app4PortV5writeys6UInt16Vs5UInt8VF")
        #expect(write.shortText == "app.Port.write+0x0 (app.swift:5)")
        #expect(swift.addresses(ofSymbol: write.function) == [.init(0x20_0000)])
        let kernel = try Fixture.kernel64.symbolizer()
        let size = try #require(kernel.addresses(ofSymbol: "shapes::Box::size() const").first)
        #expect(kernel.symbolize(size)?.shortText == "shapes::Box::size+0x0 (shapes.cpp:9)")
    }

    @Test func knowsWhatIsNotInTheImage() throws {
        let symbolizer = try Fixture.kernel64.symbolizer()
        for address: UInt64 in [0, 1, 0x1234, 0xFFFF_FFFF_800F_FFFF, 0xFFFF_FFFF_8020_0000, .max] {
            #expect(symbolizer.symbolize(.init(address)) == nil)
        }
        #expect(Symbolizer().symbolize(.init(0)) == nil)
        #expect(Symbolizer().isEmpty && !symbolizer.isEmpty)
        #expect(symbolizer.warnings.isEmpty)
    }

    /// A kernel runs at its physical addresses until it has turned paging on.
    @Test func findsCodeAtItsPhysicalAddress() throws {
        let symbolizer = try Fixture.kernel64.symbolizer()
        let high = symbolizer.symbolize(.init(0xFFFF_FFFF_8010_0011))
        #expect(high?.text == "halt+0x0 (entry.S:18)")
        #expect(symbolizer.symbolize(.init(0x10_0011)) == high)
    }

    @Test func movesWithItsBias() throws {
        let symbolizer = Symbolizer()
        symbolizer.add(try Fixture.kernel32.image(bias: 0x7000_0000))
        symbolizer.add(try Fixture.swift.image(bias: 0 &- 0x10_0000))
        #expect(symbolizer.symbolize(.init(0x7010_0011))?.function == "halt")
        #expect(
            symbolizer.symbolize(.init(0x10_0000))?.linkageName.hasPrefix("$e3app4Port") == true)
        #expect(symbolizer.addresses(ofSymbol: "halt") == [.init(0x7010_0011)])
    }

    @Test func earlierImagesComeFirst() throws {
        let map = try SymbolImage(map: Array("00100011 T other_halt\n".utf8), name: "map")
        let symbolizer = Symbolizer()
        symbolizer.add(map)
        // The map has the name; only the ELF file has lines.
        #expect(symbolizer.symbolize(.init(0x10_0011))?.text == "other_halt+0x0")
        symbolizer.add(try Fixture.kernel32.image())
        #expect(symbolizer.symbolize(.init(0x10_0011))?.text == "other_halt+0x0 (entry.S:18)")
        #expect(symbolizer.symbolize(.init(0x10_0011))?.image == "map")
    }

    @Test func cachesAnswersAndTheirAbsence() throws {
        let symbolizer = try Fixture.kernel32.symbolizer()
        let addresses = (0..<200).map { GuestVirtualAddress(0xF_FF80 + UInt64($0)) }
        let first = addresses.map(symbolizer.symbolize)
        #expect(addresses.map(symbolizer.symbolize) == first)
        #expect(first.contains { $0 == nil } && first.contains { $0 != nil })
    }
}

@Suite struct SymbolFileTests {
    @Test func takesArgumentsApart() throws {
        func parse(_ argument: String) throws -> String {
            let (path, bias) = try Symbolizer.parse(argument: argument)
            return "\(path) \(hexadecimal(bias))"
        }
        #expect(try parse("vmlinux") == "vmlinux 0x0")
        #expect(try parse("a/b@0x100000") == "a/b 0x100000")
        #expect(try parse("a@4096") == "a 0x1000")
        #expect(try parse("a@-0x1000") == "a 0xfffffffffffff000")
        #expect(try parse("me@home/vmlinux") == "me@home/vmlinux 0x0")
        #expect(throws: SymbolError.badOffset(argument: "a@12z")) { try parse("a@12z") }
        #expect(throws: SymbolError.self) { try parse("a@0x") }
        #expect(throws: SymbolError.self) { try parse("a@0x10000000000000000") }
    }

    @Test func readsFilesByContent() throws {
        let directory = try TemporaryDirectory()
        let symbolizer = Symbolizer()
        try symbolizer.addFile(argument: Fixture.kernel32.path)
        try symbolizer.addFile(
            argument: directory.write("map", Array("0000000000500000 T early\n".utf8)) + "@0x100")
        #expect(symbolizer.symbolize(.init(0x50_0104))?.text == "early+0x4")
        #expect(symbolizer.symbolize(.init(0x10_0011))?.function == "halt")
    }

    @Test func saysWhyAFileIsOfNoUse() throws {
        let directory = try TemporaryDirectory()
        func message(_ argument: String) -> String {
            do {
                try Symbolizer().addFile(argument: argument)
                return "no error"
            } catch { return error.description }
        }
        #expect(
            message("/nonexistent/x") == "/nonexistent/x: cannot be read: No such file or directory"
        )
        #expect(message(directory.path).hasSuffix("not a regular file"))
        let text = try directory.write("text", Array("hello, world\n".utf8))
        #expect(message(text).contains("not an ELF file and not a symbol map"))
        #expect(try message(directory.write("empty", [])).contains("not an ELF file"))
        let short = try directory.write("short", [0x7F, 0x45, 0x4C, 0x46])
        #expect(message(short).contains("truncated: the ELF header"))
        #expect(message(Fixture.stripped.path).contains("neither symbols nor line numbers"))
        let broken = try directory.write("broken", Array("00100000 T a\n00100010 T\n".utf8))
        #expect(message(broken).hasPrefix("\(broken):2: not a symbol"))
    }

    @Test func warnsOfAnotherBuild() throws {
        let directory = try TemporaryDirectory()
        var other = try Fixture.kernel64.bytes()
        let id = try #require(try Fixture.kernel64.image().buildID)
        let at = try #require(
            other.indices.first { other[$0...].starts(with: id) })
        other[at] ^= 0xFF
        let path = try directory.write("other.elf", other)

        let symbolizer = Symbolizer()
        try symbolizer.addGuestImage(
            elf: try Fixture.stripped.bytes(), name: "guest", search: nil)
        try symbolizer.addFile(argument: Fixture.kernel64.path)
        #expect(symbolizer.warnings.isEmpty)
        let second = Symbolizer()
        try second.addGuestImage(elf: try Fixture.stripped.bytes(), name: "guest", search: nil)
        try second.addFile(argument: path)
        let warning = try #require(second.warnings.first)
        #expect(warning.description.contains("its symbols are of another build"))
        #expect(second.symbolize(.init(0xFFFF_FFFF_8010_0011))?.function == "halt")
    }

    @Test func findsDebugFilesByBuildID() throws {
        let directory = try TemporaryDirectory()
        let image = try Fixture.stripped.image()
        let id = hexadecimal(try #require(image.buildID))
        #expect(id.count == 40)
        let search = DebugFileSearch(roots: [directory.path])
        func function() throws -> String? {
            let symbolizer = Symbolizer()
            try symbolizer.addGuestImage(
                elf: try Fixture.stripped.bytes(), name: "guest", search: search)
            return symbolizer.symbolize(.init(0xFFFF_FFFF_8010_0011))?.text
        }
        #expect(try function() == nil)
        try directory.write(
            ".build-id/\(id.prefix(2))/\(id.dropFirst(2)).debug", try Fixture.kernel64.bytes())
        #expect(try function() == "halt+0x0 (entry.S:18)")
        // A file of another build in the right place is passed over.
        try directory.write(
            ".build-id/\(id.prefix(2))/\(id.dropFirst(2)).debug", try Fixture.kernel32.bytes())
        #expect(try function() == nil)
    }

    @Test func findsDebugFilesByLink() throws {
        let directory = try TemporaryDirectory()
        let image = try Fixture.stripped.image()
        let link = try #require(image.debugLink)
        #expect(link.fileName == "kernel64.debug")
        #expect(link.checksum == crc32(try Fixture.kernel64.bytes()))
        try directory.write(".debug/kernel64.debug", try Fixture.kernel64.bytes())
        let symbolizer = Symbolizer()
        try symbolizer.addGuestImage(
            elf: try Fixture.stripped.bytes(), name: "guest", directory: directory.path,
            search: DebugFileSearch(roots: []))
        #expect(symbolizer.symbolize(.init(0xFFFF_FFFF_8010_0011))?.function == "halt")
        // A link that leads out of the directory is not followed.
        let paths = DebugFileSearch(roots: ["/r"]).candidates(
            buildID: nil, link: "../../etc/passwd", directory: "/d")
        #expect(paths.isEmpty)
    }

    /// The check value of CRC-32/ISO-HDLC.
    @Test func sumsLikeEveryoneElse() {
        #expect(crc32(Array("123456789".utf8)) == 0xCBF4_3926)
    }
}
