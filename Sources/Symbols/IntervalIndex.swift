/// Half-open intervals of addresses with a value each, to be asked which of them hold an address.
///
/// Intervals may overlap and nest. A question costs a binary search and a walk back that ends
/// where no earlier interval reaches the address.
struct IntervalIndex<Value> {
    struct Interval {
        var low: UInt64
        var high: UInt64
        var value: Value
    }

    /// In ascending order of `low`, equal ones in the order they were given.
    private let intervals: [Interval]
    /// The largest `high` of the intervals up to and including each.
    private let reach: [UInt64]

    var isEmpty: Bool { intervals.isEmpty }

    init(_ unsorted: [Interval]) {
        // The library's sort is stable, though it does not promise so: order by place as well.
        let order = unsorted.indices.sorted {
            (unsorted[$0].low, $0) < (unsorted[$1].low, $1)
        }
        var intervals: [Interval] = []
        var reach: [UInt64] = []
        intervals.reserveCapacity(order.count)
        reach.reserveCapacity(order.count)
        for index in order where unsorted[index].high > unsorted[index].low {
            let interval = unsorted[index]
            intervals.append(interval)
            reach.append(max(reach.last ?? 0, interval.high))
        }
        self.intervals = intervals
        self.reach = reach
    }

    /// Calls `body` with each interval that holds the address, the highest start first.
    func forEach(holding address: UInt64, _ body: (Interval) -> Void) {
        var index = firstAbove(address) - 1
        while index >= 0, reach[index] > address {
            if intervals[index].high > address { body(intervals[index]) }
            index -= 1
        }
    }

    /// The index of the first interval that starts above the address.
    private func firstAbove(_ address: UInt64) -> Int {
        var low = 0
        var high = intervals.count
        while low < high {
            let middle = (low + high) / 2
            if intervals[middle].low <= address { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
