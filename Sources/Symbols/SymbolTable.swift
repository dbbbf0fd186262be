/// The symbols of one image, to be looked up by address and by name.
///
/// Several symbols at one address are aliases, and one of them gives the name. In a table from an
/// ELF file it is the one with the largest size, and among equals the last in the file (which
/// puts global and weak ones after local ones): the rule of LLVM's symbolizer, so that both give
/// the same names. In a table from a text map, which has no sizes and no fixed order, it is a
/// function rather than an object, a global rather than a weak rather than a local one, then the
/// shortest name, then the first by its bytes.
///
/// A symbol reaches as far as its size says; one without a size to the next symbol or to the end
/// of its section, whichever comes first.
public struct SymbolTable: Sendable {
    /// All symbols in ascending order of address; aliases next to each other, the one that gives
    /// the name last.
    public let symbols: [Symbol]

    /// Where each name is that is asked for: indices of the last symbol of each address.
    private let winners: [Int]
    /// The ends of the winners, and the largest end so far: how far back a walk must go.
    private let reach: [UInt64]
    /// Ends of sections (or of mapped parts), ascending, with their starts.
    private let sections: [Range<UInt64>]
    /// How far the last symbol reaches where it has no size and no section is known.
    private let lastReach: UInt64

    /// Whether there is no symbol.
    public var isEmpty: Bool { symbols.isEmpty }

    /// Makes a table.
    ///
    /// - Parameters:
    ///   - symbols: in the file's order.
    ///   - sections: the parts of the address space that symbols without size end with.
    ///   - lastReach: how far the last symbol reaches where there are no sections.
    ///   - precedes: whether the first of two aliases is the lesser name.
    init(
        _ unsorted: [Symbol], sections: [Range<UInt64>], lastReach: UInt64,
        precedes: (Symbol, Symbol) -> Bool
    ) {
        let order = unsorted.indices.sorted { a, b in
            let (first, second) = (unsorted[a], unsorted[b])
            if first.address != second.address { return first.address < second.address }
            if precedes(first, second) { return true }
            return precedes(second, first) ? false : a < b
        }
        let symbols = order.map { unsorted[$0] }
        let sections = sections.sorted { $0.lowerBound < $1.lowerBound }
        var winners: [Int] = []
        for index in symbols.indices
        where index + 1 == symbols.count || symbols[index + 1].address != symbols[index].address {
            winners.append(index)
        }
        self.symbols = symbols
        self.winners = winners
        self.sections = sections
        self.lastReach = lastReach
        var reach: [UInt64] = []
        reach.reserveCapacity(winners.count)
        for (place, winner) in winners.enumerated() {
            let next = place + 1 < winners.count ? symbols[winners[place + 1]].address : .max
            let end = Self.end(
                of: symbols[winner], next: next, sections: sections, lastReach: lastReach)
            reach.append(max(reach.last ?? 0, end))
        }
        self.reach = reach
    }

    /// The symbol that an address is in, and how far into it; nil where it is in none.
    ///
    /// The nearest symbol below gives the name. Where that one ends before the address, an
    /// earlier one whose size reaches over it does.
    public func symbol(at address: UInt64) -> (symbol: Symbol, offset: UInt64)? {
        var place = placeAtOrBelow(address)
        while place >= 0, reach[place] > address {
            let symbol = symbols[winners[place]]
            let next = place + 1 < winners.count ? symbols[winners[place + 1]].address : .max
            let end = Self.end(
                of: symbol, next: next, sections: sections, lastReach: lastReach)
            if end > address { return (symbol, address - symbol.address) }
            place -= 1
        }
        return nil
    }

    /// The symbols with a name in ascending order of address: those that the linker knows by it,
    /// or if there is none, those that demangle to it.
    public func symbols(named name: String) -> [Symbol] {
        let exact = symbols.filter { $0.linkageName == name }
        return exact.isEmpty ? symbols.filter { $0.name == name } : exact
    }

    private func placeAtOrBelow(_ address: UInt64) -> Int {
        var low = 0
        var high = winners.count
        while low < high {
            let middle = (low + high) / 2
            if symbols[winners[middle]].address <= address {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low - 1
    }

    /// The address after the last one that a symbol names.
    private static func end(
        of symbol: Symbol, next: UInt64, sections: [Range<UInt64>], lastReach: UInt64
    ) -> UInt64 {
        if symbol.sizeInBytes != 0 {
            let (end, overflow) = symbol.address.addingReportingOverflow(symbol.sizeInBytes)
            return overflow ? .max : end
        }
        if sections.isEmpty {
            if next != .max { return next }
            let (end, overflow) = symbol.address.addingReportingOverflow(lastReach)
            return overflow ? .max : end
        }
        var low = 0
        var high = sections.count
        while low < high {
            let middle = (low + high) / 2
            if sections[middle].lowerBound <= symbol.address {
                low = middle + 1
            } else {
                high = middle
            }
        }
        // Outside of all sections there is nothing that it could name.
        guard low > 0, sections[low - 1].contains(symbol.address) else { return symbol.address }
        return min(next, sections[low - 1].upperBound)
    }
}

extension SymbolTable: CustomStringConvertible {
    /// `123 symbols`
    public var description: String { "\(symbols.count) symbols" }
}
