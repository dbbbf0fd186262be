/// What a side file holds beyond the blocks of the trace.
struct Tail: Sendable {
    /// The events of one slot.
    struct Slot: Sendable {
        /// Where the slot begins in the side file, in bytes.
        var offset: Int
        var ordinal: UInt64
        var firstExit: UInt64
        var exitCount: UInt32 = 0
        var eventCount: UInt32 = 0
        /// From the start of the recording to the return of the first exit; 0 without timing.
        var hostNanoseconds: UInt64 = 0
        /// Bytes of frames that check.
        var frameBytes = 0
        /// The digests to the end of this slot; nil where blocks before it are missing.
        var digests: RunningDigests?
        /// Blocks between the one before and this one are missing.
        var isAfterGap = false
    }

    private let bytes: [UInt8]
    private let header: SideHeader
    private(set) var slots: [Slot] = []
    private(set) var damages: [Damage] = []

    /// Takes a side file apart; nil where it is none of this trace's, and why.
    ///
    /// `after`: the last block of events in the trace: its sequence number, the exit after it, and the
    /// digests to its end.
    init(
        _ bytes: [UInt8], identity: UInt64, after: LastBlock?, nextExit: UInt64
    ) throws(Malformed) {
        // SAFETY: the array outlives the call.
        let header = unsafe bytes.withUnsafeBytes { unsafe SideHeader($0) }
        guard let header else {
            throw Malformed("the side file's header is damaged: events not yet written are lost")
        }
        guard header.identity == identity else {
            throw Malformed("the side file belongs to another recording and is left aside")
        }
        self.bytes = bytes
        self.header = header
        var found: [Slot] = []
        for index in 0..<Int(header.slotCount) {
            let offset = SideHeader.slotsAt + index * Int(header.slotStride)
            if let slot = openSlot(offset) { found.append(slot) }
        }
        found.sort { $0.ordinal < $1.ordinal }
        var ordinal: UInt64 = 1
        if let after {
            guard after.sequence >= header.firstSequence else {
                throw Malformed("the side file belongs to another recording and is left aside")
            }
            ordinal = UInt64(after.sequence - header.firstSequence) + 2
        }
        var exit = nextExit
        var digests: RunningDigests? = after.map { $0.digests } ?? RunningDigests()
        for var slot in found where slot.ordinal >= ordinal {
            if slot.ordinal != ordinal || slot.firstExit != exit {
                guard slot.firstExit >= exit else {
                    damages.append(
                        Damage(nil, "a slot of the side file does not follow the one before"))
                    break
                }
                damages.append(
                    Damage(
                        nil, "blocks before the side file's events are missing",
                        lostExits: exit..<slot.firstExit))
                digests = nil
                slot.isAfterGap = true
            }
            read(&slot, &digests)
            if slot.frameBytes == 0 { break }
            slots.append(slot)
            ordinal = slot.ordinal + 1
            exit = slot.firstExit + UInt64(slot.exitCount)
        }
        // Where the next events would be, a slot in use whose head does not check has lost them.
        let next =
            SideHeader.slotsAt
            + Int((ordinal - 1) % UInt64(header.slotCount)) * Int(header.slotStride)
        if openSlot(next) == nil, isInUse(next) {
            damages.append(Damage(nil, "a slot of the side file is damaged; its events are lost"))
        }
    }

    /// A slot that holds, or seems to hold, events.
    private func isInUse(_ offset: Int) -> Bool {
        guard offset + SideSlot.statesAt <= bytes.count else { return true }
        return bytes[offset..<offset + 8].contains { $0 != 0 }
    }

    /// The last block of events in the trace itself.
    struct LastBlock {
        var sequence: UInt32
        var digests: RunningDigests
    }

    /// A slot that was in use and whose fixed part checks.
    private func openSlot(_ offset: Int) -> Slot? {
        guard offset + Int(header.slotStride) <= bytes.count else { return nil }
        // SAFETY: the whole slot lies in the array, as just checked.
        return unsafe bytes.withUnsafeBytes { all in
            guard let base = all.baseAddress else { return nil }
            let slot = unsafe base + offset
            let ordinal = unsafe slot.get(UInt64.self, at: SideSlot.ordinalAt)
            let check = unsafe SideSlot.check(slot, vCPUCount: Int(header.vCPUCount))
            let firstExit = unsafe slot.get(UInt64.self, at: SideSlot.firstExitAt)
            guard ordinal > 0, ordinal < 1 << 40, firstExit < 1 << 62,
                unsafe slot.get(UInt64.self, at: SideSlot.checkAt) == check
            else { return nil }
            return Slot(offset: offset, ordinal: ordinal, firstExit: firstExit)
        }
    }

