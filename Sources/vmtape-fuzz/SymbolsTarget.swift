internal import Machine
internal import Symbols

/// Symbol files. The first byte says what the rest is: an ELF file or a map.
enum SymbolsTarget {
    static func run(_ input: [UInt8]) {
        guard let first = input.first else { return }
        let bytes = Array(input.dropFirst())
        let image: SymbolImage?
        if first & 1 == 0 {
            image = try? SymbolImage(elf: bytes, name: "symbols")
        } else {
            image = try? SymbolImage(map: bytes, name: "symbols", bias: UInt64(first) << 56)
        }
        guard let image else { return }
        let symbolizer = Symbolizer()
        symbolizer.add(image)
        var addresses = image.symbols.symbols.prefix(64).map { $0.address &+ image.bias }
        addresses += [0, 0x1000, 0x10_0000, 0x20_0000, 1 << 63, .max]
        for address in addresses {
            for offset: UInt64 in [0, 1, 4, 17] {
                let found = symbolizer.symbolize(GuestVirtualAddress(address &+ offset))
                _ = (found?.fullText, found?.stack)
            }
        }
        _ = symbolizer.warnings
    }
}
