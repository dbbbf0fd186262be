/// Address ranges that devices claim, sorted; none reaches into another.
struct AddressRanges {
    private struct Range {
        var base: UInt64
        var last: UInt64
        var slot: DeviceSet.Slot
    }

    private var ranges: [Range] = []

    /// Adds a range, which must be free and not pass the end of the address space.
    mutating func insert(base: UInt64, length: UInt64, slot: DeviceSet.Slot) {
        let (last, overflow) = base.addingReportingOverflow(length &- 1)
        precondition(length > 0 && !overflow, "a device's range passes the address space's end")
        precondition(
            ranges.allSatisfy { last < $0.base || base > $0.last }, "two devices at one address")
        let index = ranges.firstIndex { $0.base > base } ?? ranges.count
        ranges.insert(Range(base: base, last: last, slot: slot), at: index)
    }

    /// Who answers at an address, and the address's offset in the range.
    func find(_ address: UInt64) -> (slot: DeviceSet.Slot, offset: UInt64) {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if address > ranges[middle].last { low = middle + 1 } else { high = middle }
        }
        guard low < ranges.count, address >= ranges[low].base else { return (.unclaimed, 0) }
        return (ranges[low].slot, address - ranges[low].base)
    }
}
