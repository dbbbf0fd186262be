internal import Machine
internal import Trace

/// How a replay finds a landmark again: which move is next, as a function of what was seen.
///
/// With a progress counter the guest runs freely (*coasts*) under a short timer while the landmark
/// is far, in slices far shorter than it needs to get there. Near it, and all the way where the
/// place is not hot or there is no counter, a hardware breakpoint stands at the landmark's RIP, and
/// a miss is stepped over (RF is not honoured everywhere; KVM-FACTS).
///
/// A guest that was let run too far is put back to where the search began, and searched again with
/// care (``beginAgain()``): in short slices, then step by step, and whatever the counter says.
struct LandmarkSearch: Sendable {
    /// What to do next.
    enum Move: Equatable, Sendable {
        /// Let the guest run for a time; guarded: no further than to the breakpoint.
        case coast(nanoseconds: UInt64, isGuarded: Bool)
        /// Run one instruction.
        case step
        /// Run to the breakpoint.
        case runToBreakpoint
        /// Let ring 3 run to where it enters ring 0, or to the place if it may be there.
        case runInRing3(stopsThere: Bool)
        /// The place is behind us, or was never there.
        case giveUp
    }

    /// Bits of RFLAGS that are no part of a place: RF, which breakpoints and steps touch, and TF.
    static let maskedFlags = FlagBits.resume | FlagBits.trap
    /// Instructions before the landmark from which on it is stepped.
    static let steppedInstructions: UInt64 = 12
    /// Instructions of ring 0 before the landmark from which on ring 3 is not left to a timer: it may
    /// end in ring 3, where a slice could run past it.
    private static let farInstructions: UInt64 = 20_000
    /// Breakpoint hits on the way after which the place counts as hot, and the guest coasts without
    /// the breakpoint until it is near.
    private static let hotHits: UInt64 = 4
    /// The same in a search with care.
    private static let carefulInstructions: UInt64 = 4096
    /// What a search may take of a host CPU, in ring 3 and where nothing counts: nothing else tells
    /// there that the place is behind. In seconds many times what any search was seen to need.
    static let budgetNanoseconds: UInt64 = 60_000_000_000
    /// How far the counter may be past the landmark before it is given up.
    static let slackInstructions: UInt64 = 64
    /// A shorter slice ends before the guest is entered: it is not worth the kick.
    static let shortestSlice: UInt64 = 15_000
    /// Instructions to step after a slice in which the guest did not move.
    private static let stepsAfterIdleSlice: UInt64 = 16
    /// Moves without one counted instruction after which the guest is held to be stuck.
    private static let movesWithoutProgress = 4096
    /// The least reserve where the place may be in ring 3: a slice that ends behind it there is not
    /// told by the counter.
    private static let ring3Reserve: UInt64 = 240
    /// A loop of no more instructions is stepped when the place is near: a stop at the breakpoint
    /// costs as much as four steps, being armed, disarmed and stepped over.
    private static let tightLoop: UInt64 = 5

    let landmark: Landmark
    /// Ring 3 can reach the place, and breakpoints do not stop it there.
    var mayBeInRing3 = false
    /// An interrupt is to be injected there.
    var isInterrupt = true
    /// How fast the guest is, from the searches before and this one.
    private(set) var pace: CoastingPace
    /// Places with equal registers.
    private(set) var hits: UInt64 = 0
    /// Of those, the ones at which the rest of the state differed.
    private(set) var rejectedHits: UInt64 = 0
    /// Instructions that were stepped.
    private(set) var steps: UInt64 = 0
    /// Times the guest coasted.
    private(set) var coasts: UInt64 = 0
    /// This is the second search, with care.
    private(set) var isCareful = false
    /// How the nearest of the rejected hits differed.
    private(set) var difference: LandmarkDifference?
    /// Registers of the place that was nearest by count, or the last one.
    private(set) var nearest: GeneralRegisters?
    private var nearestDistance = UInt64.max
    private var lastCount: UInt64?
    private var movesAtCount = 0
    private var forcedSteps: UInt64 = 0
    private var earlyHits: UInt64 = 0
    private var lastStop: UInt64?
    private var isTight = false

    init(_ landmark: Landmark, pace: CoastingPace = CoastingPace()) {
        self.landmark = landmark
        self.pace = pace
        // The next landmark's place is likely hot where this one's was.
        if pace.isHot { earlyHits = Self.hotHits - 1 }
    }

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

    /// The registers matched, and the whole state did.
    mutating func noteHit() { hits += 1 }

