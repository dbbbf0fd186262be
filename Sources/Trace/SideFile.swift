import Machine
import Synchronization

// The side file: events that are not yet in a block of the trace (FORMAT.md, "Side file"). A header
// page, then a ring of slots; a slot holds the events of one block as frames.

/// The first 72 bytes of a side file.
struct SideHeader: Equatable {
    static let bytes = 72
    /// Where the first slot begins.
    static let slotsAt = 4096
    static let magic: UInt64 = 0x0A4C_4941_544D_5689
    static let version: UInt32 = 1
    static let timingFlag: UInt32 = 1
    static let worldFlag: UInt32 = 2

    var slotCount: UInt32
    var slotStride: UInt64
    var vCPUCount: UInt32
    var timing: TimeBase?
    /// Slots have room for world events.
    var hasWorldStream: Bool
    var identity: UInt64
    /// The place in the trace of the first block of events.
    var firstSequence: UInt32

    func append(to buffer: inout ByteBuffer) {
        let start = buffer.count
        buffer.append(Self.magic)
        buffer.append(Self.version)
        buffer.append(slotCount)
        buffer.append(slotStride)
        buffer.append(vCPUCount)
        buffer.append(
            (timing == nil ? 0 : Self.timingFlag) | (hasWorldStream ? Self.worldFlag : 0))
        buffer.append(timing?.ticksPerSecond ?? 0)
        buffer.append(timing?.origin ?? 0)
        buffer.append(identity)
        buffer.append(firstSequence)
        buffer.append(UInt32(0))
        // SAFETY: the 64 bytes were just appended.
        let hash = unsafe hash64(UnsafeRawBufferPointer(rebasing: buffer.bytes[start...]))
        buffer.append(hash)
    }

    init(
        vCPUCount: Int, timing: TimeBase?, hasWorldStream: Bool = false, identity: UInt64,
        firstSequence: UInt32, slotCount: Int
    ) {
        self.slotCount = UInt32(slotCount)
        self.slotStride = UInt64(
            SideSlot.stride(vCPUCount: vCPUCount, hasWorldStream: hasWorldStream))
        self.hasWorldStream = hasWorldStream
        self.vCPUCount = UInt32(vCPUCount)
        self.timing = timing
        self.identity = identity
        self.firstSequence = firstSequence
    }

    /// Reads and checks a header; nil where it is none.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.bytes, let base = bytes.baseAddress else { return nil }
        // SAFETY: 72 bytes are there.
        guard unsafe base.get(UInt64.self, at: 0) == Self.magic,
            unsafe base.get(UInt32.self, at: 8) == Self.version,
            unsafe base.get(UInt64.self, at: 64)
                == hash64(UnsafeRawBufferPointer(start: base, count: 64))
        else { return nil }
        slotCount = unsafe base.get(UInt32.self, at: 12)
        slotStride = unsafe base.get(UInt64.self, at: 16)
        vCPUCount = unsafe base.get(UInt32.self, at: 24)
        identity = unsafe base.get(UInt64.self, at: 48)
        firstSequence = unsafe base.get(UInt32.self, at: 56)
        let flags = unsafe base.get(UInt32.self, at: 28)
        hasWorldStream = flags & Self.worldFlag != 0
        if flags & Self.timingFlag != 0 {
            timing = unsafe TimeBase(
                ticksPerSecond: base.get(UInt64.self, at: 32),
                origin: base.get(UInt64.self, at: 40))
        }
        guard slotCount >= 1, slotCount <= 256, timing?.ticksPerSecond != 0, vCPUCount >= 1,
            vCPUCount <= UInt32(Limits.vCPUs),
            slotStride
                == UInt64(
                    SideSlot.stride(
                        vCPUCount: Int(vCPUCount), hasWorldStream: hasWorldStream))
        else { return nil }
    }

    var fileBytes: UInt64 { UInt64(Self.slotsAt) + UInt64(slotCount) * slotStride }
}

/// The layout of one slot.
enum SideSlot {
    /// Bytes of committed frames: the one field that changes while the slot is open.
    static let committedAt = 0
    /// Number of the events block this becomes, from 1; 0 for a slot never used.
    static let ordinalAt = 8
    static let firstExitAt = 16
    /// When the KVM_RUN before the first exit of this slot returned, in ticks.
    static let previousReturnedAt = 24
    /// XXH3-64 of bytes 8 to 31 and the registers.
    static let checkAt = 32
    static let statesAt = 64

