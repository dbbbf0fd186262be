internal import KVM
public import Machine
public import Trace

/// How a replay finds a landmark again: which move is next, as a function of what was seen.
///
/// With a progress counter the guest runs freely (*coasts*) under a short timer while the landmark
/// is far, and is single-stepped over the rest, so that it is never run past: a slice is far
/// shorter than the guest needs to get there. Without one, a hardware breakpoint stands at the
/// landmark's RIP, and a miss is stepped over (RF is not honoured everywhere; KVM-FACTS).
struct LandmarkSearch: Sendable {
    /// What to do next.
    enum Move: Equatable, Sendable {
        /// Let the guest run for a time.
        case coast(nanoseconds: UInt64)
        /// Run one instruction.
        case step
        /// Run to the breakpoint.
        case runToBreakpoint
        /// The place is behind us, or was never there.
        case giveUp
    }

    /// Bits of RFLAGS that are no part of a place: RF, which breakpoints and steps touch, and TF.
    static let maskedFlags: UInt64 = 1 << 16 | 1 << 8
    /// Instructions before the landmark from which on it is stepped: what the guest executes while
    /// a kick is under way, many times over.
    static let steppedInstructions: UInt64 = 40
    /// How far the counter may be past the landmark before it is given up.
    static let slackInstructions: UInt64 = 64
    /// No emulated instruction is faster than this.
    private static let shortestNanoseconds: UInt64 = 100

    let landmark: Landmark
    /// What an instruction takes, as seen while coasting; an underestimate.
    private(set) var nanosecondsPerInstruction = Self.shortestNanoseconds * 3
    /// Places with equal registers.
    private(set) var hits: UInt64 = 0
    /// Of those, the ones at which the rest of the state differed.
    private(set) var rejectedHits: UInt64 = 0
    /// Instructions that were stepped.
    private(set) var steps: UInt64 = 0
    /// Times the guest coasted.
    private(set) var coasts: UInt64 = 0
    /// Registers of the place that was nearest by count, or the last one.
    private(set) var nearest: GeneralRegisters?
    private var nearestDistance = UInt64.max

    init(_ landmark: Landmark) { self.landmark = landmark }

    /// Whether the registers are the landmark's.
    func matches(_ registers: borrowing GeneralRegisters) -> Bool {
        guard registers.rip == landmark.registers.rip else { return false }
        for index in 0..<Register.allCases.count {
            var difference = registers.words[index] ^ landmark.registers.words[index]
            if index == Register.rflags.rawValue { difference &= ~Self.maskedFlags }
            if difference != 0 { return false }
        }
        return true
    }

    /// The registers matched; whether the whole state did.
    mutating func noteHit(isWhole: Bool) {
        hits += 1
        if !isWhole { rejectedHits += 1 }
    }

    /// Remembers where the guest stood when it came nearest.
    mutating func notePlace(_ registers: GeneralRegisters, count: UInt64?) {
        guard let count, let target = landmark.progress else {
            nearest = registers
            return
        }
        let distance = count > target ? count - target : target - count
        guard distance <= nearestDistance else { return }
        nearestDistance = distance
        nearest = registers
    }

    /// What a slice of coasting taught of the guest's speed.
    mutating func noteCoast(nanoseconds: UInt64, instructions: UInt64) {
        coasts += 1
        guard instructions >= 16 else { return }
        let seen = nanoseconds / instructions
        // Down at once, up slowly: too slow a guess overshoots, too fast a one costs a kick.
        nanosecondsPerInstruction =
            seen < nanosecondsPerInstruction
            ? max(Self.shortestNanoseconds, seen)
            : min(seen, nanosecondsPerInstruction + nanosecondsPerInstruction / 4)
    }

    /// The next move; `count` is the progress counter's value where there is one.
    mutating func next(count: UInt64?, isAtBreakpoint: Bool) -> Move {
        guard let target = landmark.progress, let count else {
            if isAtBreakpoint {
                steps += 1
                return .step
            }
            return .runToBreakpoint
        }
        if count > target {
            guard count - target <= Self.slackInstructions else { return .giveUp }
            steps += 1
            return .step
        }
        let left = target - count
        guard left > Self.steppedInstructions else {
            steps += 1
            return .step
        }
        // Two thirds of the way at the fastest that was seen.
        let free = left - Self.steppedInstructions / 2
        return .coast(nanoseconds: max(1, free * nanosecondsPerInstruction * 2 / 3))
    }
}

/// A landmark that a replay did not find.
public struct LandmarkMiss: Sendable {
    /// The exit before the landmark.
    public var exitNumber: UInt64
    /// The landmark.
    public var landmark: Landmark
    /// What ended the search.
    public var reason: String
    /// Where the guest stood at last, or nearest to the landmark by count.
    public var registers: GeneralRegisters
    /// The progress counter at last, where there is one.
    public var progress: UInt64?
    /// Places with the landmark's registers.
    public var hits: UInt64
    /// Of those, the ones at which memory or other state differed.
    public var rejectedHits: UInt64

    /// What happened, and what kept the place from matching; a clause a line.
    public var lines: [String] {
        var lines = ["the interrupt in mid-flight finds no place: \(reason)"]
        let counter = zip2(landmark.progress, progress).map {
            "; instruction counter recorded \($0), at last \($1)"
        }
        lines.append(
            "places with its registers: \(hits), with other memory or state: \(rejectedHits)"
                + (counter ?? ""))
        for register in Register.allCases {
            var difference = registers[register] ^ landmark.registers[register]
            if register == .rflags { difference &= ~LandmarkSearch.maskedFlags }
            guard difference != 0 else { continue }
            lines.append(
                "nearest place: \(register.name) recorded 0x"
                    + String(landmark.registers[register], radix: 16) + ", replayed 0x"
                    + String(registers[register], radix: 16))
        }
        return lines
    }

    private func zip2(_ a: UInt64?, _ b: UInt64?) -> (UInt64, UInt64)? {
        guard let a, let b else { return nil }
        return (a, b)
    }
}

/// What interrupts in mid-flight took.
public struct MidFlightCounts: Equatable, Sendable {
    /// Interrupts injected in mid-flight.
    public var landmarks: UInt64 = 0
    /// Recording: places that were not allowed.
    public var refusedPlaces: UInt64 = 0
    /// Of those, the ones in ring 3.
    public var refusedInRing3: UInt64 = 0
    /// Replay: places with a landmark's registers.
    public var hits: UInt64 = 0
    /// Replay: of those, the ones whose memory or other state differed.
    public var rejectedHits: UInt64 = 0
    /// Replay: instructions stepped.
    public var steps: UInt64 = 0
    /// Replay: times the guest coasted.
    public var coasts: UInt64 = 0

    /// None.
    public init() {}
}
