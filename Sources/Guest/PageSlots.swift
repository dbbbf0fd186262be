public import Machine

/// Numbers the 4 KiB pages of guest memory without the gaps between regions, so that a set of pages
/// is a bitmap. A region begins at a multiple of 64 slots, as KVM's dirty log begins its words.
public struct PageSlots: Sendable {
    /// The pages of one region.
    public struct Run: Sendable {
        /// The first page: guest-physical address / 4096.
        public var firstPage: UInt64
        /// How many pages.
        public var count: Int
        /// The slot of the first page, a multiple of 64.
        public var firstSlot: Int
    }

    /// The regions' pages, in the order of ``GuestMemory/regions``.
    public let runs: [Run]
    /// The words of a bitmap of all slots.
    public let wordCount: Int

    init(_ regions: [GuestMemory.Region]) {
        var runs: [Run] = []
        var words = 0
        for region in regions {
            let count = Int(region.lengthInBytes / RAMLayout.pageLength)
            runs.append(
                Run(
                    firstPage: region.base.rawValue / RAMLayout.pageLength, count: count,
                    firstSlot: words * 64))
            words += (count + 63) / 64
        }
        self.runs = runs
        wordCount = words
    }

    /// The slot of a page; nil where no region has it.
    public func slot(ofPage page: UInt64) -> Int? {
        for run in runs where page >= run.firstPage && page - run.firstPage < UInt64(run.count) {
            return run.firstSlot + Int(page - run.firstPage)
        }
        return nil
    }

    /// The page of a slot; nil where there is none.
    public func page(ofSlot slot: Int) -> UInt64? {
        for run in runs where slot >= run.firstSlot && slot - run.firstSlot < run.count {
            return run.firstPage + UInt64(slot - run.firstSlot)
        }
        return nil
    }

    /// The guest-physical address of a slot's page; nil where there is none.
    public func address(ofSlot slot: Int) -> GuestPhysicalAddress? {
        page(ofSlot: slot).map { GuestPhysicalAddress($0 * RAMLayout.pageLength) }
    }
}

extension GuestMemory {
    /// The 4096 bytes of a page slot on the host; nil where there is none. The pointer lives as long
    /// as this value.
    public func host(slot: Int) -> UnsafeMutableRawPointer? {
        for (index, run) in pageSlots.runs.enumerated()
        where slot >= run.firstSlot && slot - run.firstSlot < run.count {
            // SAFETY: the slot lies in the region, which this value keeps mapped.
            return unsafe regions[index].host + (slot - run.firstSlot) * 4096
        }
        return nil
    }
}
