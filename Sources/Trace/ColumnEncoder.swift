import Machine

/// Takes the rows of one block apart into columns.
struct ColumnEncoder: ~Copyable {
    private var columns: InlineArray<35, ByteBuffer>
    private var states: [VCPUState]
    private var sites: [SiteState] = []
    /// Open-addressed: number of a site plus one, 0 for free.
    private var siteSlots: [UInt16]
    private var answers: [UInt32] = []
    private let timing: TimeBase?
    private var quantiser = TimeQuantiser()
    /// The last column, apart because two columns cannot be changed at once.
    private var longTimes = ByteBuffer(capacity: 64)
    private let hasWorldStream: Bool
    private var world = WorldColumnEncoder()
    /// The site of the block's last exit so far.
    private var lastSite: Int?

    private static let slotCount = 16_384

    init(vCPUCount: Int, timing: TimeBase?, hasWorldStream: Bool = false) {
        columns = InlineArray { _ in ByteBuffer(capacity: 4096) }
        states = Array(repeating: VCPUState(), count: vCPUCount)
        siteSlots = Array(repeating: 0, count: Self.slotCount)
        self.timing = timing
        self.hasWorldStream = hasWorldStream
        sites.reserveCapacity(4096)
        beginBlock()
    }

    /// Empties the columns; the registers go on as they are.
    private mutating func beginBlock() {
        for index in 0..<Column.count { columns[index].removeAll() }
        longTimes.removeAll()
        world.removeAll()
        lastSite = nil
        if !sites.isEmpty {
            for index in siteSlots.indices { siteSlots[index] = 0 }
        }
        sites.removeAll(keepingCapacity: true)
        answers.removeAll(keepingCapacity: true)
        for state in states { Self.append(state, to: &columns[Column.baseline]) }
    }

    static func append(_ state: VCPUState, to buffer: inout ByteBuffer) {
        for index in 0..<RowLayout.registerCount { buffer.append(state.registers.words[index]) }
        for index in 0..<RowLayout.systemWordCount { buffer.append(state.system.words[index]) }
    }

    /// Takes in a row, of which `view` was made; for an exit also its stamps, where there are any.
    mutating func add(_ row: UnsafeRawBufferPointer, _ view: RowView, _ stamps: Stamps?) {
        guard let base = row.baseAddress else { return }
        // SAFETY: the view vouches for every field's place in the row.
        let first = unsafe base.get(UInt8.self, at: 0)
        columns[Column.kinds].append(first)
        if first & RowLayout.vCPUBit != 0 { columns[Column.vCPUs].append(view.vCPU) }
        switch view.kind {
        case .exit:
            unsafe addExit(base, row.count, view)
            if let stamps, let timing { addTimes(stamps, timing) }
        case .answer:
            unsafe addAnswer(base + view.body, row.count - view.body)
        case .start, .completion, .interruption, .deviceWrite, .end:
            let length = row.count - view.body
            columns[Column.other].append(varint: UInt64(length))
            unsafe columns[Column.other].append(
                UnsafeRawBufferPointer(start: base + view.body, count: length))
            if view.kind == .start {
                unsafe takeState(base + view.body, view.vCPU)
            } else if view.kind == .end {
                let flags = unsafe base.get(UInt8.self, at: view.body + 1)
                let status = flags & EndRowFlag.guestStatus != 0 ? 4 : 0
                unsafe takeState(base + view.body + 2 + status, view.vCPU)
            }
        }
    }

    private mutating func takeState(_ bytes: UnsafeRawPointer, _ vCPU: UInt8) {
        // SAFETY: a start or end row holds 57 words here, as its view checked.
        for index in 0..<RowLayout.registerCount {
            states[Int(vCPU)].registers.words[index] = unsafe bytes.get(
                UInt64.self, at: index * 8)
        }
        for index in 0..<RowLayout.systemWordCount {
            states[Int(vCPU)].system.words[index] = unsafe bytes.get(
                UInt64.self, at: (RowLayout.registerCount + index) * 8)
        }
    }

