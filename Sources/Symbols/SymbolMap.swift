/// Reads symbols from text: a kernel's System.map, /proc/kallsyms, or what `nm` prints, with sizes
/// (`nm -S`) or without. One symbol a line: `ADDRESS [SIZE] TYPE NAME`, numbers in hexadecimal.
enum SymbolMap {
    /// Text has no sections; its last symbol reaches this far, in bytes.
    static let lastReach: UInt64 = 4096

    /// Whether the bytes start like such a text.
    static func isMap(_ bytes: [UInt8]) -> Bool {
        for line in bytes.prefix(4096).split(separator: UInt8(ascii: "\n")).prefix(1) {
            if parse(trim(line)) != .nonsense { return true }
        }
        return false
    }

    /// Reads the symbols. Undefined, absolute, file and debugging symbols are left out: they name
    /// no address of the image.
    static func read(_ bytes: [UInt8], file: String) throws(SymbolError) -> SymbolTable {
        var symbols: [Symbol] = []
        var number = 0
        for line in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            number += 1
            let line = trim(line)
            if line.isEmpty { continue }
            switch parse(line) {
            case .symbol(let symbol): symbols.append(symbol)
            case .unwanted: continue
            case .nonsense: throw .badMapLine(file: file, line: number)
            }
        }
        guard !symbols.isEmpty else { throw .noSymbols(file: file) }
        return SymbolTable(symbols, sections: [], lastReach: lastReach, precedes: isLesser)
    }

    enum Line: Equatable {
        case symbol(Symbol)
        case unwanted
        case nonsense
    }

    private static func isLesser(_ a: Symbol, _ b: Symbol) -> Bool {
        func rank(_ symbol: Symbol) -> (Int, UInt64, Int, Int) {
            (
                symbol.kind == .function ? 1 : 0, symbol.sizeInBytes, symbol.binding.rawValue,
                -symbol.linkageName.utf8.count
            )
        }
        if rank(a) != rank(b) { return rank(a) < rank(b) }
        return a.linkageName.utf8.lexicographicallyPrecedes(b.linkageName.utf8) == false
            && a.linkageName != b.linkageName
    }

    private static func trim(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var line = line
        while let last = line.last, last == 0x0D || last == 0x20 || last == 0x09 {
            line.removeLast()
        }
        return line
    }

    static func parse(_ line: ArraySlice<UInt8>) -> Line {
        var words = line.split { $0 == 0x20 || $0 == 0x09 }
        // nm prints undefined symbols with blanks for the address.
        if words.count == 2, words[0].elementsEqual("U".utf8) || words[0].elementsEqual("w".utf8) {
            return .unwanted
        }
        guard words.count >= 3, let address = number(words.removeFirst()) else { return .nonsense }
        var size: UInt64 = 0
        if words[0].count > 1 {
            guard words.count >= 3, let given = number(words.removeFirst()) else {
                return .nonsense
            }
            size = given
        }
        guard words[0].count == 1, let type = words.removeFirst().first,
            let nameStart = words.first?.startIndex
        else { return .nonsense }
        // Demangled names have blanks in them; a kernel's module follows after a tab.
        let name = line[nameStart...].prefix { $0 != 0x09 }
        let kind: Symbol.Kind
        let binding: Symbol.Binding
        switch type {
        case UInt8(ascii: "T"): (kind, binding) = (.function, .global)
        case UInt8(ascii: "t"), UInt8(ascii: "i"): (kind, binding) = (.function, .local)
        case UInt8(ascii: "W"), UInt8(ascii: "w"): (kind, binding) = (.function, .weak)
        case UInt8(ascii: "V"), UInt8(ascii: "v"): (kind, binding) = (.object, .weak)
        case UInt8(ascii: "B"), UInt8(ascii: "D"), UInt8(ascii: "G"), UInt8(ascii: "R"),
            UInt8(ascii: "S"), UInt8(ascii: "u"):
            (kind, binding) = (.object, .global)
        case UInt8(ascii: "b"), UInt8(ascii: "d"), UInt8(ascii: "g"), UInt8(ascii: "r"),
            UInt8(ascii: "s"):
            (kind, binding) = (.object, .local)
        case UInt8(ascii: "A"), UInt8(ascii: "a"), UInt8(ascii: "U"), UInt8(ascii: "N"),
            UInt8(ascii: "n"), UInt8(ascii: "p"), UInt8(ascii: "C"), UInt8(ascii: "c"),
            UInt8(ascii: "I"), UInt8(ascii: "-"), UInt8(ascii: "?"):
            return .unwanted
        default: return .nonsense
        }
        // Labels that a compiler made for itself split functions and tell nobody anything.
        if name.starts(with: ".L".utf8) { return .unwanted }
        return .symbol(
            Symbol(
                linkageName: String(decoding: name, as: UTF8.self), address: address,
                sizeInBytes: size, kind: kind, binding: binding))
    }

    /// A hexadecimal number of at most 16 digits, with or without `0x`.
    private static func number(_ digits: ArraySlice<UInt8>) -> UInt64? {
        var digits = digits
        if digits.starts(with: "0x".utf8) { digits.removeFirst(2) }
        guard !digits.isEmpty, digits.count <= 16 else { return nil }
        var value: UInt64 = 0
        for digit in digits {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(digit & 15)
            case UInt8(ascii: "a")...UInt8(ascii: "f"), UInt8(ascii: "A")...UInt8(ascii: "F"):
                value = value << 4 | UInt64(digit & 15 + 9)
            default: return nil
            }
        }
        return value
    }
}