    static func framesAt(vCPUCount: Int) -> Int {
        (statesAt + vCPUCount * RowLayout.stateBytes + 63) & ~63
    }

    /// A frame: u32 length of the row (bit 31: stamps precede it), u32 check, stamps, row.
    static let frameHeaderBytes = 8
    static let stampBytes = 16
    static let stampsBit: UInt32 = 1 << 31

    /// Frames never take more: rows and overhead up to the hard limit, one more row, the stamps.
    private static let eventFrameBytes =
        Limits.hardBlockBytes + Limits.rowBytes + 16 + Int(Limits.cellExits) * stampBytes
    /// Nor do frames of world events: the limit, and one more.
    private static let worldFrameBytes =
        Limits.worldBlockBytes + frameHeaderBytes + WorldRow.maximumBytes

    /// What of a slot exits fill before their block ends, in bytes.
    static func usualBytes(vCPUCount: Int) -> Int {
        framesAt(vCPUCount: vCPUCount) + Limits.softBlockBytes + Int(Limits.cellExits) * stampBytes
    }

    static func frameBytes(hasWorldStream: Bool) -> Int {
        eventFrameBytes + (hasWorldStream ? worldFrameBytes : 0)
    }

    static func stride(vCPUCount: Int, hasWorldStream: Bool = false) -> Int {
        (framesAt(vCPUCount: vCPUCount) + frameBytes(hasWorldStream: hasWorldStream) + 4095)
            & ~4095
    }

    /// What a frame's check is seeded with, so that bytes of an earlier use do not pass.
    @inline(__always)
    static func seed(ordinal: UInt64, at offset: Int) -> UInt64 {
        ordinal << 24 ^ UInt64(offset)
    }

    /// The check of a slot's fixed part.
    static func check(_ slot: UnsafeRawPointer, vCPUCount: Int) -> UInt64 {
        // SAFETY: the caller's slot has its fixed part in full.
        let head = unsafe hash64(UnsafeRawBufferPointer(start: slot + 8, count: 24))
        return unsafe hash64(
            UnsafeRawBufferPointer(
                start: slot + statesAt, count: vCPUCount * RowLayout.stateBytes), seed: head)
    }
}

/// One frame of a slot, where it lies; valid as long as the slot.
@unsafe
struct Frame {
    let row: UnsafeRawBufferPointer
    let entered: UInt64
    let returned: UInt64
    let hasStamps: Bool
    /// Where the next frame begins.
    let end: Int

    /// Reads the frame at `offset` of `count` committed bytes; nil where it does not check.
    @inline(__always)
    init?(_ frames: UnsafeRawPointer, count: Int, at offset: Int, ordinal: UInt64) {
        guard count - offset >= SideSlot.frameHeaderBytes else { return nil }
        // SAFETY: every access is checked against `count`, which the caller vouches for.
        let word = unsafe frames.get(UInt32.self, at: offset)
        let check = unsafe frames.get(UInt32.self, at: offset + 4)
        let hasStamps = word & SideSlot.stampsBit != 0
        let length = Int(word & ~SideSlot.stampsBit)
        let stampBytes = hasStamps ? SideSlot.stampBytes : 0
        guard length <= Limits.rowBytes,
            count - offset - SideSlot.frameHeaderBytes >= stampBytes + length
        else { return nil }
        let body = unsafe frames + (offset + SideSlot.frameHeaderBytes)
        let hash = unsafe hash64(
            UnsafeRawBufferPointer(start: body, count: stampBytes + length),
            seed: SideSlot.seed(ordinal: ordinal, at: offset) ^ UInt64(word) << 32)
        guard UInt32(truncatingIfNeeded: hash) == check else { return nil }
        unsafe self.hasStamps = hasStamps
        unsafe entered = hasStamps ? unsafe body.get(UInt64.self, at: 0) : 0
        unsafe returned = hasStamps ? unsafe body.get(UInt64.self, at: 8) : 0
        unsafe row = UnsafeRawBufferPointer(start: body + stampBytes, count: length)
        unsafe end = offset + SideSlot.frameHeaderBytes + stampBytes + length
    }
}
