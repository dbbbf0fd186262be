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

/// A small generator with a fixed seed, so that a failure repeats (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
