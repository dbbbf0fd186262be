/// Counts per key: a bounded number of groups, whatever a run holds.
struct StatisticsGroups {
    struct Group {
        var count: UInt64 = 0
        var timedCount: UInt64 = 0
        var nanoseconds: UInt64 = 0
        var minimum = UInt64.max
        var maximum: UInt64 = 0
        var squares: Double = 0
    }

    /// More keys than this are counted together.
    static let limit = 4096
    /// More buckets than this are merged in pairs.
    static let bucketLimit = 512

    private(set) var groups: [Group] = []
    private(set) var keys: [UInt64] = []
    private var numbers = WordMap()
    /// The group of the keys that found no place.
    private(set) var other: Int?
    /// Group n's counts: `bucketLimit` of them from n × `bucketLimit` on.
    private var buckets: [UInt32] = []
    private(set) var usedBuckets = 0
    /// How wide a bucket is, in exits or nanoseconds; 0 for no buckets.
    private(set) var bucketWidth: UInt64

    init(bucketWidth: UInt64) { self.bucketWidth = bucketWidth }

    /// The group of a key.
    @inline(__always)
    mutating func group(of key: UInt64) -> Int {
        if let known = numbers[key] { return known }
        return add(key)
    }

    @inline(never)
    private mutating func add(_ key: UInt64) -> Int {
        if keys.count >= Self.limit {
            if let other { return other }
            other = groups.count
        } else {
            numbers.insert(key, groups.count)
        }
        keys.append(key)
        groups.append(Group())
        if bucketWidth > 0 {
            buckets.append(contentsOf: repeatElement(0, count: Self.bucketLimit))
        }
        return groups.count - 1
    }

    /// Counts one exit, at a place in the run.
    @inline(__always)
    mutating func count(_ group: Int, at place: UInt64) {
        groups[group].count &+= 1
        if bucketWidth > 0 { countInBucket(group, place) }
    }

    private mutating func countInBucket(_ group: Int, _ place: UInt64) {
        while place / bucketWidth >= UInt64(Self.bucketLimit) { halve() }
        let bucket = Int(place / bucketWidth)
        usedBuckets = max(usedBuckets, bucket + 1)
        let at = group * Self.bucketLimit + bucket
        let (sum, overflow) = buckets[at].addingReportingOverflow(1)
        if !overflow { buckets[at] = sum }
    }

    private mutating func halve() {
        let half = Self.bucketLimit / 2
        for group in groups.indices {
            let start = group * Self.bucketLimit
            for index in 0..<half {
                let sum =
                    UInt64(buckets[start + 2 * index]) + UInt64(buckets[start + 2 * index + 1])
                buckets[start + index] = UInt32(clamping: sum)
            }
            for index in half..<Self.bucketLimit { buckets[start + index] = 0 }
        }
        bucketWidth =
            bucketWidth.multipliedReportingOverflow(by: 2).overflow ? .max : bucketWidth * 2
        usedBuckets = (usedBuckets + 1) / 2
    }

    /// Adds the time of an exit that was counted before.
    @inline(__always)
    mutating func addTime(_ group: Int, _ nanoseconds: UInt64) {
        groups[group].timedCount &+= 1
        groups[group].nanoseconds &+= nanoseconds
        if nanoseconds < groups[group].minimum { groups[group].minimum = nanoseconds }
        if nanoseconds > groups[group].maximum { groups[group].maximum = nanoseconds }
        let value = Double(nanoseconds)
        groups[group].squares += value * value
    }

    func row(_ group: Int, _ label: String) -> Statistics.Row {
        let found = groups[group]
        var error: Double?
        if found.timedCount > 1, found.nanoseconds > 0 {
            let count = Double(found.timedCount)
            let average = Double(found.nanoseconds) / count
            let variance = max(0, (found.squares - average * average * count) / (count - 1))
            error = (variance / count).squareRoot() / average
        }
        let start = group * Self.bucketLimit
        let counts = bucketWidth == 0 ? [] : buckets[start..<start + usedBuckets].map(UInt64.init)
        return Statistics.Row(
            label: label, count: found.count, timedCount: found.timedCount,
            nanoseconds: found.nanoseconds,
            minimum: found.timedCount == 0 ? 0 : found.minimum, maximum: found.maximum,
            relativeError: error, buckets: counts)
    }
}
