/// A filter as it is evaluated: nodes that refer to one another by index, so that evaluating
/// one follows no reference and allocates nothing.
struct FilterProgram {
    enum Operation: UInt8 {
        // Numbers.
        case constant, field, add, subtract, mask
        // Truth values.
        case equal, notEqual, less, lessOrEqual, greater, greaterOrEqual
        /// `left` lies in one of the `value` ranges from `right` on.
        case inRanges
        case and, or, not
        /// Some register of the mask in `value` differs from the exit before.
        case changedRegister, changedSystemWord
        /// Some event of the mask in `value` belongs to the exit.
        case event
        /// The text matcher `left` matches the exit's name.
        case text
        /// The data equals, or holds what, pattern `left` says.
        case dataEquals, dataMatches
    }

    struct Node {
        var operation: Operation
        var left: Int32 = 0
        var right: Int32 = 0
        var field = FilterField(.exit)
        var value: UInt64 = 0
    }

    struct TextMatcher {
        var field: FilterField.Kind
        var pattern: TextPattern
    }

    var nodes: [Node] = []
    var ranges: [ClosedRange<UInt64>] = []
    var matchers: [TextMatcher] = []
    var patterns: [TextPattern] = []
    var root: Int32 = 0

    mutating func add(_ node: Node) -> Int32 {
        nodes.append(node)
        return Int32(truncatingIfNeeded: nodes.count - 1)
    }

    /// Joins operands with `and` or `or`, leaning right: evaluation then walks along the chain
    /// instead of descending into it.
    mutating func join(_ operation: Operation, _ operands: [Int32]) -> Int32 {
        var result = operands[operands.count - 1]
        for operand in operands.dropLast().reversed() {
            result = add(Node(operation: operation, left: operand, right: result))
        }
        return result
    }
}

/// What a text or data is compared with.
enum TextPattern {
    case equals([UInt8])
    /// A regular expression without special characters: found byte by byte.
    case contains([UInt8])
    case regularExpression(Regex<AnyRegexOutput>)

    /// A pattern of a regular expression's text.
    init(matching pattern: [UInt8]) throws {
        let special = Set("\\^$.|?*+()[]{}#".utf8)
        if pattern.allSatisfy({ !special.contains($0) }) {
            self = .contains(pattern)
        } else {
            self = .regularExpression(try Regex(String(decoding: pattern, as: UTF8.self)))
        }
    }

    /// Whether a text matches.
    func matches(_ text: String) -> Bool {
        switch self {
        case .equals(let bytes): text.utf8.elementsEqual(bytes)
        case .contains(let bytes): Self.contains(Array(text.utf8).span, bytes)
        case .regularExpression(let regex): text.firstMatch(of: regex) != nil
        }
    }

    /// Whether bytes match; a regular expression sees them as UTF-8.
    func matches(_ data: borrowing ExitData) -> Bool {
        switch self {
        case .equals(let bytes):
            guard bytes.count == data.count else { return false }
            for index in bytes.indices where bytes[index] != data[index] { return false }
            return true
        case .contains(let bytes):
            guard bytes.count <= data.count else { return false }
            var start = 0
            while start <= data.count - bytes.count {
                var length = 0
                while length < bytes.count, data[start + length] == bytes[length] { length += 1 }
                if length == bytes.count { return true }
                start += 1
            }
            return false
        case .regularExpression(let regex):
            return String(decoding: data.bytes, as: UTF8.self).firstMatch(of: regex) != nil
        }
    }

    private static func contains(_ text: Span<UInt8>, _ bytes: [UInt8]) -> Bool {
        guard bytes.count <= text.count else { return false }
        for start in 0...(text.count - bytes.count) {
            var length = 0
            while length < bytes.count, text[start + length] == bytes[length] { length += 1 }
            if length == bytes.count { return true }
        }
        return false
    }
}