    /// Goes through a slot's frames: counts them and rolls the digests.
    private mutating func read(_ slot: inout Slot, _ digests: inout RunningDigests?) {
        var roller = DigestRoller(digests ?? RunningDigests())
        var result = slot
        var problem: String?
        let vCPUCount = Int(header.vCPUCount)
        let frameBytes = SideSlot.frameBytes(hasWorldStream: header.hasWorldStream)
        // SAFETY: `openSlot` checked that the whole slot lies in the array; frames check bounds.
        unsafe bytes.withUnsafeBytes { all in
            guard let base = all.baseAddress else { return }
            let committed = unsafe (base + slot.offset).get(
                UInt64.self, at: SideSlot.committedAt)
            let frames = unsafe base + slot.offset + SideSlot.framesAt(vCPUCount: vCPUCount)
            // Each frame vouches for itself; the committed length only says how many there must be.
            while true {
                guard
                    let frame = unsafe Frame(
                        frames, count: frameBytes, at: result.frameBytes, ordinal: slot.ordinal),
                    let view = unsafe Self.view(frame.row, vCPUCount: vCPUCount),
                    view.row?.kind != .exit || UInt64(result.exitCount) < Limits.cellExits
                else {
                    if UInt64(result.frameBytes) < committed {
                        problem =
                            "an event in the side file is damaged; it and what follows are lost"
                    }
                    return
                }
                defer { result.frameBytes = unsafe frame.end }
                guard let view = view.row else { continue }
                if view.kind == .exit {
                    if result.exitCount == 0, let timing = header.timing {
                        result.hostNanoseconds = unsafe timing.nanoseconds(
                            from: timing.origin, to: frame.returned)
                    }
                    result.exitCount += 1
                }
                result.eventCount += 1
                unsafe roller.add(frame.row, view)
            }
        }
        if let problem { damages.append(Damage(nil, problem)) }
        if digests != nil {
            digests = problem == nil ? roller.digests : nil
            result.digests = roller.digests
        }
        slot = result
    }

    /// A frame's row, seen through; its view is nil for a world event. Nil: it is neither.
    private static func view(
        _ row: UnsafeRawBufferPointer, vCPUCount: Int
    ) -> (row: RowView?, isWorld: Bool)? {
        // SAFETY: both readers check every bound.
        if unsafe WorldRow.isOne(row) {
            return (try? unsafe WorldRow.read(row)).map { _ in (nil, true) }
        }
        guard let view = try? unsafe RowView(row), Int(view.vCPU) < vCPUCount else { return nil }
        return (view, false)
    }

    /// Puts a slot's rows into `output`.
    func load(_ slot: Slot, into output: inout RowBuffer) throws(Malformed) {
        output.removeAll()
        let vCPUCount = Int(header.vCPUCount)
        var failure: Malformed?
        // SAFETY: the slot lies in the array; readers and frames check every bound.
        unsafe bytes.withUnsafeBytes { all in
            guard let base = all.baseAddress else { return }
            let start = unsafe base + slot.offset
            do throws(Malformed) {
                var reader = unsafe ByteReader(
                    UnsafeRawBufferPointer(
                        start: start + SideSlot.statesAt,
                        count: vCPUCount * RowLayout.stateBytes), "a slot")
                for _ in 0..<vCPUCount {
                    let (registers, system) = try RowReader.state(&reader)
                    output.baseline.append(VCPUState(registers: registers, system: system))
                }
            } catch { failure = error }
            var previous = unsafe start.get(UInt64.self, at: SideSlot.previousReturnedAt)
            let frames = unsafe start + SideSlot.framesAt(vCPUCount: vCPUCount)
            var at = 0
            var exit = -1
            while at < slot.frameBytes {
                guard
                    let frame = unsafe Frame(
                        frames, count: slot.frameBytes, at: at, ordinal: slot.ordinal)
                else { return }
                at = unsafe frame.end
                if unsafe WorldRow.isOne(frame.row) {
                    if let event = try? unsafe WorldRow.read(frame.row) {
                        output.world.append(WorldEntry(exit: exit, event: event))
                        output.worldBytes += unsafe frame.row.count
                    }
                    continue
                }
                if let view = try? unsafe RowView(frame.row), view.kind == .exit { exit += 1 }
                unsafe output.rows.append(frame.row)
                output.ends.append(UInt32(truncatingIfNeeded: output.rows.count))
                if unsafe frame.hasStamps, let timing = header.timing {
                    output.times.append(
                        unsafe ExitTime(
                            returnedNanoseconds: timing.nanoseconds(
                                from: timing.origin, to: frame.returned),
                            guestNanoseconds: timing.nanoseconds(
                                from: frame.entered, to: frame.returned),
                            hostNanoseconds: timing.nanoseconds(
                                from: previous, to: frame.entered)))
                    previous = unsafe frame.returned
                }
            }
        }
        if let failure { throw failure }
    }
}
