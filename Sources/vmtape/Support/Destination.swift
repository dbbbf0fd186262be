internal import ArgumentParser
internal import Machine
internal import Trace

/// Where in a run, as people say it: `begin`, `begin+K`, `N`, `N+K`, `P%`, `end`.
enum Destination: ExpressibleByArgument, Equatable {
    case position(Position)
    /// So many thousandths of a percent of the exits.
    case share(UInt64)
    case end

    /// Thousandths of a percent in the whole.
    private static let whole: UInt64 = 100_000

    init?(argument: String) {
        if argument == "end" {
            self = .end
        } else if argument.hasSuffix("%") {
            guard let share = Self.thousandths(argument.dropLast()), share <= Self.whole else {
                return nil
            }
            self = .share(share)
        } else if let position = Position(argument) {
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

    /// The position in a trace; nil: the end, wherever that is.
    func position(in reader: TraceReader) -> Position? {
        switch self {
        case .position(let position): return position
        case .share(let share):
            let (high, low) = reader.exitCount.multipliedFullWidth(by: share)
            return Position(exitCount: Self.whole.dividingFullWidth((high, low)).quotient)
        case .end: return nil
        }
    }

    /// As ``init(argument:)`` reads it.
    var text: String {
        switch self {
        case .position(let position): return position.description
        case .share(let share):
            let fraction = String(share % 1000 + 1000).dropFirst()
            let digits = fraction.reversed().drop { $0 == "0" }.reversed()
            return "\(share / 1000)\(digits.isEmpty ? "" : "." + String(digits))%"
        case .end: return "end"
        }
    }

    /// For --help.
    var defaultValueDescription: String { text }
}
