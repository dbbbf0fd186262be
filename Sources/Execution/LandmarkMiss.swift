internal import KVM
public import Machine
public import Trace

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
    /// How the nearest of those differed; nil where there was none, or the trace does not tell.
    public var difference: LandmarkDifference?

    /// What happened, and what kept the place from matching; a clause a line.
    public var lines: [String] {
        var lines = ["the interrupt in mid-flight finds no place: \(reason)"]
        var places =
            "places with its registers: \(hits), with other memory or state: \(rejectedHits)"
        if let recorded = landmark.progress, let progress {
            places += "; instruction counter recorded \(recorded), at last \(progress)"
        }
        lines.append(places)
        if let difference { lines.append(difference.line) }
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
}

/// How a place with a landmark's registers differs from it.
public struct LandmarkDifference: Equatable, Sendable {
    /// The CPU's other state does: vector and system registers, MSRs.
    public var isInProcessor: Bool
    /// RAM does.
    public var isInMemory: Bool
    /// Pages in which RAM does, by ascending number, as far as they are known.
    public var pages: [UInt64]

    /// How many pages are named.
    private static let namedPages = 8

    /// - Parameter changedPages: as ``Processor/changedPages()`` says; nil where that was not kept
    ///   since the landmark before.
    init?(_ parts: LandmarkParts?, _ state: MachineState, changedPages: [MemoryDigest.Page]?) {
        guard let parts else { return nil }
        isInProcessor = parts.processor != state.processor.low
        isInMemory = parts.memory != state.memory.low
        pages = isInMemory ? Self.pages(parts, changedPages: changedPages) : []
    }

    /// A difference in RAM, whatever the CPU holds.
    init(inMemory parts: LandmarkParts, changedPages: [MemoryDigest.Page]?) {
        isInProcessor = false
        isInMemory = true
        pages = Self.pages(parts, changedPages: changedPages)
    }

    private static func pages(
        _ parts: LandmarkParts, changedPages: [MemoryDigest.Page]?
    ) -> [UInt64] {
        guard let recorded = parts.pages, let replayed = changedPages else { return [] }
        // Behind the last of a full list nothing is known.
        let last = recorded.count < LandmarkParts.pageLimit ? nil : recorded.last?.number
        let mine = replayed.filter { page in last.map { page.number <= $0 } ?? true }
        let both = Set(recorded.map(\.number) + mine.map(\.number)).sorted()
        return both.filter { number in
            recorded.first { $0.number == number } != mine.first { $0.number == number }
        }
    }

    /// Less of it is nearer.
    var weight: Int { (isInProcessor ? 1 : 0) + (isInMemory ? max(pages.count, 1) : 0) }

    var line: String {
        var parts: [String] = []
        if isInProcessor { parts.append("vector, system or debug registers or MSRs") }
        if isInMemory {
            let named = pages.prefix(Self.namedPages).map { "0x" + String($0 << 12, radix: 16) }
            let more = pages.count > named.count ? " and \(pages.count - named.count) more" : ""
            parts.append(
                named.isEmpty
                    ? "RAM" : "RAM, page \(named.joined(separator: ", "))\(more)")
        }
        return "the nearest place with its registers differs in "
            + (parts.isEmpty
                ? "nothing that the trace tells" : parts.joined(separator: ", and in "))
    }
}
