internal import Machine
internal import Trace

/// A condition on exits, in a small language of its own.
///
/// A filter compares fields of an exit with numbers, names and strings, and joins comparisons
/// with `and`, `or` and `not`:
///
///     reason == io and port == 0x3f8 and dir == out
///     symbol ~ "panic" or rax > 0x1000 and cpl == 3
///     exit in 100..200 and not changed(rbx)
///     port in {0x60, 0x64, 0x3f8..0x3ff} and data == "A"
///
/// Binding, tightest first: `& + -`; comparisons; `not`; `and`; `or`. Numbers are unsigned and 64
/// bits wide, decimal, `0x…` or `0b…`, with units where wanted (ns us ms s; k m g), and
/// arithmetic wraps around. What an exit does not have (the port of a HLT, the symbol of an
/// address without one) makes every comparison with it false, `!=` too. ``help`` lists the fields.
///
/// The text is checked and compiled once. Evaluation allocates nothing, but for regular
/// expressions over `data`; conditions on names are decided once per distinct address.
public struct Filter {
    /// The filter as it was given.
    public let text: String
    private let program: FilterProgram
    /// Per matcher, by the number of an address: 0 not known yet, 1 no, 2 yes.
    private var known: [[UInt8]]

    /// Compiles a filter.
    ///
    /// - Throws: what is wrong with the text, and at which column.
    public init(_ text: String) throws(FilterError) {
        self.text = text
        program = try FilterParser.program(of: text)
        known = Array(repeating: [], count: program.matchers.count)
    }

    /// Whether the filter asks for names, so that symbols are worth loading.
    public var usesSymbols: Bool {
        !program.matchers.isEmpty
            || program.nodes.contains { $0.operation == .field && $0.field.kind == .line }
    }

    /// The exits outside of which the filter is certain to be false; nil where it always is.
    ///
    /// A reader begins and ends there: `exit in 5000000..5000010` decodes one block.
    public var exitBounds: ClosedRange<UInt64>? { bounds(program.root, isNegated: false) }

    /// Whether some exit with a number in `exits` may match; false is certain.
    public func mayMatch(exits: ClosedRange<UInt64>) -> Bool {
        decide(program.root, exits) != false
    }

    /// Whether an exit matches.
    public mutating func matches(_ frame: borrowing ExitFrame, names: AddressNames) -> Bool {
        evaluate(program.root, frame, names)
    }

    // MARK: evaluation

    private mutating func evaluate(
        _ index: Int32, _ frame: borrowing ExitFrame, _ names: AddressNames
    ) -> Bool {
        var at = index
        while true {
            let node = program.nodes[Int(at)]
            switch node.operation {
            case .and:
                guard evaluate(node.left, frame, names) else { return false }
                at = node.right
            case .or:
                if evaluate(node.left, frame, names) { return true }
                at = node.right
            case .not: return !evaluate(node.left, frame, names)
            case .equal, .notEqual, .less, .lessOrEqual, .greater, .greaterOrEqual:
                guard let left = number(node.left, frame, names),
                    let right = number(node.right, frame, names)
                else { return false }
                return Self.compare(node.operation, left, right)
            case .inRanges:
                guard let value = number(node.left, frame, names) else { return false }
                let start = Int(node.right)
                for index in start..<start + Int(node.value)
                where program.ranges[index].contains(value) { return true }
                return false
            case .changedRegister:
                return UInt64(frame.changedRegisters) & node.value != 0
            case .changedSystemWord: return frame.changedSystemWords & node.value != 0
            case .event: return UInt64(frame.eventMask) & node.value != 0
            case .text: return matchesName(Int(node.left), frame, names)
            case .dataEquals, .dataMatches:
                let data = frame.data
                return !data.isEmpty && program.patterns[Int(node.left)].matches(data)
            case .constant, .field, .add, .subtract, .mask: return false
            }
        }
    }

    @inline(__always)
    private static func compare(
        _ operation: FilterProgram.Operation, _ a: UInt64, _ b: UInt64
    ) -> Bool {
        switch operation {
        case .equal: a == b
        case .notEqual: a != b
        case .less: a < b
        case .lessOrEqual: a <= b
        case .greater: a > b
        default: a >= b
        }
    }

    private mutating func matchesName(
        _ matcher: Int, _ frame: borrowing ExitFrame, _ names: AddressNames
    ) -> Bool {
        guard let number = names.number(of: frame.linearAddress) else { return false }
        if number >= known[matcher].count {
            let missing = number + 1 - known[matcher].count
            known[matcher].append(contentsOf: repeatElement(0, count: max(missing, 256)))
        }
        if known[matcher][number] == 0 {
            let isMatch = decide(program.matchers[matcher], names.name(numbered: number))
            known[matcher][number] = isMatch ? 2 : 1
        }
        return known[matcher][number] == 2
    }

    private func decide(_ matcher: FilterProgram.TextMatcher, _ name: AddressName?) -> Bool {
        guard let name else { return false }
        if matcher.field == .symbol { return matcher.pattern.matches(name.function) }
        guard let file = name.file else { return false }
        if matcher.pattern.matches(file) { return true }
        guard case .equals = matcher.pattern, let last = name.fileName else { return false }
        return matcher.pattern.matches(String(last))
    }

