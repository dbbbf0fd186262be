import Testing

@testable import Symbols

/// The ELF files in `Fixtures` (`Fixtures/build` makes them).
enum Fixture: String, CaseIterable {
    case kernel64 = "kernel64.elf"
    case kernel32 = "kernel32.elf"
    case swift = "swift.elf"
    case stripped = "stripped.elf"

    static let directory: String = {
        let here = #filePath
        return here.prefix(upTo: here.lastIndex(of: "/") ?? here.startIndex) + "/Fixtures"
    }()

    var path: String { "\(Self.directory)/\(rawValue)" }

    func bytes() throws -> [UInt8] { try readFile(path) }

    func image(bias: UInt64 = 0) throws -> SymbolImage {
        try SymbolImage(elf: try bytes(), name: rawValue, bias: bias)
    }

    func symbolizer() throws -> Symbolizer {
        let symbolizer = Symbolizer()
        symbolizer.add(try image())
        return symbolizer
    }
}
