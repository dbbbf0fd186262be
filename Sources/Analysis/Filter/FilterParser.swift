/// Reads a filter's text into a program: recursive descent, types checked on the way.
struct FilterParser {
    /// Brackets may be nested this deep, and sums be this long.
    private static let depthLimit = 100

    private let text: String
    private let tokens: [FilterToken]
    private var at = 0
    private var depth = 0
    private var program = FilterProgram()

    /// One side of a comparison.
    private struct Operand {
        var node: Int32
        var value: FilterField.Value
        /// The field, where it is nothing but one.
        var field: FilterField?
        var column: Int
        var name: String
    }

    private init(_ text: String) throws(FilterError) {
        self.text = text
        tokens = try FilterLexer.tokens(of: text)
    }

    static func program(of text: String) throws(FilterError) -> FilterProgram {
        var parser = try FilterParser(text)
        if parser.token.kind == .end {
            throw FilterError("the filter is empty", column: 1, text: text)
        }
        parser.program.root = try parser.disjunction()
        guard parser.token.kind == .end else {
            throw parser.unexpected("'and', 'or' or the end")
        }
        return parser.program
    }

    private var token: FilterToken { tokens[min(at, tokens.count - 1)] }

    private func error(_ message: String, _ column: Int) -> FilterError {
        FilterError(message, column: column, text: text)
    }

    private func unexpected(_ wanted: String) -> FilterError {
        error("\(wanted) is expected here, and not \(token.shown)", token.column)
    }

    private mutating func accept(symbol: String) -> Bool {
        guard token.kind == .symbol(symbol) else { return false }
        at += 1
        return true
    }

    private mutating func accept(word: String) -> Bool {
        guard token.kind == .name(word) else { return false }
        at += 1
        return true
    }

    private mutating func expect(symbol: String) throws(FilterError) {
        guard accept(symbol: symbol) else { throw unexpected("'\(symbol)'") }
    }

    // MARK: and, or, not

    private mutating func disjunction() throws(FilterError) -> Int32 {
        var operands = [try conjunction()]
        while accept(word: "or") || accept(symbol: "||") { operands.append(try conjunction()) }
        return program.join(.or, operands)
    }

    private mutating func conjunction() throws(FilterError) -> Int32 {
        var operands = [try negation()]
        while accept(word: "and") || accept(symbol: "&&") { operands.append(try negation()) }
        return program.join(.and, operands)
    }

    private mutating func negation() throws(FilterError) -> Int32 {
        var isNegated = false
        while accept(word: "not") || accept(symbol: "!") { isNegated.toggle() }
        let node = try condition()
        return isNegated ? program.add(.init(operation: .not, left: node)) : node
    }

    private mutating func condition() throws(FilterError) -> Int32 {
        if token.kind == .symbol("(") {
            let column = token.column
            at += 1
            depth += 1
            defer { depth -= 1 }
            guard depth <= Self.depthLimit else { throw error("too many brackets", column) }
            let node = try disjunction()
            try expect(symbol: ")")
            return node
        }
        if token.kind == .name("changed") {
            at += 1
            return try changed()
        }
        return try comparison()
    }

    private mutating func changed() throws(FilterError) -> Int32 {
        try expect(symbol: "(")
        guard case .name(let name) = token.kind else { throw unexpected("a register") }
        var node = FilterProgram.Node(operation: .changedRegister)
        if let words = FilterField.systemWords(named: name) {
            node.operation = .changedSystemWord
            node.value = words
        } else if name == "rip" {
            node.value = 1 << 16
        } else if let field = FilterField.register(named: name) {
            node.value = 1 << UInt64(field.index)
        } else {
            throw error("there is no register '\(name)'", token.column)
        }
        at += 1
        try expect(symbol: ")")
        return program.add(node)
    }

    // MARK: comparisons

    private static let comparisons: [(String, FilterProgram.Operation)] = [
        ("==", .equal), ("=", .equal), ("!=", .notEqual), ("<", .less), ("<=", .lessOrEqual),
        (">", .greater), (">=", .greaterOrEqual),
    ]

    private mutating func comparison() throws(FilterError) -> Int32 {
        let left = try sum()
        if accept(word: "in") { return try membership(left) }
        guard case .symbol(let symbol) = token.kind else {
            throw unexpected("a comparison (==, !=, <, <=, >, >=, in, ~)")
        }
        let column = token.column
        if symbol == "~" {
            at += 1
            return try match(left, column)
        }
        guard let entry = Self.comparisons.first(where: { $0.0 == symbol }) else {
            throw unexpected("a comparison (==, !=, <, <=, >, >=, in, ~)")
        }
        at += 1
        return try compare(left, entry.1, symbol, column)
    }

