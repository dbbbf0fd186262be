/// One thing that is known about the host a guest ran on.
public struct HostFact: Equatable, Sendable {
    /// What a difference means for a replay.
    public enum Weight: UInt8, Sendable {
        /// Told, never compared: a CPU's model name.
        case description = 0
        /// Part of how KVM behaves: where it differs, exits may differ, and a replay is refused
        /// unless forced.
        case behaviour = 1
    }

    /// A stable dotted name: `kvm.rip-after.io-out`.
    public var name: String
    /// The value as text: `yes`, `6.18.44`, `0x76d81203`.
    public var value: String
    /// What a difference means.
    public var weight: Weight

    /// Makes a fact.
    public init(_ name: String, _ value: String, _ weight: Weight) {
        self.name = name
        self.value = value
        self.weight = weight
    }
}

/// What is known about a host, in a fixed order, so that equal hosts give equal bytes.
public struct HostFacts: Equatable, Sendable {
    /// The facts; names are unique.
    public var facts: [HostFact]

    /// Makes a list of facts.
    public init(_ facts: [HostFact] = []) { self.facts = facts }

    /// The value of a fact, nil where it is not known.
    public subscript(name: String) -> String? { facts.first { $0.name == name }?.value }

    /// The value of a fact whose probe could not tell: it says nothing, and differs from nothing.
    public static let unknown = "unknown"

    /// The behaviours in which two hosts differ, with both values.
    ///
    /// What one of them does not know, because a probe failed or an older version did not ask,
    /// does not count as a difference.
    public func behavioursThatDiffer(from other: HostFacts) -> [Difference] {
        var differences: [Difference] = []
        for fact in facts where fact.weight == .behaviour && fact.value != Self.unknown {
            guard let there = other[fact.name], there != Self.unknown, there != fact.value else {
                continue
            }
            differences.append(.init(name: fact.name, here: fact.value, there: there))
        }
        return differences
    }

    /// A behaviour in which two hosts differ.
    public struct Difference: Equatable, Sendable {
        /// The fact's name.
        public var name: String
        /// Its value in the facts that were asked.
        public var here: String
        /// Its value in the facts that were given.
        public var there: String
    }
}

/// One row of a CPUID table, as KVM's `struct kvm_cpuid_entry2` holds it.
public struct CPUIDEntry: Hashable, Sendable {
    /// EAX of the request.
    public var function: UInt32
    /// ECX of the request, where ``isIndexSignificant``.
    public var index: UInt32
    /// KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the answer depends on ECX.
    public var isIndexSignificant: Bool
    /// The answer.
    public var eax: UInt32
    /// The answer.
    public var ebx: UInt32
    /// The answer.
    public var ecx: UInt32
    /// The answer.
    public var edx: UInt32

    /// Makes a row.
    public init(
        function: UInt32, index: UInt32 = 0, isIndexSignificant: Bool = false, eax: UInt32,
        ebx: UInt32, ecx: UInt32, edx: UInt32
    ) {
        self.function = function
        self.index = index
        self.isIndexSignificant = isIndexSignificant
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }
}
