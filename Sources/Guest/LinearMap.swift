public import Machine

/// Every stretch of linear addresses that the guest's page tables map to its memory, as a debugger
/// sees it: not by one address at a time, but all of them, in ascending order.
///
/// The tables are the guest's and may be anything: what is looked at and what is found have bounds,
/// and ``isComplete`` says whether they were enough.
public struct LinearMap: Sendable {
    /// Linear addresses that are mapped in one piece.
    public struct Stretch: Equatable, Sendable {
        /// The first linear address.
        public var linear: GuestVirtualAddress
        /// What it is mapped to.
        public var physical: GuestPhysicalAddress
        /// A multiple of 4 KiB.
        public var lengthInBytes: UInt64
    }

    /// The stretches in ascending order of linear address, cut to memory that is there.
    public private(set) var stretches: [Stretch] = []
    /// Whether the bounds sufficed for all of them.
    public private(set) var isComplete = true
    /// Whether paging is on; without it a linear address is a physical one.
    public let isPaging: Bool

    /// More stretches than this are not kept: an ELF file of ordinary form has fewer than 65,535.
    static let mostStretches = 60_000
    /// More tables than this are not looked at: a map of 64 GiB in 4 KiB pages has half as many.
    private static let mostTables = 1 << 16

    /// Walks the page tables (Intel SDM vol. 3, chapter 4), or takes memory as it is where paging
    /// is off.
    public init(_ system: SystemRegisters, _ memory: borrowing GuestMemory) {
        guard let form = PagingForm(system) else {
            isPaging = false
            add(linear: 0, physical: 0, 1 << 32, memory)
            return
        }
        isPaging = true
        var walk = Walk(form: form)
        walk.visit(form.root(system), level: form.levels - 1, linear: 0, memory)
        walk.flush(memory)
        stretches = walk.map.stretches
        isComplete = walk.map.isComplete
    }

    private init(paging: Bool) { isPaging = paging }

    /// Adds what of a mapping is memory.
    private mutating func add(
        linear: UInt64, physical: UInt64, _ length: UInt64, _ memory: borrowing GuestMemory
    ) {
        let end = physical &+ length
        for region in memory.regions {
            let low = max(physical, region.base.rawValue)
            let high = min(end, region.base.rawValue + region.lengthInBytes)
            guard low < high else { continue }
            guard stretches.count < Self.mostStretches else {
                isComplete = false
                return
            }
            stretches.append(
                Stretch(
                    linear: GuestVirtualAddress(linear &+ (low - physical)),
                    physical: GuestPhysicalAddress(low), lengthInBytes: high - low))
        }
    }

    /// The state of a walk: neighbours that go on in physical memory too are kept back, to be
    /// added as one.
    private struct Walk {
        let form: PagingForm
        var map = LinearMap(paging: true)
        private var tables = 0
        private var pending: (linear: UInt64, physical: UInt64, length: UInt64)?

        init(form: PagingForm) { self.form = form }

        mutating func visit(
            _ table: UInt64, level: Int, linear: UInt64, _ memory: borrowing GuestMemory
        ) {
            tables += 1
            guard tables <= LinearMap.mostTables, map.isComplete else {
                map.isComplete = false
                return
            }
            let count = form.entryCount(level)
            // What is not memory maps nothing.
            guard
                let bytes = try? memory.read(
                    GuestPhysicalAddress(table), count: count * form.entrySize)
            else { return }
            let shift = form.shift(level)
            for index in 0..<count {
                let entry = form.entry(bytes, index)
                guard entry & PagingForm.present != 0 else { continue }
                let here = form.canonical(linear | UInt64(index) << shift)
                if form.isLeaf(entry, level) {
                    add(here, form.frame(entry, level), 1 << shift, memory)
                } else {
                    visit(
                        entry & form.addressMask, level: level - 1,
                        linear: linear | UInt64(index) << shift, memory)
                }
            }
        }

        private mutating func add(
            _ linear: UInt64, _ physical: UInt64, _ length: UInt64,
            _ memory: borrowing GuestMemory
        ) {
            if let last = pending, last.linear &+ last.length == linear,
                last.physical &+ last.length == physical
            {
                pending?.length = last.length &+ length
                return
            }
            flush(memory)
            pending = (linear, physical, length)
        }

        mutating func flush(_ memory: borrowing GuestMemory) {
            guard let last = pending else { return }
            pending = nil
            map.add(linear: last.linear, physical: last.physical, last.length, memory)
        }
    }
}
