internal import Guest
internal import Machine

/// Finds the instructions to be rewritten that no file tells of (DESIGN 3): in firmware, in flat
/// images, in code that was unpacked.
///
/// A candidate is rewritten when it is about to be executed, and never before: a hardware breakpoint
/// stands on it. There are four. Where there are more candidates, those stand that are nearest to
/// where the guest is, along the flow of its code; this type chooses them anew at each exit. What it
/// chooses is a function of the exits alone, so that recordings under a virtual clock are equal; and
/// no replay depends on it, since the tape tells where each rewriting took place.
struct CodeWatch: Sendable {
    /// How many breakpoints there are.
    static let capacity = 4

    private var candidates: CodeCandidates
    /// Linear addresses of what the image itself says is code: rewritten at load.
    private let certain: [Range<UInt64>]
    /// What is to be looked through at the first exit.
    private var loaded: [Range<UInt64>]
    /// Choices, by number; 0 is none.
    private var choices: [[UInt64]] = [[]]
    /// The number of the choice that stands; ``none`` where a candidate of it has gone.
    private var standing: UInt32 = 0
    /// What stands.
    private var stood: [UInt64] = []
    /// What was chosen at places seen before: a fixed table, so that most exits cost one look.
    private var sites = [Site](repeating: Site(), count: tableLength)
    private var generation: UInt32 = 0

    private struct Site: Sendable {
        var rip: UInt64 = .max
        var codeBase: UInt64 = .max
        var choice: UInt32 = 0
    }

    private static let tableLength = 1024
    private static let none: UInt32 = .max
    /// Choices kept before the table is begun anew.
    private static let maximumChoices = 4096

    /// - Parameters:
    ///   - second: the second bytes of the instructions to look for; the first is 0F.
    ///   - certain: linear addresses that need no watch.
    ///   - loaded: linear addresses where code may be from the start.
    init(second: [UInt8], certain: [Range<UInt64>], loaded: [Range<UInt64>]) {
        candidates = CodeCandidates(second: second)
        self.certain = certain
        self.loaded = loaded
    }

    @inline(__always)
    private static func slot(_ rip: UInt64) -> Int {
        Int(truncatingIfNeeded: (rip ^ rip >> 10) & UInt64(tableLength - 1))
    }

    /// Whether what stands is what was chosen at this place before.
    @inline(__always)
    func isCurrent(rip: UInt64, codeBase: UInt64) -> Bool {
        let site = sites[Self.slot(rip)]
        return site.rip == rip && site.codeBase == codeBase && site.choice == standing
    }

    /// Chooses the candidates to stand at from an exit on; nil where those that stand do.
    mutating func choose(
        _ registers: GeneralRegisters, _ system: SystemRegisters, memory: borrowing GuestMemory
    ) -> [GuestVirtualAddress]? {
        let linear = system.linearAddress(ofCode: registers.rip).rawValue
        let codeBase = system[.cs].base
        let slot = Self.slot(registers.rip)
        let site = sites[slot]
        if site.rip == registers.rip, site.codeBase == codeBase {
            return stand(site.choice)
        }
        // Ring 3 cannot be given an OUT, and its RDTSC shows no more than ring 0's.
        let isWatched = system.cpl != 3 && !certain.contains { $0.contains(linear) }
        var choice = standing
        if isWatched {
            for range in loaded {
                candidates.scan(
                    range.lowerBound, length: UInt64(range.count), system: system, memory: memory)
            }
            loaded = []
            candidates.look(around: linear, system: system, memory: memory)
            if candidates.generation != generation { forget() }
            choice = number(of: best(registers, system, linear, memory: memory))
        } else if choice == Self.none {
            choice = number(of: stood)
        }
        sites[slot] = Site(rip: registers.rip, codeBase: codeBase, choice: choice)
        return stand(choice)
    }

    /// A candidate was rewritten, or turned out to be none; the rest is chosen anew.
    mutating func remove(_ address: GuestVirtualAddress) {
        candidates.remove(address.rawValue)
        stood.removeAll { $0 == address.rawValue }
        forget()
    }

    /// Forgets what was chosen where; what stands goes on standing until the next choice.
    private mutating func forget() {
        generation = candidates.generation
        choices = [[]]
        standing = Self.none
        for index in sites.indices { sites[index] = Site() }
    }

    private mutating func stand(_ choice: UInt32) -> [GuestVirtualAddress]? {
        guard choice != standing else { return nil }
        standing = choice
        stood = choices[Int(choice)]
        return stood.map { GuestVirtualAddress($0) }
    }

    private mutating func number(of addresses: [UInt64]) -> UInt32 {
        if let known = choices.firstIndex(of: addresses) { return UInt32(known) }
        if choices.count >= Self.maximumChoices { forget() }
        choices.append(addresses)
        return UInt32(choices.count - 1)
    }

    /// The nearest candidates, in ascending order: those the code leads to soonest; of the others
    /// RDTSC before CPUID, whose answer is the same at all times; what no exit comes before, what is
    /// likely to be code, what is near by address.
    private mutating func best(
        _ registers: GeneralRegisters, _ system: SystemRegisters, _ linear: UInt64,
        memory: borrowing GuestMemory
    ) -> [UInt64] {
        let all = candidates.all
        guard all.count > Self.capacity else { return all.map(\.address) }
        let reach = CodeReach(
            from: registers, system: system, memory: memory, wanted: Set(all.map(\.address)))
        func rank(_ candidate: CodeCandidates.Candidate) -> (Int, Int, UInt64, UInt64) {
            let address = candidate.address
            let away = address > linear ? address - linear : linear - address
            let likelihood =
                (candidate.code.isLikely ? 0 : 4)
                + (candidate.second == RewriteTraps.secondOfRDTSC ? 0 : 2)
                + (candidate.code.isGuarded ? 1 : 0)
            return (reach.distances[address] ?? .max, likelihood, away, address)
        }
        let ranked = all.map { (rank: rank($0), address: $0.address) }.sorted { $0.rank < $1.rank }
        return ranked.prefix(Self.capacity).map(\.address).sorted()
    }
}
