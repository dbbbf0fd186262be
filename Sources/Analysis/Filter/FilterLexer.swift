/// A piece of a filter's text.
struct FilterToken: Equatable {
    enum Kind: Equatable {
        /// A field, a register, a name such as `io`: letters, digits, `_`, and inner dots.
        case name(String)
        /// A number, units applied.
        case number(UInt64)
        /// A string, escapes applied.
        case string([UInt8])
        /// An operator, a bracket or a comma.
        case symbol(String)
        case end
    }

    var kind: Kind
    /// Column of its first character, from 1.
    var column: Int

    /// How an error message names it.
    var shown: String {
        switch kind {
        case .name(let name): "'\(name)'"
        case .number(let number): "the number \(number)"
        case .string: "a string"
        case .symbol(let symbol): "'\(symbol)'"
        case .end: "the end"
        }
    }
}

/// Cuts a filter's text into tokens.
struct FilterLexer {
    /// Longer texts are refused.
    static let maximumLength = 16_384

    private let text: String
    private let characters: [Character]
    private var at = 0

    private init(_ text: String) {
        self.text = text
        characters = Array(text)
    }

    /// All tokens of a text, `end` last.
    static func tokens(of text: String) throws(FilterError) -> [FilterToken] {
        guard text.utf8.count <= maximumLength else {
            throw FilterError(
                "the filter is longer than \(maximumLength) bytes", column: 1, text: "")
        }
        var lexer = FilterLexer(text)
        var tokens: [FilterToken] = []
        while true {
            let token = try lexer.next()
            tokens.append(token)
            if token.kind == .end { return tokens }
        }
    }

    private var current: Character? { at < characters.count ? characters[at] : nil }

    private func following(_ distance: Int) -> Character? {
        at + distance < characters.count ? characters[at + distance] : nil
    }

    private func error(_ message: String, at place: Int) -> FilterError {
        FilterError(message, column: place + 1, text: text)
    }

    private mutating func next() throws(FilterError) -> FilterToken {
        while let character = current, character.isWhitespace { at += 1 }
        let start = at
        guard let character = current else { return token(.end, from: start) }
        if character.isASCII, character.isNumber { return try number() }
        if character == "\"" || character == "'" { return try string() }
        if character == "x", following(1) == "\"" { return try hexadecimalString() }
        if Self.startsName(character) { return name() }
        return try symbol()
    }

    private func token(_ kind: FilterToken.Kind, from start: Int) -> FilterToken {
        FilterToken(kind: kind, column: start + 1)
    }

    private static func startsName(_ character: Character) -> Bool {
        character.isASCII && character.isLetter || character == "_"
    }

    private static func continuesName(_ character: Character) -> Bool {
        startsName(character) || character.isASCII && character.isNumber
    }

    private mutating func name() -> FilterToken {
        let start = at
        while let character = current {
            // A dot belongs to a name where a name goes on after it; `..` is an operator.
            let isInnerDot = character == "." && following(1).map(Self.startsName) == true
            guard Self.continuesName(character) || isInnerDot else { break }
            at += 1
        }
        return token(.name(String(characters[start..<at])), from: start)
    }

    private static let units: [(name: String, factor: UInt64)] = [
        ("ns", 1), ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000),
        ("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30),
    ]

    private mutating func number() throws(FilterError) -> FilterToken {
        let start = at
        while let character = current, Self.continuesName(character) { at += 1 }
        let all = String(characters[start..<at]).filter { $0 != "_" }
        let lower = all.lowercased()
        if lower.hasPrefix("0x") {
            guard let value = UInt64(lower.dropFirst(2), radix: 16) else {
                throw error("'\(all)' is no hexadecimal number of at most 64 bits", at: start)
            }
            return token(.number(value), from: start)
        }
        if lower.hasPrefix("0b"), let value = UInt64(lower.dropFirst(2), radix: 2) {
            return token(.number(value), from: start)
        }
        let digits = lower.prefix { $0.isNumber }
        let suffix = lower.dropFirst(digits.count)
        var factor: UInt64 = 1
        if !suffix.isEmpty {
            guard let unit = Self.units.first(where: { $0.name == suffix }) else {
                throw error(
                    "'\(all)' is no number; hexadecimal ones begin with 0x, and the units are "
                        + "ns, us, ms, s, k, m and g", at: start)
            }
            factor = unit.factor
        }
        guard let value = UInt64(digits) else {
            throw error("'\(all)' does not fit in 64 bits", at: start)
        }
        let (product, overflow) = value.multipliedReportingOverflow(by: factor)
        if overflow { throw error("'\(all)' does not fit in 64 bits", at: start) }
        return token(.number(product), from: start)
    }

    private mutating func string() throws(FilterError) -> FilterToken {
        let start = at
        let quote = current
        at += 1
        var bytes: [UInt8] = []
        while let character = current, character != quote {
            at += 1
            guard character == "\\" else {
                bytes.append(contentsOf: String(character).utf8)
                continue
            }
            guard let escaped = current else { break }
            at += 1
            switch escaped {
            case "n": bytes.append(0x0A)
            case "r": bytes.append(0x0D)
            case "t": bytes.append(0x09)
            case "0": bytes.append(0)
            case "\\", "\"", "'": bytes.append(contentsOf: String(escaped).utf8)
            case "x":
                let digits = String(characters[at..<min(at + 2, characters.count)])
                guard digits.count == 2, let byte = UInt8(digits, radix: 16) else {
                    throw error("\\x is followed by two hexadecimal digits", at: at - 2)
                }
                bytes.append(byte)
                at += 2
            default:
                // Kept whole, so that a regular expression can say \d or \. .
                bytes.append(0x5C)
                bytes.append(contentsOf: String(escaped).utf8)
            }
        }
        guard current == quote else { throw error("the string has no end", at: start) }
        at += 1
        return token(.string(bytes), from: start)
    }

    private mutating func hexadecimalString() throws(FilterError) -> FilterToken {
        let start = at
        at += 2
        var digits: [UInt8] = []
        while let character = current, character != "\"" {
            if let digit = character.hexDigitValue, character.isASCII {
                digits.append(UInt8(digit))
            } else if !character.isWhitespace {
                throw error("'\(character)' is no hexadecimal digit", at: at)
            }
            at += 1
        }
        guard current == "\"" else { throw error("the string has no end", at: start) }
        at += 1
        guard digits.count.isMultiple(of: 2) else {
            throw error("bytes have two hexadecimal digits each", at: start)
        }
        let bytes = stride(from: 0, to: digits.count, by: 2).map {
            digits[$0] << 4 | digits[$0 + 1]
        }
        return token(.string(bytes), from: start)
    }

    /// Longest first.
    private static let symbols = [
        "==", "!=", "<=", ">=", "..", "&&", "||", "<", ">", "=", "~", "!", "(", ")", "{", "}",
        ",", "&", "+", "-",
    ]

    private mutating func symbol() throws(FilterError) -> FilterToken {
        let start = at
        for symbol in Self.symbols where characters[at...].starts(with: symbol) {
            at += symbol.count
            return token(.symbol(symbol), from: start)
        }
        throw error("'\(characters[at])' is not part of the filter language", at: start)
    }
}
