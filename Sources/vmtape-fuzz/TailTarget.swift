internal import Glibc
internal import Machine
internal import Trace

/// The trace reader over rows in a side file: what a killed recording leaves.
///
/// The input is a list of rows, each as u16 (bit 15: stamps precede it; the rest its length) and
/// bytes; the slot around them and all its checks are made here. So it is rows that are fuzzed.
enum TailTarget {
    /// An unfinished trace without a block of events, and its side file's header.
    private static let partial: (trace: [UInt8], header: [UInt8]) = {
        let recording = Seeds.record(events: { _ in })
        return (recording.trace, Array(recording.tail.prefix(72)))
    }()

    private static let slotAt = 4096
    private static let statesAt = 64
    private static let framesAt = 576
    private static let stampsBit: UInt64 = 1 << 31

    static func run(_ input: [UInt8]) {
        TraceTarget.read(partial.trace, tail: tail(input))
    }

    /// The side file: one slot that holds the rows.
    private static func tail(_ input: [UInt8]) -> [UInt8] {
        var header = partial.header
        TraceTarget.put(1, &header, at: 12, count: 4)
        TraceTarget.put(TraceTarget.hash(header[0..<64]), &header, at: 64)
        let stride = Int(TraceTarget.word(header, at: 16))
        var slot = [UInt8](repeating: 0, count: framesAt)
        var at = 0
        while at + 2 <= input.count, slot.count < stride - (70 << 10) {
            let word = UInt64(input[at]) | UInt64(input[at + 1]) << 8
            let hasStamps = word & 0x8000 != 0
            let length = Int(word & 0x7FFF)
            let body = input[min(at + 2, input.count)...].prefix(length + (hasStamps ? 16 : 0))
            guard body.count >= (hasStamps ? 16 : 0) else { break }
            append(body, hasStamps: hasStamps, to: &slot)
            at += 2 + body.count
        }
        TraceTarget.put(UInt64(slot.count - framesAt), &slot, at: 0)
        TraceTarget.put(1, &slot, at: 8)
        let head = TraceTarget.hash(slot[8..<32])
        let check = TraceTarget.hash(slot[statesAt..<(statesAt + 57 * 8)], seed: head)
        TraceTarget.put(check, &slot, at: 32)
        slot += [UInt8](repeating: 0, count: max(0, stride - slot.count))
        return header + [UInt8](repeating: 0, count: slotAt - header.count) + slot
    }

    /// A frame as the recorder writes it (FORMAT.md, "Side file").
    private static func append(
        _ body: ArraySlice<UInt8>, hasStamps: Bool, to slot: inout [UInt8]
    ) {
        let offset = UInt64(slot.count - framesAt)
        let word = UInt64(body.count - (hasStamps ? 16 : 0)) | (hasStamps ? stampsBit : 0)
        let check = TraceTarget.hash(body, seed: (1 << 24 ^ offset) ^ word << 32)
        var frame = [UInt8](repeating: 0, count: 8)
        TraceTarget.put(word, &frame, at: 0, count: 4)
        TraceTarget.put(check, &frame, at: 4, count: 4)
        slot += frame + body
    }

    /// The input that a side file's first slot would be.
    static func input(fromTail tail: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        guard tail.count > slotAt + framesAt else { return [] }
        let end = slotAt + framesAt + Int(TraceTarget.word(tail, at: slotAt))
        var at = slotAt + framesAt
        while at + 8 <= end, end <= tail.count {
            let word = TraceTarget.word(tail, at: at) & 0xFFFF_FFFF
            let hasStamps = word & stampsBit != 0
            let length = Int(word & ~stampsBit)
            let count = length + (hasStamps ? 16 : 0)
            guard length < 0x8000, at + 8 + count <= end else { break }
            let short = UInt16(length) | (hasStamps ? 0x8000 : 0)
            result += [UInt8(short & 0xFF), UInt8(short >> 8)] + tail[(at + 8)..<(at + 8 + count)]
            at += 8 + count
        }
        return result
    }
}
