/// Where to go in a recorded run, as people say it: `begin`, `begin+K`, `N`, `N+K`, `N+K.U`, `P%`,
/// `end`.
public enum Destination: Equatable, Sendable {
    /// A position of the run; it may be beyond the end.
    case position(Position)
    /// So many thousandths of a percent of the exits, 100,000 at most.
    case share(UInt64)
    /// The end of the recording.
    case end

    /// Thousandths of a percent in the whole.
    private static let whole: UInt64 = 100_000

    /// The position in a run of so many exits; nil: the end, wherever that is.
    public func position(inRunOf exitCount: UInt64) -> Position? {
        switch self {
        case .position(let position): return position
        case .share(let share):
            let product = exitCount.multipliedFullWidth(by: min(share, Self.whole))
            return Position(exitCount: Self.whole.dividingFullWidth(product).quotient)
        case .end: return nil
        }
    }
}

extension Destination: LosslessStringConvertible {
    /// What ``init(_:)`` takes.
    public var description: String {
        switch self {
        case .position(let position): return position.description
        case .share(let share):
            let fraction = String(share % 1000 + 1000).dropFirst()
            let digits = fraction.reversed().drop { $0 == "0" }.reversed()
            return "\(share / 1000)\(digits.isEmpty ? "" : "." + String(digits))%"
        case .end: return "end"
        }
    }

    /// Reads a destination; nil where the text is none.
    public init?(_ text: String) {
        if text == "end" {
            self = .end
        } else if text.hasSuffix("%") {
            guard let share = Self.thousandths(text.dropLast()), share <= Self.whole else {
                return nil
            }
            self = .share(share)
        } else if let position = Position(text) {
            self = .position(position)
        } else {
            return nil
        }
    }

    /// `50`, `33.3`, `0.125`, in thousandths.
    private static func thousandths(_ text: Substring) -> UInt64? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), parts.allSatisfy({ !$0.isEmpty }),
            parts.joined().utf8.allSatisfy({ (48...57).contains($0) }), parts[0].count <= 3,
            let first = UInt64(parts[0])
        else { return nil }
        guard parts.count == 2 else { return first * 1000 }
        guard parts[1].count <= 3, let rest = UInt64(parts[1]) else { return nil }
        return first * 1000 + [0, 100, 10, 1][parts[1].count] * rest
    }
}
