import Glibc
import Machine
import TestSupport
import Testing

@testable import Symbols

/// Whatever is done to a file: an error, a warning or an answer; never a trap, and an end.
@Suite struct DamageTests {
    /// Rounds per fixture; VMTAPE_FUZZ_ROUNDS asks for more, from VMTAPE_FUZZ_SEED on.
    private static func setting(_ name: String) -> Int? {
        // SAFETY: getenv gives a C string; tests do not change the environment.
        guard let text = unsafe getenv(name) else { return nil }
        return unsafe Int(String(cString: text))
    }

    /// Loads the bytes and asks for addresses all over the image.
    private func exercise(_ bytes: [UInt8], around addresses: [UInt64]) {
        let symbolizer = Symbolizer()
        do {
            try symbolizer.addGuestImage(elf: bytes, name: "damaged.elf", search: nil)
        } catch {
            #expect(!error.description.isEmpty && !error.description.contains("\n"))
            return
        }
        for address in addresses {
            _ = symbolizer.symbolize(.init(address))?.fullText
            _ = symbolizer.callFrame(at: address)
        }
        for warning in symbolizer.warnings {
            #expect(!warning.description.contains("\n"))
        }
    }

    private func addresses(of fixture: Fixture) throws -> [UInt64] {
        let symbols = try fixture.image().symbols.symbols
        return symbols.filter { $0.kind == .function }.flatMap { symbol in
            stride(from: symbol.address, through: symbol.address + symbol.sizeInBytes, by: 7)
        } + [0, 1, .max]
    }

    @Test(arguments: [Fixture.kernel64, .kernel32, .swift, .stripped])
    func everyTruncationIsAnError(fixture: Fixture) throws {
        let bytes = try fixture.bytes()
        // The section header table stands last: without its end there is nothing to go by.
        for length in stride(from: 0, to: bytes.count, by: 97) {
            #expect(throws: SymbolError.self) {
                _ = try SymbolImage(elf: Array(bytes[..<length]), name: "cut.elf")
            }
        }
    }

    /// Abbreviations overwritten: symbols still answer, and there is one warning.
    @Test func damagedDebugInformationIsAWarning() throws {
        var bytes = try Fixture.kernel32.bytes()
        let producer = Array("clang".utf8)
        #expect(bytes.indices.contains { bytes[$0...].starts(with: producer) })
        // The unit header of DWARF 4: length, version 4, abbreviations at 0, address size 4.
        let header: [UInt8] = [4, 0, 0, 0, 0, 0, 4]
        let at = try #require(bytes.indices.first { bytes[$0...].starts(with: header) })
        bytes[at] = 0x77
        let symbolizer = Symbolizer()
        try symbolizer.addGuestImage(elf: bytes, name: "damaged.elf", search: nil)
        for address in UInt64(0x10_0000)..<0x10_0200 {
            _ = symbolizer.symbolize(.init(address))
        }
        #expect(symbolizer.symbolize(.init(0x10_0011))?.text == "halt+0x0")
        #expect(symbolizer.warnings.count == 1)
        #expect(
            symbolizer.warnings.first?.description.hasPrefix(
                "damaged.elf: debug information cannot be used in full") == true)
    }

    /// A guest's image must not make us open files that it names.
    @Test func doesNotFollowAGuestsLinks() throws {
        var bytes = try Fixture.kernel64.bytes()
        // Any section's name will do: the link is looked up by name alone.
        let name = Array(".debug_loclists\0".utf8)
        let at = try #require(bytes.indices.first { bytes[$0...].starts(with: name) })
        bytes.replaceSubrange(at..<at + 16, with: Array(".gnu_debugaltlin".utf8))
        #expect(try SymbolImage(elf: bytes, name: "plain").hasLines)
        bytes = try Fixture.kernel64.bytes()
        let rest = Array(".debug_str_offsets\0".utf8)
        let place = try #require(bytes.indices.first { bytes[$0...].starts(with: rest) })
        bytes.replaceSubrange(place..<place + 19, with: Array(".gnu_debugaltlink\0\0".utf8))
        let image = try SymbolImage(elf: bytes, name: "linked")
        #expect(!image.hasLines)
        #expect(image.warnings.first?.description.contains("shared with another file") == true)
    }

    @Test(arguments: [Fixture.kernel64, .kernel32, .swift])
    func survivesMutations(fixture: Fixture) throws {
        let original = try fixture.bytes()
        let addresses = try addresses(of: fixture)
        let first = Self.setting("VMTAPE_FUZZ_SEED") ?? 0
        let rounds = Self.setting("VMTAPE_FUZZ_ROUNDS") ?? 150
        let trail = Self.setting("VMTAPE_FUZZ_ROUNDS") == nil ? nil : try TemporaryDirectory()
        for seed in first..<first + rounds {
            var generator = SeededGenerator(seed: UInt64(seed))
            var bytes = original
            for _ in 0..<Int.random(in: 1...12, using: &generator) {
                let at = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
                case 1: bytes[at] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &generator) ?? 0
                case 2: bytes[at] = UInt8.random(in: 0...255, using: &generator)
                default:
                    for index in at..<min(at + 8, bytes.count) {
                        bytes[index] = UInt8.random(in: 0...255, using: &generator)
                    }
                }
            }
            try trail?.write("\(fixture)-last.elf", bytes)
            exercise(bytes, around: addresses)
        }
    }
}
