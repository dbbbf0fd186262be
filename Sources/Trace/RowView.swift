import Machine

/// Where the parts of one row are; made only of rows that are well formed to the last byte.
///
/// The bytes stay with the caller: a view holds numbers and offsets.
struct RowView {
    let kind: EventKind
    let vCPU: UInt8
    /// Where what follows kind and vCPU begins.
    let body: Int
    /// The fields of an exit row; zero for others.
    private(set) var reason: UInt32 = 0
    private(set) var flags: UInt8 = 0
    private(set) var rewind: UInt8 = 0
    private(set) var registerMask: UInt32 = 0
    private(set) var registersAt = 0
    private(set) var systemMask: UInt64 = 0
    private(set) var systemAt = 0
    private(set) var detailAt = 0
    /// An exit by which the guest sent something out; a rewritten instruction is none.
    private(set) var isOutput = false

    /// An exit at which vmtape rewrote an instruction: a debug exit that says so.
    var isRewriting: Bool {
        reason == 4 && flags & ExitFlags.rewrittenInstruction.rawValue != 0
    }

    /// Reasons whose detail has a layout of its own; all others are raw bytes.
    static func hasLayout(_ reason: UInt32) -> Bool {
        switch reason {
        case 1, 2, 3, 4, 6, 9, 17, 24, 29, 30: true
        default: false
        }
    }

    /// Parses a row and checks it whole.
    @inline(__always)
    init(_ row: UnsafeRawBufferPointer) throws(Malformed) {
        guard row.count >= 2, row.count <= Limits.rowBytes, let base = row.baseAddress
        else { throw Malformed("a row of \(row.count) bytes") }
        // SAFETY: every load below is preceded by a check against `row.count`.
        let first = unsafe base.get(UInt8.self, at: 0)
        guard let kind = EventKind(rawValue: first & 0x7F) else {
            throw Malformed("a row of unknown kind \(first & 0x7F)")
        }
        self.kind = kind
        if first & RowLayout.vCPUBit == 0 {
            vCPU = 0
            body = 1
        } else {
            vCPU = unsafe base.get(UInt8.self, at: 1)
            body = 2
            guard vCPU != 0 else { throw Malformed("a row that spells out vCPU 0") }
        }
        if kind == .exit {
            try unsafe parseExit(base, row.count)
        } else {
            try unsafe checkOther(row)
        }
    }

    @inline(__always)
    private mutating func parseExit(_ base: UnsafeRawPointer, _ count: Int) throws(Malformed) {
        // SAFETY: see init.
        var at = body
        guard count >= at + 7 else { throw Malformed("an exit row is cut short") }
        reason = UInt32(unsafe base.get(UInt8.self, at: at))
        at += 1
        if reason == RowLayout.reasonEscape {
            guard count >= at + 10 else { throw Malformed("an exit row is cut short") }
            reason = unsafe base.get(UInt32.self, at: at)
            guard reason >= RowLayout.reasonEscape else {
                throw Malformed("a small exit reason in the long form")
            }
            at += 4
        }
        flags = unsafe base.get(UInt8.self, at: at)
        rewind = unsafe base.get(UInt8.self, at: at + 1)
        registerMask = unsafe base.get(UInt32.self, at: at + 2)
        at += 6
        guard flags & ~ExitRowFlag.all == 0, registerMask & ~RowLayout.registerMask == 0 else {
            throw Malformed("reserved bits are set in an exit row")
        }
        registersAt = at
        at += registerMask.nonzeroBitCount * 8
        if flags & ExitRowFlag.systemRegisters != 0 {
            guard count >= at + 8 else { throw Malformed("an exit row is cut short") }
            systemMask = unsafe base.get(UInt64.self, at: at)
            guard systemMask != 0, systemMask & ~RowLayout.systemMask == 0 else {
                throw Malformed("an exit row's mask of system registers is out of range")
            }
            at += 8
            systemAt = at
            at += systemMask.nonzeroBitCount * 8
        }
        detailAt = at
        let expected = try unsafe detailBytes(base, count - at)
        guard count == at + expected else {
            throw Malformed("an exit row of \(count) bytes holds \(at + expected)")
        }
    }

