/// How closely two traces are compared.
public enum DiffLevel: String, CaseIterable, Sendable {
    /// Every deterministic byte: two runs of one guest.
    case full
    /// What each exit was and the function it came from, without registers: two builds.
    case symbol
    /// What the guest did to the outside, whenever it did it.
    case io
}

/// One of two traces.
public enum DiffSide: String, Sendable {
    /// The first.
    case a
    /// The second.
    case b
}

/// What differs in one respect.
public struct Difference: Equatable, Sendable {
    /// In which: `rax`, `data`, `machine`, `image kernel.elf`.
    public var name: String
    /// How it is in the first trace; nil where it is not there.
    public var a: String?
    /// How it is in the second.
    public var b: String?

    /// Makes a difference.
    public init(_ name: String, _ a: String?, _ b: String?) {
        self.name = name
        self.a = a
        self.b = b
    }
}

/// What comparing two traces found.
public struct DiffResult: Sendable {
    /// In a word: whether the runs are the same.
    public enum Outcome: Sendable {
        /// They are, at the level asked for, to their ends.
        case same
        /// One is the beginning of the other: this one is shorter.
        case prefix(shorter: DiffSide)
        /// They part.
        case diverged(Divergence)
        /// They agree as far as they can be read; this is why no more can be said.
        case unreadable(String)
    }

    /// The level of the comparison.
    public var level: DiffLevel
    /// Machine, CPUID, images, command line, and so on.
    public var headerDifferences: [Difference]
    /// Whether the runs are the same.
    public var outcome: Outcome
    /// Exits that are the same on both sides, counted from 0; of `io`, outputs.
    public var agreed: UInt64
    /// Exits of both traces.
    public var exitCounts: (a: UInt64, b: UInt64)
    /// The first input that differs, where some input does.
    public var firstInput: InputDifference?
    /// What came after the first difference; nil where there is none.
    public var aftermath: Aftermath?
    /// What should be known of the traces themselves: that one is incomplete or damaged.
    public var notes: [String]
    /// Blocks of events that were decoded of each trace, whatever the number of times.
    public var blocksRead: (a: Int, b: Int)
    /// Headers of blocks that were read of each trace.
    public var headersRead: (a: Int, b: Int)

    /// Whether there is no difference at all, headers included.
    public var isSame: Bool {
        if case .same = outcome { return true }
        return false
    }
}

/// Where two runs part.
public struct Divergence: Sendable {
    /// The exits that differ, by number; nil before the first exit, and where a side ended.
    public var exits: (a: UInt64?, b: UInt64?)
    /// The exits that differ; nil where a side has none.
    public var frames: (a: ExitFrame?, b: ExitFrame?)
    /// In what they differ, registers included.
    public var differences: [Difference]
    /// The exits before, of the first trace, the oldest first.
    public var contextA: [ExitFrame]
    /// The exits before, of the second trace; empty where they are the same as ``contextA``.
    public var contextB: [ExitFrame]
}

/// The first thing that the outside did differently to the two guests.
public struct InputDifference: Equatable, Sendable {
    /// Inputs that are the same on both sides before it.
    public var agreed: UInt64
    /// The exits that it belongs to; nil where a side has no such input.
    public var exitA: UInt64?
    /// In the second trace.
    public var exitB: UInt64?
    /// The input in words; nil where a side has none.
    public var a: String?
    /// In the second trace.
    public var b: String?
}

/// What two runs did after they parted, within a window.
public struct Aftermath: Equatable, Sendable {
    /// Exits of one kind that only one side has.
    public struct Kind: Equatable, Sendable {
        /// `in 0x3fd`, `write 0xfee000b0`, `hlt`.
        public var label: String
        /// How many only the first has, and how many only the second.
        public var onlyA: UInt64
        /// How many only the second has.
        public var onlyB: UInt64
    }

    /// Exits that were looked at on each side, from the first difference on.
    public var windowA: UInt64
    /// Of the second trace.
    public var windowB: UInt64
    /// Pairs of exits with the same reason and site, in order.
    public var matched: UInt64
    /// Exits of the first trace without a partner.
    public var onlyA: UInt64
    /// Exits of the second trace without a partner.
    public var onlyB: UInt64
    /// Where the runs go on alike, as exits of both sides; nil where they do not in the window.
    public var meeting: Meeting?
    /// What has no partner, by kind, those that are most first.
    public var kinds: [Kind]
    /// The window was too different to be aligned to its end.
    public var isCutShort: Bool

    /// Where two runs meet again.
    public struct Meeting: Equatable, Sendable {
        /// The exit of the first trace.
        public var exitA: UInt64
        /// The exit of the second trace.
        public var exitB: UInt64
        /// Pairs in a row from there on.
        public var length: UInt64
        /// They stay together to the end of the window.
        public var lasts: Bool
    }
}
