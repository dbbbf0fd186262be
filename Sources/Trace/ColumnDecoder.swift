import Machine

/// The rows of one block and where each ends.
struct RowBuffer: ~Copyable {
    var rows = ByteBuffer(capacity: 256 * 1024)
    /// Row n ends here and row n+1 begins.
    var ends: [UInt32] = []
    /// The registers of each vCPU before the first row.
    var baseline: [VCPUState] = []
    /// One an exit, in order; empty without timing.
    var times: [ExitTime] = []
    /// What the world took from outside, in order; empty without a world stream.
    var world: [WorldEntry] = []
    /// What ``world`` takes before compression.
    var worldBytes = 0

    mutating func removeAll() {
        rows.removeAll()
        ends.removeAll(keepingCapacity: true)
        baseline.removeAll(keepingCapacity: true)
        times.removeAll(keepingCapacity: true)
        world.removeAll(keepingCapacity: true)
        worldBytes = 0
    }

    /// Row n, valid until the buffer changes.
    @inline(__always)
    func row(_ index: Int) -> UnsafeRawBufferPointer {
        let begin = index == 0 ? 0 : Int(ends[index - 1])
        let end = Int(ends[index])
        // SAFETY: ends ascend and do not pass the bytes that were written.
        return unsafe UnsafeRawBufferPointer(rebasing: rows.bytes[begin..<end])
    }
}

/// Puts the rows of one block together from its columns. The bytes are untrusted.
@safe
struct ColumnDecoder: ~Copyable {
    private var columns: [ByteReader] = []
    private var states: [VCPUState] = []
    private var sites: [SiteState] = []
    private var answers: [(form: UInt8, length: UInt16)] = []
    /// The site of each exit; kept only where there is a world stream.
    private var exitSites: [UInt16] = []

    init() {}

    /// Decodes `payload` into `output`; the counts are those of the block's header.
    mutating func decode(
        _ payload: UnsafeRawBufferPointer, header: BlockHeader, vCPUCount: Int?,
        into output: inout RowBuffer
    ) throws(Malformed) {
        output.removeAll()
        try unsafe openColumns(payload)
        defer { columns.removeAll(keepingCapacity: true) }
        try readBaseline(vCPUCount)
        try readTables()
        output.baseline = states
        exitSites.removeAll(keepingCapacity: true)
        var exits: UInt32 = 0
        for _ in 0..<header.eventCount {
            let first: UInt8 = try columns[Column.kinds].integer()
            guard let kind = EventKind(rawValue: first & 0x7F) else {
                throw Malformed("an event of unknown kind \(first & 0x7F)")
            }
            var vCPU = 0
            // SAFETY: no row is longer than what is reserved here; longer ones are refused before
            // they are written.
            let to = unsafe output.rows.reserve(Limits.rowBytes)
            unsafe to.put(first, at: 0)
            var length = 1
            if first & RowLayout.vCPUBit != 0 {
                let number: UInt8 = try columns[Column.vCPUs].integer()
                guard number != 0, Int(number) < states.count else {
                    throw Malformed("an event of vCPU \(number) where there are \(states.count)")
                }
                unsafe to.put(number, at: 1)
                vCPU = Int(number)
                length = 2
            }
            switch kind {
            case .exit:
                length = try unsafe exit(vCPU, to, length)
                exits &+= 1
            case .answer: length = try unsafe answer(to, length)
            case .start, .completion, .interruption, .deviceWrite, .end:
                let body = length
                length = try unsafe other(to, length)
                let row = unsafe UnsafeRawBufferPointer(start: to, count: length)
                _ = try unsafe RowView(row)
                if kind == .start {
                    try unsafe takeState(row, body, vCPU)
                } else if kind == .end {
                    let flags = unsafe row[body + 1]
                    let status = flags & EndRowFlag.guestStatus != 0 ? 4 : 0
                    try unsafe takeState(row, body + 2 + status, vCPU)
                }
            }
            output.rows.setCount(output.rows.count + length)
            guard output.rows.count <= Limits.blockRowBytes else {
                throw Malformed("the rows of the block take more than the format allows")
            }
            output.ends.append(UInt32(truncatingIfNeeded: output.rows.count))
        }
        guard exits == header.exitCount else {
            throw Malformed("the block holds \(exits) exits, its header says \(header.exitCount)")
        }
        if !columns[Column.guestTime].isAtEnd { try readTimes(header, into: &output) }
        if columns.count >= Column.countWithWorld {
            var worldShapes = columns[Column.worldShapes]
            var worldTimes = columns[Column.worldTimes]
            var worldInput = columns[Column.worldInput]
            output.worldBytes =
                worldShapes.remaining + worldTimes.remaining + worldInput.remaining
            try WorldColumnDecoder.decode(
                shapes: &worldShapes, times: &worldTimes, input: &worldInput,
                exitSites: exitSites, siteCount: sites.count, into: &output.world)
            (columns[Column.worldShapes], columns[Column.worldTimes]) = (worldShapes, worldTimes)
            columns[Column.worldInput] = worldInput
        }
        for index in columns.indices
        where !columns[index].isAtEnd && index < Column.countWithWorld {
            throw Malformed("column \(index) has \(columns[index].remaining) bytes too many")
        }
    }

