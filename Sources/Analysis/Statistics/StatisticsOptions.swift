/// By what exits are counted.
public enum Grouping: String, CaseIterable, Sendable {
    /// The KVM exit reason.
    case reason
    /// Port and direction.
    case port
    /// Guest-physical address and direction, of MMIO.
    case address
    /// The address of the causing instruction.
    case site
    /// The function of the causing instruction.
    case symbol
    /// Current privilege level.
    case cpl
    /// CPU mode.
    case mode
}

/// Which time of an exit is summed.
public enum TimeMeasure: String, CaseIterable, Sendable {
    /// Outside the guest, from the exit until the guest went on: what `perf kvm stat` sums.
    case vmm
    /// In the guest (and in KVM), up to the exit.
    case guest
}

/// How wide the buckets are in which exits are counted over the run.
public enum BucketWidth: Equatable, Sendable {
    /// So many exits.
    case exits(UInt64)
    /// So many nanoseconds of host time; without timing nothing is counted.
    case nanoseconds(UInt64)
}

/// What to count.
public struct StatisticsOptions: Equatable, Sendable {
    /// The table's rows.
    public var grouping: Grouping
    /// The table's times.
    public var measure: TimeMeasure
    /// Counts over the run, per row; nil for none. Where there would be too many buckets, their
    /// width is doubled until there are not.
    public var over: BucketWidth?

    /// Makes options.
    public init(
        grouping: Grouping = .reason, measure: TimeMeasure = .vmm, over: BucketWidth? = nil
    ) {
        self.grouping = grouping
        self.measure = measure
        self.over = over
    }
}
