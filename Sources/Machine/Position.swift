/// A place in a run: after which exit, and how many instructions since (DESIGN 2).
///
/// A position lies between two instructions. `N+K` in text is K instructions after exit N has been
/// answered and all that it left pending is done; the time before exit 0 is `begin`. Which machine
/// stands there is the same in every replay, so that positions may be kept, compared and told to
/// others.
public struct Position: Hashable, Sendable {
    /// How many exits have been made: one more than the number of the last one.
    public var exitCount: UInt64
    /// Instructions executed since. Where the host counts them, as it does: KVM's emulator counts a
    /// REP once for each 1,024 iterations that it begins and once when it ends, and an instruction that
    /// faults. Elsewhere by single steps, a REP being one. A machine never rests inside of either.
    public var instructions: UInt64
    /// Where the host counts none in ring 3: single steps there, one a REP's iteration, since ring 3
    /// was entered. Nil at an exit, in ring 0, and where the host counts.
    public var ring3: UInt64?

    /// Makes a position.
    public init(exitCount: UInt64, instructions: UInt64 = 0, ring3: UInt64? = nil) {
        self.exitCount = exitCount
        self.instructions = instructions
        self.ring3 = ring3
    }

    /// Before the first instruction.
    public static let begin = Position(exitCount: 0)

    /// After an exit of this number; nil: it has none after it.
    public init?(after exit: UInt64, instructions: UInt64 = 0) {
        guard exit < .max else { return nil }
        self.init(exitCount: exit + 1, instructions: instructions)
    }
}

extension Position: Comparable {
    /// Earlier in the run.
    public static func < (a: Position, b: Position) -> Bool {
        (a.exitCount, a.instructions, a.order) < (b.exitCount, b.instructions, b.order)
    }

    /// Ring 3 comes behind the exit that it goes on from, and before the place where it enters ring 0,
    /// which has the same count of instructions.
    private var order: UInt64 {
        guard let ring3 else { return instructions == 0 ? 0 : .max }
        return min(ring3, .max - 2) + 1
    }
}

extension Position: LosslessStringConvertible {
    /// `begin`, `begin+K`, `N`, `N+K`, and `N+K.U` in ring 3: what ``init(_:)`` takes.
    public var description: String {
        let exit = exitCount == 0 ? "begin" : String(exitCount - 1)
        if let ring3 { return "\(exit)+\(instructions).\(ring3)" }
        return instructions == 0 ? exit : "\(exit)+\(instructions)"
    }

    /// Reads a position; nil where the text is none.
    public init?(_ text: String) {
        let parts = text.split(separator: "+", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first else { return nil }
        var instructions: UInt64 = 0
        var ring3: UInt64?
        if parts.count == 2 {
            let counts = parts[1].split(
                separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
            guard let count = counts.first.flatMap({ Self.number($0) }) else { return nil }
            instructions = count
            if counts.count == 2 {
                guard let steps = Self.number(counts[1]) else { return nil }
                ring3 = steps
            }
        }
        if first == "begin" {
            self.init(exitCount: 0, instructions: instructions)
        } else if let exit = Self.number(first) {
            self.init(after: exit, instructions: instructions)
        } else {
            return nil
        }
        self.ring3 = ring3
    }

    /// Decimal digits only: no sign, which `UInt64(_:)` would take.
    private static func number(_ text: Substring) -> UInt64? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        return UInt64(text)
    }
}