    private mutating func openColumns(_ payload: UnsafeRawBufferPointer) throws(Malformed) {
        // SAFETY: the readers check every bound; they are dropped before `decode` returns.
        var reader = unsafe ByteReader(payload, "the columns")
        let count = Int(try reader.integer(UInt32.self))
        guard count == Column.count || count >= Column.countWithWorld, count <= 1024 else {
            throw Malformed("a block of \(count) columns")
        }
        columns.removeAll(keepingCapacity: true)
        var lengths: [Int] = []
        for _ in 0..<count { lengths.append(Int(try reader.integer(UInt32.self))) }
        for length in lengths {
            columns.append(unsafe ByteReader(try reader.bytes(length), "a column"))
        }
        guard reader.isAtEnd else {
            throw Malformed("\(reader.remaining) bytes follow the columns")
        }
    }

    private mutating func readBaseline(_ vCPUCount: Int?) throws(Malformed) {
        states.removeAll(keepingCapacity: true)
        while !columns[Column.baseline].isAtEnd {
            let (registers, system) = try RowReader.state(&columns[Column.baseline])
            states.append(VCPUState(registers: registers, system: system))
        }
        let expected = vCPUCount ?? min(max(states.count, 1), Limits.vCPUs)
        guard states.count == expected else {
            throw Malformed(
                "the block holds the registers of \(states.count) vCPUs, not \(expected)")
        }
    }

    private mutating func readTables() throws(Malformed) {
        sites.removeAll(keepingCapacity: true)
        while !columns[Column.siteTable].isAtEnd {
            guard sites.count < Int(Limits.cellExits) else { throw Malformed("too many sites") }
            let rip: UInt64 = try columns[Column.siteTable].integer()
            let form: UInt64 = try columns[Column.siteTable].integer()
            let reason: UInt32 = try columns[Column.siteTable].integer()
            let rewind: UInt8 = try columns[Column.siteTable].integer()
            let flags: UInt8 = try columns[Column.siteTable].integer()
            let reserved: UInt16 = try columns[Column.siteTable].integer()
            guard reserved == 0, flags & ~ExitFlags.defined.rawValue == 0 else {
                throw Malformed("a site sets reserved bits")
            }
            sites.append(
                SiteState(
                    site: Site(
                        rip: rip, form: form, reason: reason, rewind: rewind, flags: flags)))
        }
        answers.removeAll(keepingCapacity: true)
        while !columns[Column.answerTable].isAtEnd {
            let form: UInt8 = try columns[Column.answerTable].integer()
            let length: UInt16 = try columns[Column.answerTable].integer()
            guard Int(length) <= Limits.answerBytes else {
                throw Malformed("an answer of \(length) bytes")
            }
            answers.append((form, length))
        }
    }