    private func number(
        _ index: Int32, _ frame: borrowing ExitFrame, _ names: AddressNames
    ) -> UInt64? {
        let node = program.nodes[Int(index)]
        switch node.operation {
        case .constant: return node.value
        case .field: return node.field.value(in: frame, names)
        case .add, .subtract, .mask:
            guard let left = number(node.left, frame, names),
                let right = number(node.right, frame, names)
            else { return nil }
            switch node.operation {
            case .add: return left &+ right
            case .subtract: return left &- right
            default: return left & right
            }
        default: return nil
        }
    }

    // MARK: what exit numbers alone decide

    /// True or false where that holds for every exit in a range; nil where it depends.
    private func decide(_ index: Int32, _ exits: ClosedRange<UInt64>) -> Bool? {
        var at = index
        while true {
            let node = program.nodes[Int(at)]
            switch node.operation {
            case .and, .or:
                let absorbing = node.operation == .or
                let left = decide(node.left, exits)
                if left == absorbing { return absorbing }
                if left == nil { return decide(node.right, exits) == absorbing ? absorbing : nil }
                at = node.right
            case .not: return decide(node.left, exits).map { !$0 }
            default: return Self.decide(interval(node), exits)
            }
        }
    }

    /// The numbers that make a comparison of the exit number with a constant true.
    private func interval(_ node: FilterProgram.Node) -> [ClosedRange<UInt64>]? {
        if node.operation == .inRanges {
            guard isExitNumber(node.left) else { return nil }
            return Array(program.ranges[Int(node.right)..<Int(node.right) + Int(node.value)])
        }
        guard let (operation, value) = comparison(node) else { return nil }
        switch operation {
        case .equal: return [value...value]
        case .less: return value == 0 ? [] : [0...(value - 1)]
        case .lessOrEqual: return [0...value]
        case .greater: return value == .max ? [] : [(value + 1)...UInt64.max]
        case .greaterOrEqual: return [value...UInt64.max]
        default:
            var parts: [ClosedRange<UInt64>] = []
            if value > 0 { parts.append(0...(value - 1)) }
            if value < .max { parts.append((value + 1)...UInt64.max) }
            return parts
        }
    }

    private static func decide(
        _ parts: [ClosedRange<UInt64>]?, _ exits: ClosedRange<UInt64>
    ) -> Bool? {
        guard let parts else { return nil }
        if parts.contains(where: {
            $0.lowerBound <= exits.lowerBound && $0.upperBound >= exits.upperBound
        }) {
            return true
        }
        return parts.contains { $0.overlaps(exits) } ? nil : false
    }

    private func isExitNumber(_ index: Int32) -> Bool {
        let node = program.nodes[Int(index)]
        return node.operation == .field && node.field.kind == .exit
    }

    /// A comparison of the exit number with a constant, the exit number on the left.
    private func comparison(
        _ node: FilterProgram.Node
    ) -> (FilterProgram.Operation, UInt64)? {
        let mirrored: FilterProgram.Operation
        switch node.operation {
        case .equal, .notEqual: mirrored = node.operation
        case .less: mirrored = .greater
        case .lessOrEqual: mirrored = .greaterOrEqual
        case .greater: mirrored = .less
        case .greaterOrEqual: mirrored = .lessOrEqual
        default: return nil
        }
        let left = program.nodes[Int(node.left)]
        let right = program.nodes[Int(node.right)]
        if isExitNumber(node.left), right.operation == .constant {
            return (node.operation, right.value)
        }
        if isExitNumber(node.right), left.operation == .constant {
            return (mirrored, left.value)
        }
        return nil
    }

    /// The smallest interval with all exits that a node may hold for.
    private func bounds(_ index: Int32, isNegated: Bool) -> ClosedRange<UInt64>? {
        var node = program.nodes[Int(index)]
        switch node.operation {
        case .and, .or:
            let isConjunction = (node.operation == .and) != isNegated
            let operation = node.operation
            var result = bounds(node.left, isNegated: isNegated)
            while true {
                let next = program.nodes[Int(node.right)]
                let isChain = next.operation == operation
                let right = bounds(isChain ? next.left : node.right, isNegated: isNegated)
                result = isConjunction ? Self.common(result, right) : Self.hull(result, right)
                if !isChain { return result }
                node = next
            }
        case .not: return bounds(node.left, isNegated: !isNegated)
        default:
            guard !isNegated, let parts = interval(node) else {
                return 0...UInt64.max
            }
            return parts.reduce(nil) { Self.hull($0, $1) }
        }
    }

    private static func common(
        _ a: ClosedRange<UInt64>?, _ b: ClosedRange<UInt64>?
    ) -> ClosedRange<UInt64>? {
        guard let a, let b, a.overlaps(b) else { return nil }
        return max(a.lowerBound, b.lowerBound)...min(a.upperBound, b.upperBound)
    }

    private static func hull(
        _ a: ClosedRange<UInt64>?, _ b: ClosedRange<UInt64>?
    ) -> ClosedRange<UInt64>? {
        guard let a else { return b }
        guard let b else { return a }
        return min(a.lowerBound, b.lowerBound)...max(a.upperBound, b.upperBound)
    }
}