    /// The registers matched, and the count or the rest of the state did not.
    mutating func noteRejectedHit(_ difference: LandmarkDifference?) {
        hits += 1
        rejectedHits += 1
        guard let difference, difference.weight < self.difference?.weight ?? .max else { return }
        self.difference = difference
    }

    /// Whether the counter says that this cannot be the place, whatever the registers are.
    func isElsewhere(count: UInt64?) -> Bool {
        guard !isCareful, let count, let target = landmark.progress else { return false }
        return count != target
    }

    /// The guest is back where the search began.
    mutating func beginAgain() {
        isCareful = true
        pace.noteOvershoot()
        nearestDistance = .max
        lastCount = nil
        movesAtCount = 0
        forcedSteps = 0
        earlyHits = 0
        lastStop = nil
        isTight = false
    }

    /// What the next search can do with.
    mutating func end() -> CoastingPace {
        if !isCareful { pace.noteSearch() }
        pace.isHot = earlyHits >= Self.hotHits
        return pace
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
    mutating func noteCoast(
        nanoseconds: UInt64, instructions: UInt64, wasInRing3: Bool = false
    ) {
        coasts += 1
        if instructions == 0, !wasInRing3 { forcedSteps = Self.stepsAfterIdleSlice }
        pace.note(nanoseconds: nanoseconds, instructions: instructions)
    }

    /// The next move.
    ///
    /// - Parameters:
    ///   - count: the progress counter's value where there is one.
    ///   - isFlat: addresses in code are linear ones, now and at the landmark: 64-bit code. Elsewhere
    ///     the code segment can have changed by then (firmware goes from protected to real mode and
    ///     back), and a breakpoint would stand at the wrong place: the guest is stepped.
    ///   - isRing3: the guest is in ring 3, where nothing counts and KVM's breakpoints and steps do
    ///     not work.
    mutating func next(
        count: UInt64?, isAtBreakpoint: Bool, isFlat: Bool = true, isRing3: Bool = false
    ) -> Move {
        guard let target = landmark.progress, let count else {
            if isRing3 { return .runInRing3(stopsThere: mayBeInRing3) }
            return isAtBreakpoint || isCareful || !isFlat ? step() : .runToBreakpoint
        }
        movesAtCount = count == lastCount ? movesAtCount + 1 : 0
        lastCount = count
        if isRing3 {
            movesAtCount = 0
            guard count <= target else { return .giveUp }
            let left = target - count
            guard left > Self.farInstructions else {
                return .runInRing3(stopsThere: left == 0 && mayBeInRing3)
            }
            forcedSteps = 0
        }
        guard movesAtCount < Self.movesWithoutProgress else { return .giveUp }
        if count > target {
            return count - target <= Self.slackInstructions ? step() : .giveUp
        }
        let left = target - count
        if isAtBreakpoint { noteStop(at: count, left: left) }
        if isAtBreakpoint || left <= Self.steppedInstructions { return step() }
        if isCareful, left <= Self.carefulInstructions { return step() }
        if forcedSteps > 0 {
            forcedSteps -= 1
            return step()
        }
        let reserve = mayBeInRing3 ? max(pace.reserve, Self.ring3Reserve) : pace.reserve
        guard left > reserve else {
            return isFlat && !mayBeInRing3 && !isTight ? .runToBreakpoint : step()
        }
        // Two thirds of the way at the fastest that was seen; no overflow, whatever the trace says.
        let each =
            mayBeInRing3 ? pace.shortestNanoseconds : pace.nanosecondsPerInstruction
        let free = min(left - (mayBeInRing3 ? Self.ring3Reserve / 2 : 0), 1 << 32)
        let slice = free * each * 2 / 3
        return .coast(
            nanoseconds: max(isCareful ? slice / 4 : slice, Self.shortestSlice),
            isGuarded: isFlat && !isCareful && earlyHits < Self.hotHits)
    }

    private mutating func noteStop(at count: UInt64, left: UInt64) {
        if left > pace.reserve { earlyHits += 1 }
        if let lastStop, count &- lastStop <= Self.tightLoop { isTight = true }
        lastStop = count
    }

    /// The next move where the guest is about to return to ring 3, which KVM's steps do not reach.
    mutating func returnToRing3(count: UInt64?) -> Move {
        guard let target = landmark.progress, let count else {
            return .runInRing3(stopsThere: mayBeInRing3)
        }
        guard count < target else { return .giveUp }
        // The return counts one.
        return .runInRing3(stopsThere: target - count == 1 && mayBeInRing3)
    }

    private mutating func step() -> Move {
        steps += 1
        return .step
    }
}
