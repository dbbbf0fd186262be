public import Guest
public import KVM
internal import Machine
public import Trace

/// Which pages of guest memory were written since each of several readers looked last.
///
/// The one place that empties KVM's dirty log, which forgets what it told: the log's pages and those
/// that the runner wrote itself (the log does not see them) go to every reader's own set. What the
/// guest wrote is known after ``collect(_:_:)`` only. The sets hold every page that was written, and
/// more: page walks show too (KVM-FACTS), so that a set is never to be hashed or compared.
struct DirtyPages: Sendable {
    /// One who looks at the pages.
    struct Reader: Equatable, Sendable {
        fileprivate var index: Int
    }

    private let slots: PageSlots
    private var sets: [[UInt64]] = []
    private var log: [UInt64]
    private var written: [UInt64]

    init(_ slots: PageSlots) {
        self.slots = slots
        log = []
        written = Array(repeating: 0, count: slots.wordCount)
    }

    /// A new reader, who has seen everything until now.
    mutating func addReader() -> Reader {
        sets.append(Array(repeating: 0, count: slots.wordCount))
        return Reader(index: sets.count - 1)
    }

    /// Brings the sets up to date (KVM_GET_DIRTY_LOG a region).
    mutating func collect(
        _ machine: borrowing VirtualMachine, _ memory: borrowing GuestMemory
    ) throws(KVMError) {
        memory.moveWrittenPages(into: &written)
        for (region, run) in slots.runs.enumerated() where !memory.regions[region].isReadOnly {
            let words = (run.count + 63) / 64
            if log.count < words { log = Array(repeating: 0, count: words) }
            var span = log.mutableSpan
            try machine.readDirtyLog(slot: UInt32(region), into: &span)
            for word in 0..<words where log[word] != 0 {
                written[run.firstSlot / 64 + word] |= log[word]
            }
        }
        for word in written.indices where written[word] != 0 {
            for index in sets.indices { sets[index][word] |= written[word] }
            written[word] = 0
        }
    }

    /// The pages that a reader has not seen, in ascending order; they count as seen from now on.
    mutating func take(_ reader: Reader) -> [Int] {
        var pages: [Int] = []
        for word in sets[reader.index].indices where sets[reader.index][word] != 0 {
            var rest = sets[reader.index][word]
            while rest != 0 {
                pages.append(word * 64 + rest.trailingZeroBitCount)
                rest &= rest - 1
            }
            sets[reader.index][word] = 0
        }
        return pages
    }

    /// Whether a reader has a page among those not seen.
    func contains(_ slot: Int, _ reader: Reader) -> Bool {
        sets[reader.index][slot / 64] & 1 << UInt64(slot % 64) != 0
    }

    /// Adds a page to a reader's set.
    mutating func add(_ slot: Int, _ reader: Reader) {
        sets[reader.index][slot / 64] |= 1 << UInt64(slot % 64)
    }
}

extension GuestCPU {
    /// Starts to keep track of written pages. To be called before the guest first runs or with a
    /// reader that looks at all of memory once.
    mutating func trackWrites(_ memory: borrowing GuestMemory) throws(KVMError) {
        guard writes == nil else { return }
        for (slot, region) in memory.regions.enumerated() where !region.isReadOnly {
            // SAFETY: the memory lives as long as the machine: one value owns both.
            try unsafe machine.setMemory(
                slot: UInt32(slot), at: region.base,
                memory: UnsafeMutableRawBufferPointer(
                    start: region.host, count: Int(region.lengthInBytes)),
                flags: .logDirtyPages)
        }
        writes = DirtyPages(memory.pageSlots)
    }

    /// Brings the sets of written pages up to date.
    mutating func collectWrites(_ memory: borrowing GuestMemory) throws(KVMError) {
        try writes?.collect(machine, memory)
    }

    /// The digest of RAM. The first time all of it is digested, and the pages written since the time
    /// before from then on: guests that never ask for it are spared the dirty log.
    public mutating func memoryDigest(
        _ memory: borrowing GuestMemory
    ) throws(KVMError) -> Digest128 {
        try trackWrites(memory)
        try collectWrites(memory)
        guard let reader = digestReader else {
            digestReader = writes?.addReader()
            memoryDigest = memory.digest()
            return memoryDigest.digest
        }
        for slot in writes?.take(reader) ?? [] {
            guard let number = memory.pageSlots.page(ofSlot: slot),
                let host = unsafe memory.host(slot: slot)
            else { continue }
            // SAFETY: a slot's host pointer covers its 4096 bytes.
            let bytes = unsafe UnsafeRawBufferPointer(start: host, count: MemoryDigest.pageBytes)
            let before = memoryDigest.replace(
                pageNumber: number, with: unsafe MemoryDigest.page(number: number, bytes: bytes))
            if markedHashes[number] == nil { markedHashes[number] = before }
        }
        return memoryDigest.digest
    }

    /// Remembers what the pages hold.
    public mutating func markPages() { markedHashes.removeAll(keepingCapacity: true) }

    /// The pages that hold something else than when they were marked.
    public func changedPages() -> [MemoryDigest.Page] {
        markedHashes.keys.sorted().compactMap { number in
            let now = memoryDigest.hash(ofPage: number)
            return now == markedHashes[number] ? nil : .init(number: number, hash: now)
        }
    }
}

extension GuestMachine {
    /// Which pages were written; nil: nobody asked.
    var writes: DirtyPages? {
        _read { yield cpu.writes }
        _modify { yield &cpu.writes }
    }

    /// Starts to keep track of written pages. To be called before the guest first runs or with a
    /// reader that looks at all of memory once.
    mutating func trackWrites() throws(ExecutionError) {
        do throws(KVMError) { try cpu.trackWrites(memory) } catch { throw .kvm(error) }
    }

    /// Somebody new who asks what was written, of which track is kept.
    mutating func addWritesReader() -> DirtyPages.Reader {
        guard let reader = cpu.writes?.addReader() else {
            preconditionFailure("memory whose writes nobody tracks")
        }
        return reader
    }

    /// Brings the sets of written pages up to date.
    mutating func collectWrites() throws(ExecutionError) {
        do throws(KVMError) { try cpu.collectWrites(memory) } catch { throw .kvm(error) }
    }

    /// The digest of RAM, as a trace's end has it; the time it takes goes with the pages written
    /// since the last call.
    mutating func memoryDigest() throws(ExecutionError) -> Digest128 {
        do throws(KVMError) { return try cpu.memoryDigest(memory) } catch { throw .kvm(error) }
    }
}
