/// What interrupts in mid-flight took.
public struct MidFlightCounts: Equatable, Sendable {
    /// Interrupts injected in mid-flight.
    public var landmarks: UInt64 = 0
    /// Of those, the ones injected in ring 3 (known while recording).
    public var landmarksInRing3: UInt64 = 0
    /// Stops in ring 3, on hosts where they are made by the guest's own exceptions.
    public var ring3Stops: UInt64 = 0
    /// Recording: places that were not allowed.
    public var refusedPlaces: UInt64 = 0
    /// Of those, the ones in ring 3.
    public var refusedInRing3: UInt64 = 0
    /// Interrupts at places that no replay would come to: the trace holds the machine there.
    public var storedPlaces: UInt64 = 0
    /// Replay: places with a landmark's registers.
    public var hits: UInt64 = 0
    /// Replay: of those, the ones whose count of instructions, memory or other state differed.
    public var rejectedHits: UInt64 = 0
    /// Replay: instructions stepped.
    public var steps: UInt64 = 0
    /// Replay: times the guest coasted.
    public var coasts: UInt64 = 0
    /// Replay: searches that overshot, and were begun again from a checkpoint.
    public var repairs: UInt64 = 0

    /// None.
    public init() {}
}