    private mutating func compare(
        _ left: Operand, _ operation: FilterProgram.Operation, _ symbol: String, _ column: Int
    ) throws(FilterError) -> Int32 {
        switch left.value {
        case .text:
            return try equality(left, operation, symbol, column) { parser, matcher in
                guard let field = left.field else { return nil }
                parser.program.matchers.append(.init(field: field.kind, pattern: matcher))
                return .init(
                    operation: .text, left: Int32(parser.program.matchers.count - 1))
            }
        case .bytes:
            if case .string = token.kind {
                return try equality(left, operation, symbol, column) { parser, pattern in
                    parser.program.patterns.append(pattern)
                    return .init(
                        operation: .dataEquals, left: Int32(parser.program.patterns.count - 1))
                }
            }
        case .flags(let names):
            guard operation == .equal || operation == .notEqual else {
                throw error("'\(symbol)' cannot be asked of '\(left.name)'", column)
            }
            let mask = UInt64(1) << (try constant(of: .names(names), left.name) & 63)
            let node = program.add(.init(operation: .event, value: mask))
            return operation == .equal
                ? node : program.add(.init(operation: .not, left: node))
        case .names, .number: break
        }
        let right = try operand(of: left)
        return program.add(.init(operation: operation, left: left.node, right: right))
    }

    /// `==` and `!=` with a string.
    private mutating func equality(
        _ left: Operand, _ operation: FilterProgram.Operation, _ symbol: String, _ column: Int,
        _ node: (inout FilterParser, TextPattern) -> FilterProgram.Node?
    ) throws(FilterError) -> Int32 {
        guard operation == .equal || operation == .notEqual else {
            throw error(
                "'\(symbol)' cannot be asked of '\(left.name)', which is text: use ==, != or ~",
                column)
        }
        guard case .string(let bytes) = token.kind else { throw unexpected("a string") }
        at += 1
        guard let made = node(&self, .equals(bytes)) else {
            throw error("a field is expected on the left", left.column)
        }
        let index = program.add(made)
        // What an exit has no data or no symbol for is neither equal nor unequal.
        guard operation == .notEqual else { return index }
        let no = program.add(.init(operation: .not, left: index))
        var present = made
        if made.operation == .text {
            program.matchers.append(
                .init(field: program.matchers[Int(made.left)].field, pattern: .contains([])))
            present.left = Int32(program.matchers.count - 1)
        } else {
            program.patterns.append(.contains([]))
            present.left = Int32(program.patterns.count - 1)
            present.operation = .dataMatches
        }
        return program.join(.and, [program.add(present), no])
    }

    /// The right side of a comparison with `left`.
    private mutating func operand(of left: Operand) throws(FilterError) -> Int32 {
        if case .names = left.value, case .name = token.kind {
            let number = try constant(of: left.value, left.name)
            return program.add(.init(operation: .constant, value: number))
        }
        if case .string = token.kind {
            throw error(
                "'\(left.name)' is a number and cannot be compared with a string", token.column)
        }
        let right = try sum()
        switch right.value {
        case .text, .flags:
            throw error("'\(right.name)' cannot stand on the right", right.column)
        case .number, .names, .bytes: return right.node
        }
    }

    /// A number, or a name from the left side's set.
    private mutating func constant(
        of value: FilterField.Value, _ field: String
    ) throws(FilterError) -> UInt64 {
        switch (token.kind, value) {
        case (.number(let number), _):
            at += 1
            return number
        case (.name(let name), .names(let names)), (.name(let name), .flags(let names)):
            guard let number = names.number(of: name) else {
                let known = names.table.map(\.name)
                var message = "'\(name)' is no \(names.title)"
                if let near = nearest(to: name, in: known) {
                    message += "; did you mean '\(near)'?"
                } else if known.count <= 8 {
                    message += "; there are \(known.joined(separator: ", "))"
                }
                throw error(message, token.column)
            }
            at += 1
            return number
        default: throw unexpected("a number")
        }
    }

    // MARK: in and ~

    private mutating func membership(_ left: Operand) throws(FilterError) -> Int32 {
        let isText = left.value == .text || left.value == .bytes
        if accept(symbol: "{") {
            if isText, case .string = token.kind { return try strings(left) }
            if case .flags = left.value {
                var mask: UInt64 = 0
                repeat {
                    mask |= 1 << (try constant(of: left.value, left.name) & 63)
                } while accept(symbol: ",")
                try expect(symbol: "}")
                return program.add(.init(operation: .event, value: mask))
            }
            var ranges: [ClosedRange<UInt64>] = []
            repeat { ranges.append(try range(left, mayBeSingle: true)) } while accept(symbol: ",")
            try expect(symbol: "}")
            return add(left, ranges)
        }
        return add(left, [try range(left, mayBeSingle: false)])
    }