    /// The length of the detail at `detailAt`, of which `have` bytes exist; notes output.
    @inline(__always)
    private mutating func detailBytes(
        _ base: UnsafeRawPointer, _ have: Int
    ) throws(Malformed) -> Int {
        // SAFETY: see init; `have` bytes follow `detailAt`.
        func need(_ bytes: Int) throws(Malformed) {
            if have < bytes { throw Malformed("an exit row is cut short in its detail") }
        }
        func direction(_ byte: UInt8) throws(Malformed) -> Bool {
            if byte > 1 { throw Malformed("an exit row's direction is \(byte)") }
            return byte == 1
        }
        let detail = unsafe base + detailAt
        let isRewritten = flags & ExitFlags.rewrittenInstruction.rawValue != 0
        switch reason {
        case 2:
            try need(8)
            guard try direction(unsafe detail.get(UInt8.self, at: 0)) else { return 8 }
            isOutput = !isRewritten
            let size = Int(unsafe detail.get(UInt8.self, at: 1))
            let bytes = size &* Int(unsafe detail.get(UInt32.self, at: 4))
            guard bytes <= Limits.portDataBytes else {
                throw Malformed("a port write of \(bytes) bytes")
            }
            return 8 + bytes
        case 6:
            try need(10)
            let length = unsafe detail.get(UInt8.self, at: 0)
            guard length <= 8 else { throw Malformed("an MMIO access of \(length) bytes") }
            guard try direction(unsafe detail.get(UInt8.self, at: 1)) else { return 10 }
            isOutput = !isRewritten
            return 10 + Int(length)
        case 29: return 8
        case 30:
            isOutput = !isRewritten
            return 16
        case 3: return 57
        case 17, 24:
            try need(5)
            let words = Int(unsafe detail.get(UInt8.self, at: 4))
            guard words <= Limits.detailWords else {
                throw Malformed("an exit with \(words) words of data")
            }
            return 5 + words * 8
        case 9: return 12
        case 1: return 8
        case 4: return 28
        default:
            try need(2)
            let bytes = Int(unsafe detail.get(UInt16.self, at: 0))
            guard bytes <= Limits.otherExitBytes else {
                throw Malformed("an exit with \(bytes) raw bytes")
            }
            return 2 + bytes
        }
    }

    @inline(never)
    private func checkOther(_ row: UnsafeRawBufferPointer) throws(Malformed) {
        // SAFETY: the reader checks every bound.
        var reader = unsafe ByteReader(row, "a row")
        try reader.skip(body)
        switch kind {
        case .exit: break
        case .start: try reader.skip(RowLayout.stateBytes)
        case .answer:
            _ = try reader.integer(UInt8.self)
            let count = Int(try reader.integer(UInt16.self))
            guard count <= Limits.answerBytes else {
                throw Malformed("an answer of \(count) bytes")
            }
            try reader.skip(count)
        case .completion:
            for _ in 0..<(try reader.integer(UInt16.self)) { try Change.skip(&reader) }
        case .interruption: _ = try RowReader.interruption(&reader, GeneralRegisters())
        case .deviceWrite:
            _ = try reader.integer(UInt64.self)
            let count = Int(try reader.integer(UInt32.self))
            guard count <= Limits.deviceWriteBytes else {
                throw Malformed("a device write of \(count) bytes")
            }
            try reader.skip(count)
        case .end:
            _ = try RowReader.end(&reader)
        }
        guard reader.isAtEnd else {
            throw Malformed("a row has \(reader.remaining) bytes too many")
        }
    }

    /// Appends what the output digest is taken over (FORMAT.md, "Digests").
    func appendOutput(of row: UnsafeRawBufferPointer, to buffer: inout ByteBuffer) {
        guard let base = row.baseAddress else { return }
        buffer.append(kind.rawValue)
        buffer.append(vCPU)
        // SAFETY: this view was made of this row, whose detail was checked then.
        if kind == .end {
            let status = unsafe base.get(UInt8.self, at: body + 1) & EndRowFlag.guestStatus != 0
            buffer.append(unsafe base.get(UInt8.self, at: body))
            buffer.append(UInt8(status ? 1 : 0))
            buffer.append(status ? unsafe base.get(UInt32.self, at: body + 2) : 0)
            return
        }
        let detail = unsafe base + detailAt
        let length = row.count - detailAt
        buffer.append(reason)
        switch reason {
        case 2:
            buffer.append(unsafe detail.get(UInt16.self, at: 2))
            buffer.append(unsafe detail.get(UInt8.self, at: 1))
            buffer.append(unsafe detail.get(UInt32.self, at: 4))
            unsafe buffer.append(UnsafeRawBufferPointer(start: detail + 8, count: length - 8))
        case 6:
            buffer.append(unsafe detail.get(UInt64.self, at: 2))
            buffer.append(unsafe detail.get(UInt8.self, at: 0))
            unsafe buffer.append(UnsafeRawBufferPointer(start: detail + 10, count: length - 10))
        default:
            buffer.append(unsafe detail.get(UInt32.self, at: 0))
            buffer.append(unsafe detail.get(UInt64.self, at: 8))
        }
    }
}
