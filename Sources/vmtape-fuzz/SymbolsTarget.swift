internal import Machine
internal import Symbols

/// Symbol files, and stacks unwound by them. The first byte says what the rest is: an ELF file or a
/// map; memory holds the same bytes again and again.
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
        for address in addresses.prefix(16) { unwind(address, symbolizer, memory: bytes) }
        _ = symbolizer.warnings
    }

    private static func unwind(_ address: UInt64, _ symbolizer: Symbolizer, memory: [UInt8]) {
        guard !memory.isEmpty else { return }
        var registers = GeneralRegisters()
        registers.rip = address
        registers[.rsp] = 0x8000
        registers[.rbp] = 0x8010
        var system = SystemRegisters()
        system[.cr0] = 1
        system[.efer] = 1 << 10
        system[.cs] = Segment(type: 11, l: address & 1 == 0)
        let backtrace = Unwinder(symbolizer, limit: 32).backtrace(registers, system) { at, count in
            (0..<UInt64(count)).map { memory[Int((at.rawValue &+ $0) % UInt64(memory.count))] }
        }
        precondition((1...32).contains(backtrace.frames.count))
    }
}