    private mutating func strings(_ left: Operand) throws(FilterError) -> Int32 {
        var nodes: [Int32] = []
        repeat {
            nodes.append(try compare(left, .equal, "==", token.column))
        } while accept(symbol: ",")
        try expect(symbol: "}")
        return program.join(.or, nodes)
    }

    private mutating func add(_ left: Operand, _ ranges: [ClosedRange<UInt64>]) -> Int32 {
        let start = program.ranges.count
        program.ranges.append(contentsOf: ranges)
        return program.add(
            .init(
                operation: .inRanges, left: left.node, right: Int32(start),
                value: UInt64(ranges.count)))
    }

    private mutating func range(
        _ left: Operand, mayBeSingle: Bool
    ) throws(FilterError) -> ClosedRange<UInt64> {
        if left.value == .text { throw unexpected("a string, or '{' and strings,") }
        let column = token.column
        if case .flags = left.value { throw unexpected("'{'") }
        let low = try constant(of: left.value, left.name)
        guard accept(symbol: "..") else {
            guard mayBeSingle else { throw unexpected("'..'") }
            return low...low
        }
        let high = try constant(of: left.value, left.name)
        guard low <= high else { throw error("the range ends before it begins", column) }
        return low...high
    }

    private mutating func match(_ left: Operand, _ column: Int) throws(FilterError) -> Int32 {
        guard let field = left.field, left.value == .text || left.value == .bytes else {
            throw error(
                "'~' matches text, and '\(left.name)' is none: use it with symbol, file or data",
                column)
        }
        guard case .string(let bytes) = token.kind else {
            throw unexpected("a string with a regular expression")
        }
        let pattern: TextPattern
        do {
            pattern = try TextPattern(matching: bytes)
        } catch {
            let reason = String(describing: error).split(separator: "\n").first ?? ""
            throw self.error("not a regular expression: \(reason)", token.column)
        }
        at += 1
        if left.value == .text {
            program.matchers.append(.init(field: field.kind, pattern: pattern))
            return program.add(
                .init(operation: .text, left: Int32(program.matchers.count - 1)))
        }
        program.patterns.append(pattern)
        return program.add(
            .init(operation: .dataMatches, left: Int32(program.patterns.count - 1)))
    }

    // MARK: numbers

    private static let arithmetic: [(String, FilterProgram.Operation)] = [
        ("&", .mask), ("+", .add), ("-", .subtract),
    ]

    /// Fields and numbers joined by `&`, `+`, `-`, from left to right.
    private mutating func sum() throws(FilterError) -> Operand {
        var left = try primary()
        var length = 0
        while case .symbol(let symbol) = token.kind,
            let operation = Self.arithmetic.first(where: { $0.0 == symbol })?.1
        {
            length += 1
            guard length <= Self.depthLimit else { throw error("too long a sum", token.column) }
            try requireNumber(left)
            at += 1
            let right = try primary()
            try requireNumber(right)
            left = Operand(
                node: program.add(.init(operation: operation, left: left.node, right: right.node)),
                value: .number, field: nil, column: left.column, name: "the sum")
        }
        return left
    }

    private func requireNumber(_ operand: Operand) throws(FilterError) {
        switch operand.value {
        case .number, .bytes: return
        case .names, .flags, .text:
            throw error("'\(operand.name)' is not a number", operand.column)
        }
    }

    private mutating func primary() throws(FilterError) -> Operand {
        let column = token.column
        switch token.kind {
        case .number(let number):
            at += 1
            return Operand(
                node: program.add(.init(operation: .constant, value: number)), value: .number,
                field: nil, column: column, name: "the number")
        case .name(let name):
            guard let field = FilterField(named: name) else {
                var message = "there is no field '\(name)'"
                if let near = nearest(to: name, in: FilterField.table.map(\.name)) {
                    message += "; did you mean '\(near)'?"
                }
                throw error(message, column)
            }
            at += 1
            return Operand(
                node: program.add(.init(operation: .field, field: field)), value: field.value,
                field: field, column: column, name: name)
        default: throw unexpected("a field")
        }
    }

    /// The known word that a mistyped one is closest to, at most two edits away.
    private func nearest(to word: String, in known: [String]) -> String? {
        guard word.count <= 24 else { return nil }
        var best: (word: String, distance: Int)?
        for candidate in known {
            let distance = Self.distance(Array(word), Array(candidate))
            if distance < best?.distance ?? 3, distance < candidate.count {
                best = (candidate, distance)
            }
        }
        return best?.word
    }

    private static func distance(_ a: [Character], _ b: [Character]) -> Int {
        var row = Array(0...b.count)
        for (i, left) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, right) in b.enumerated() {
                let above = row[j + 1]
                row[j + 1] = min(diagonal + (left == right ? 0 : 1), above + 1, row[j] + 1)
                diagonal = above
            }
        }
        return row[b.count]
    }
}
