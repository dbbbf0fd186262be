#if canImport(Glibc)
    private import Glibc
#endif
import Machine
import Synchronization

/// The ring of slots in the side file, between the vCPU thread that fills them and the writer
/// thread that turns them into blocks.
///
/// A slot belongs to the vCPU thread until it is sealed, then to the writer thread until its block is
/// in the file. `Sendable`: the counts change under the monitor only, and say whose a slot is.
@safe
final class EventRing: @unchecked Sendable {
    let slotCount: Int
    let stride: Int
    let vCPUCount: Int
    private let mapping: SharedMapping
    let monitor = Monitor()

    // Under the monitor.
    private var sealedCount: UInt64 = 0
    private var writtenCount: UInt64 = 0
    private var isClosed = false
    private var failure: TraceError?

    /// Set once `failure` is: what the vCPU thread looks at before each event.
    let hasFailed = Atomic<Bool>(false)

    init(_ file: borrowing Descriptor, _ header: SideHeader) throws(SystemError) {
        slotCount = Int(header.slotCount)
        stride = Int(header.slotStride)
        vCPUCount = Int(header.vCPUCount)
        try file.reserve(header.fileBytes)
        mapping = try SharedMapping(file, count: Int(header.fileBytes))
        var buffer = ByteBuffer()
        header.append(to: &buffer)
        // SAFETY: the mapping begins with a page for the header.
        if let source = unsafe buffer.bytes.baseAddress {
            unsafe mapping.base.copyMemory(from: source, byteCount: SideHeader.bytes)
        }
    }

    /// The slot of the events block with this ordinal, from 1.
    func slot(_ ordinal: UInt64) -> UnsafeMutableRawPointer {
        let index = Int((ordinal - 1) % UInt64(slotCount))
        // SAFETY: the mapping holds `slotCount` slots after the header page.
        return unsafe mapping.base + SideHeader.slotsAt + index * stride
    }

    /// Writer thread: has the pages of a slot mapped and writable before the vCPU thread comes to them,
    /// as far as a block of exits reaches (MADV_POPULATE_WRITE).
    ///
    /// A page of a file that is touched for the first time costs the vCPU thread a fault of several
    /// microseconds (5.5 on ext4, measured): as much as half an exit, on some eighty pages a cell.
    /// Kernels before 5.14 refuse, and the faults come as they are touched.
    func bringIn(_ ordinal: UInt64) {
        let count = min(stride, SideSlot.usualBytes(vCPUCount: vCPUCount))
        // SAFETY: slots are page-aligned parts of the mapping; nothing in them changes.
        _ = unsafe madvise(slot(ordinal), count, MADV_POPULATE_WRITE)
    }

    /// The field that says how many bytes of frames are good.
    @inline(__always)
    static func committed(
        _ slot: UnsafeMutableRawPointer
    ) -> UnsafeMutablePointer<Atomic<UInt64>> {
        // SAFETY: slots are page-aligned, and `Atomic<UInt64>` has the layout of its value.
        unsafe (slot + SideSlot.committedAt).assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    /// vCPU thread: waits until the slot for `ordinal` is free.
    func waitForSlot(_ ordinal: UInt64) throws(TraceError) {
        let failure: TraceError?? = monitor.wait {
            if let failure = self.failure { return .some(failure) }
            return ordinal - self.writtenCount <= UInt64(self.slotCount) ? .some(nil) : nil
        }
        if let failure = failure ?? nil { throw failure }
    }

    /// vCPU thread: hands the slot of `ordinal` over.
    func seal(_ ordinal: UInt64) { monitor.change { sealedCount = ordinal } }

    /// vCPU thread: no slot will follow.
    func close() { monitor.change { isClosed = true } }

    /// Writer thread: the next slot to write; nil when there will be none.
    func next() -> UInt64? {
        let ordinal: UInt64? = monitor.wait { () -> UInt64?? in
            if self.sealedCount > self.writtenCount { return .some(self.writtenCount + 1) }
            return self.isClosed ? .some(nil) : nil
        }
        return ordinal
    }

    /// Writer thread: the block is in the file.
    func written(_ ordinal: UInt64) { monitor.change { writtenCount = ordinal } }

    /// Writer thread: no further block will be written.
    func fail(_ error: TraceError) {
        monitor.change { failure = error }
        hasFailed.store(true, ordering: .releasing)
    }

    /// What went wrong, if anything.
    var error: TraceError? { monitor.change { failure } }
}