    private mutating func takeState(
        _ row: UnsafeRawBufferPointer, _ at: Int, _ vCPU: Int
    ) throws(Malformed) {
        // SAFETY: the reader checks every bound.
        var reader = unsafe ByteReader(row, "a row")
        try reader.skip(at)
        let (registers, system) = try RowReader.state(&reader)
        states[vCPU] = VCPUState(registers: registers, system: system)
    }

    @inline(__always)
    private mutating func exit(
        _ vCPU: Int, _ to: UnsafeMutableRawPointer, _ begin: Int
    ) throws(Malformed) -> Int {
        // SAFETY: registers and system words take at most 2 + 13 + 144 + 8 + 312 bytes, and each
        // variable part is checked against `Limits` before it is written.
        let number = try columns[Column.sites].varint()
        guard number < UInt64(sites.count) else { throw Malformed("site \(number) is not there") }
        let siteIndex = Int(truncatingIfNeeded: number)
        if columns.count > Column.count { exitSites.append(UInt16(siteIndex)) }
        let site = sites[siteIndex].site
        let shape: UInt8 = try columns[Column.shapes].integer()
        guard shape & ~ExitShape.all == 0 else { throw Malformed("an exit of shape \(shape)") }
        if shape & ExitShape.mask != 0 {
            let mask = try columns[Column.masks].varint()
            guard mask & ~UInt64(RowLayout.registerMask & ~RowLayout.ripBit) == 0 else {
                throw Malformed("a register mask is out of range")
            }
            sites[siteIndex].lastMask = UInt32(truncatingIfNeeded: mask)
        }
        var at = begin
        if site.reason < RowLayout.reasonEscape {
            unsafe to.put(UInt8(truncatingIfNeeded: site.reason), at: at)
            at += 1
        } else {
            unsafe to.put(UInt8(RowLayout.reasonEscape), at: at)
            unsafe to.put(site.reason, at: at + 1)
            at += 5
        }
        let hasSystem = shape & ExitShape.system != 0
        unsafe to.put(
            site.flags | (hasSystem ? ExitRowFlag.systemRegisters : 0), at: at)
        unsafe to.put(site.rewind, at: at + 1)
        at += 2

        var mask = sites[siteIndex].lastMask
        if states[vCPU].registers.words[RowLayout.ripIndex] != site.rip {
            mask |= RowLayout.ripBit
        }
        unsafe to.put(mask, at: at)
        at += 4
        while mask != 0 {
            let index = mask.trailingZeroBitCount
            var value = site.rip
            if index != RowLayout.ripIndex {
                value =
                    states[vCPU].registers.words[index]
                    &+ (try columns[Column.firstRegister + index].difference())
            }
            states[vCPU].registers.words[index] = value
            unsafe to.put(value, at: at)
            at += 8
            mask &= mask &- 1
        }
        if hasSystem { at += try unsafe systemWords(vCPU, to + at) }
        return try unsafe detail(siteIndex, site, to, at)
    }

    @inline(never)
    private mutating func systemWords(
        _ vCPU: Int, _ to: UnsafeMutableRawPointer
    ) throws(Malformed) -> Int {
        // SAFETY: at most 8 + 312 bytes, within the row that was reserved.
        var mask = try columns[Column.system].varint()
        guard mask != 0, mask & ~RowLayout.systemMask == 0 else {
            throw Malformed("a mask of system registers is out of range")
        }
        unsafe to.put(mask, at: 0)
        var at = 8
        while mask != 0 {
            let index = mask.trailingZeroBitCount
            let value =
                states[vCPU].system.words[index] &+ (try columns[Column.system].difference())
            states[vCPU].system.words[index] = value
            unsafe to.put(value, at: at)
            at += 8
            mask &= mask &- 1
        }
        return at
    }