    private mutating func addExit(_ base: UnsafeRawPointer, _ count: Int, _ view: RowView) {
        // SAFETY: see `add`.
        let vCPU = Int(view.vCPU)
        var mask = view.registerMask
        var at = view.registersAt
        while mask != 0 {
            let index = mask.trailingZeroBitCount
            let new = unsafe base.get(UInt64.self, at: at)
            let old = states[vCPU].registers.words[index]
            states[vCPU].registers.words[index] = new
            if index != RowLayout.ripIndex {
                columns[Column.firstRegister + index].append(difference: new &- old)
            }
            at += 8
            mask &= mask &- 1
        }
        var shape: UInt8 = 0
        if view.systemMask != 0 {
            shape |= ExitShape.system
            columns[Column.system].append(varint: view.systemMask)
            var mask = view.systemMask
            at = view.systemAt
            while mask != 0 {
                let index = mask.trailingZeroBitCount
                let new = unsafe base.get(UInt64.self, at: at)
                let old = states[vCPU].system.words[index]
                columns[Column.system].append(difference: new &- old)
                states[vCPU].system.words[index] = new
                at += 8
                mask &= mask &- 1
            }
        }
        let formBytes = Site.formBytes(view.reason)
        var form: UInt64 = 0
        if formBytes == 8 { form = unsafe base.get(UInt64.self, at: view.detailAt) }
        if formBytes == 2 { form = UInt64(unsafe base.get(UInt16.self, at: view.detailAt)) }
        let number = siteNumber(
            Site(
                rip: states[vCPU].registers.words[RowLayout.ripIndex], form: form,
                reason: view.reason, rewind: view.rewind,
                flags: view.flags & ~ExitRowFlag.systemRegisters))
        columns[Column.sites].append(varint: UInt64(number))
        if hasWorldStream { closeWorldEvents() }
        lastSite = number
        let storedMask = view.registerMask & ~RowLayout.ripBit
        if storedMask != sites[number].lastMask {
            shape |= ExitShape.mask
            sites[number].lastMask = storedMask
            columns[Column.masks].append(varint: UInt64(storedMask))
        }
        columns[Column.shapes].append(shape)
        at = view.detailAt + formBytes
        switch view.reason {
        case 6:
            let address = unsafe base.get(UInt64.self, at: at)
            columns[Column.addresses].append(difference: address &- sites[number].lastAddress)
            sites[number].lastAddress = address
            unsafe columns[Column.output].append(
                UnsafeRawBufferPointer(start: base + at + 8, count: count - at - 8))
        case 2, 29, 30:
            unsafe columns[Column.output].append(
                UnsafeRawBufferPointer(start: base + at, count: count - at))
        default:
            columns[Column.other].append(varint: UInt64(count - at))
            unsafe columns[Column.other].append(
                UnsafeRawBufferPointer(start: base + at, count: count - at))
        }
    }

    private mutating func siteNumber(_ site: Site) -> Int {
        var slot = Int(truncatingIfNeeded: site.hashValue64) & (Self.slotCount - 1)
        while true {
            let number = Int(siteSlots[slot])
            if number == 0 { break }
            if sites[number - 1].site == site { return number - 1 }
            slot = (slot + 1) & (Self.slotCount - 1)
        }
        sites.append(SiteState(site: site))
        siteSlots[slot] = UInt16(sites.count)
        columns[Column.siteTable].append(site.rip)
        columns[Column.siteTable].append(site.form)
        columns[Column.siteTable].append(site.reason)
        columns[Column.siteTable].append(site.rewind)
        columns[Column.siteTable].append(site.flags)
        columns[Column.siteTable].append(UInt16(0))
        return sites.count - 1
    }

    private mutating func addAnswer(_ body: UnsafeRawPointer, _ count: Int) {
        // SAFETY: an answer holds form, length and so many bytes, as its view checked.
        let form = unsafe body.get(UInt8.self, at: 0)
        let length = unsafe body.get(UInt16.self, at: 1)
        let key = UInt32(form) << 16 | UInt32(length)
        var number = answers.firstIndex(of: key) ?? -1
        if number < 0 {
            number = answers.count
            answers.append(key)
            columns[Column.answerTable].append(form)
            columns[Column.answerTable].append(length)
        }
        columns[Column.answers].append(varint: UInt64(number))
        unsafe columns[Column.answerBytes].append(
            UnsafeRawBufferPointer(start: body + 3, count: count - 3))
    }

    private mutating func addTimes(_ stamps: Stamps, _ timing: TimeBase) {
        quantiser.add(
            timing.nanoseconds(from: stamps.entered, to: stamps.returned), .guest,
            to: &columns[Column.guestTime], long: &longTimes)
        quantiser.add(
            timing.nanoseconds(from: stamps.previousReturned, to: stamps.entered), .host,
            to: &columns[Column.hostTime], long: &longTimes)
    }

    /// Takes in a world event, which belongs to the exit before it.
    mutating func addWorld(_ row: UnsafeRawBufferPointer) { unsafe world.add(row) }

    private mutating func closeWorldEvents() {
        if let lastSite { world.close(&sites[lastSite]) } else { world.closeBeginning() }
    }

    /// Nanoseconds from the start of the recording; 0 without timing.
    func sinceOrigin(_ stamp: UInt64) -> UInt64 {
        timing.map { $0.nanoseconds(from: $0.origin, to: stamp) } ?? 0
    }

    /// Replaces `payload` with the block's raw payload, and begins the next block.
    mutating func finishBlock(into payload: inout ByteBuffer) {
        payload.removeAll()
        // SAFETY: the bytes are copied before the columns change.
        unsafe columns[Column.longTimes].append(longTimes.bytes)
        payload.append(UInt32(hasWorldStream ? Column.countWithWorld : Column.count))
        for index in 0..<Column.count {
            payload.append(UInt32(truncatingIfNeeded: columns[index].count))
        }
        if hasWorldStream {
            closeWorldEvents()
            for count in [world.shapes.count, world.times.count, world.input.count] {
                payload.append(UInt32(truncatingIfNeeded: count))
            }
        }
        for index in 0..<Column.count { unsafe payload.append(columns[index].bytes) }
        if hasWorldStream {
            unsafe payload.append(world.shapes.bytes)
            unsafe payload.append(world.times.bytes)
            unsafe payload.append(world.input.bytes)
        }
        beginBlock()
    }
}