    @inline(__always)
    private mutating func detail(
        _ siteIndex: Int, _ site: Site, _ to: UnsafeMutableRawPointer, _ begin: Int
    ) throws(Malformed) -> Int {
        // SAFETY: see `exit`.
        var at = begin
        switch site.reason {
        case 2:
            unsafe to.put(site.form, at: at)
            at += 8
            let direction = site.form & 0xFF
            guard direction <= 1 else { throw Malformed("a port access of direction \(direction)") }
            if direction == 0 { return at }
            let size = Int((site.form >> 8) & 0xFF)
            let bytes = size &* Int(site.form >> 32)
            guard bytes <= Limits.portDataBytes else {
                throw Malformed("a port write of \(bytes) bytes")
            }
            return try unsafe copy(Column.output, bytes, to, at)
        case 6:
            unsafe to.put(UInt16(truncatingIfNeeded: site.form), at: at)
            let address =
                sites[siteIndex].lastAddress &+ (try columns[Column.addresses].difference())
            sites[siteIndex].lastAddress = address
            unsafe to.put(address, at: at + 2)
            at += 10
            let length = Int(site.form & 0xFF)
            guard length <= 8, site.form >> 8 <= 1 else {
                throw Malformed("an MMIO access of form \(site.form)")
            }
            return site.form >> 8 == 0 ? at : try unsafe copy(Column.output, length, to, at)
        case 29, 30:
            unsafe to.put(site.form, at: at)
            at += 8
            return site.reason == 29 ? at : try unsafe copy(Column.output, 8, to, at)
        default:
            guard site.form == 0 else { throw Malformed("a site sets reserved bits") }
            at = try unsafe other(to, at)
            _ = try unsafe RowView(UnsafeRawBufferPointer(start: to, count: at))
            return at
        }
    }

    /// Copies `count` bytes of a column to `at`; returns where the next byte goes.
    @inline(__always)
    private mutating func copy(
        _ column: Int, _ count: Int, _ to: UnsafeMutableRawPointer, _ at: Int
    ) throws(Malformed) -> Int {
        let bytes = try unsafe columns[column].bytes(count)
        guard at + count <= Limits.rowBytes else { throw Malformed("a row is too long") }
        // SAFETY: just checked; a row's worth of bytes is reserved at `to`.
        if let source = bytes.baseAddress {
            unsafe (to + at).copyMemory(from: source, byteCount: count)
        }
        return at + count
    }

    private mutating func other(
        _ to: UnsafeMutableRawPointer, _ at: Int
    ) throws(Malformed) -> Int {
        let length = try columns[Column.other].varint()
        guard length <= UInt64(Limits.rowBytes) else { throw Malformed("a row is too long") }
        return try unsafe copy(Column.other, Int(length), to, at)
    }

    private mutating func answer(
        _ to: UnsafeMutableRawPointer, _ begin: Int
    ) throws(Malformed) -> Int {
        // SAFETY: 3 bytes, then what `copy` checks.
        let number = try columns[Column.answers].varint()
        guard number < UInt64(answers.count) else {
            throw Malformed("answer form \(number) is not there")
        }
        let answer = answers[Int(number)]
        unsafe to.put(answer.form, at: begin)
        unsafe to.put(answer.length, at: begin + 1)
        return try unsafe copy(Column.answerBytes, Int(answer.length), to, begin + 3)
    }

    private mutating func readTimes(
        _ header: BlockHeader, into output: inout RowBuffer
    ) throws(Malformed) {
        var now = header.hostNanoseconds
        for index in 0..<header.exitCount {
            let guestTime = try time(Column.guestTime)
            let hostTime = try time(Column.hostTime)
            // The header says when the first exit returned, so that errors do not add up.
            if index > 0 { now = now &+ guestTime &+ hostTime }
            output.times.append(
                ExitTime(
                    returnedNanoseconds: now, guestNanoseconds: guestTime,
                    hostNanoseconds: hostTime))
        }
    }

    private mutating func time(_ column: Int) throws(Malformed) -> UInt64 {
        let code: UInt8 = try columns[column].integer()
        return code == TimeQuantiser.escape
            ? try columns[Column.longTimes].varint() : TimeQuantiser.nanoseconds(code)
    }
}
