internal import Machine
internal import Trace

/// Numbers exits by what they are aligned on: reason and site.
struct AlignmentKeys {
    private struct Key: Hashable {
        var kind: String
        var site: String
        var address: UInt64
    }

    /// Where names are compared, since addresses are not alike in two builds.
    private let byName: Bool
    private var numbers: [Key: Int32] = [:]
    /// The kind of each number.
    private var kinds: [String] = []
    /// This many insertions and deletions are tried.
    private static let editLimit = 1500
    /// So many equal exits in a row are a meeting.
    private static let meetingLength = 8

    init(byName: Bool) { self.byName = byName }

    /// The keys of exits from one on.
    mutating func sequence(_ source: DiffSource, from exit: UInt64, count: Int) -> [Int32] {
        guard exit < source.reader.exitCount,
            var reader = try? FrameReader(source.reader, from: exit)
        else { return [] }
        var found: [Int32] = []
        var frame = ExitFrame()
        while found.count < count, let isRead = try? reader.next(into: &frame), isRead {
            found.append(number(frame, source.names))
        }
        if !found.isEmpty {
            source.noteDecoded(exits: exit...(exit + UInt64(found.count - 1)))
        }
        return found
    }

    private mutating func number(_ frame: ExitFrame, _ names: AddressNames) -> Int32 {
        let name = byName ? names.name(of: frame.linearAddress)?.site : nil
        let key = Key(
            kind: ExitKind.label(frame), site: name ?? "",
            address: name == nil ? frame.linearAddress : 0)
        if let known = numbers[key] { return known }
        let number = Int32(kinds.count)
        numbers[key] = number
        kinds.append(key.kind)
        return number
    }

    /// What the two sequences have in common, and what not.
    func aftermath(_ a: [Int32], _ b: [Int32], from exits: (a: UInt64, b: UInt64)) -> Aftermath {
        let alignment = Alignment(a, b, limit: Self.editLimit)
        var result = Aftermath(
            windowA: UInt64(a.count), windowB: UInt64(b.count),
            matched: UInt64(alignment.pairs.count), onlyA: 0, onlyB: 0, meeting: nil, kinds: [],
            isCutShort: alignment.isCutShort)
        var counts: [String: (a: UInt64, b: UInt64)] = [:]
        var at = (a: 0, b: 0)
        for pair in alignment.pairs + [alignment.reach] {
            for index in at.a..<pair.a { counts[kinds[Int(a[index])], default: (0, 0)].a += 1 }
            for index in at.b..<pair.b { counts[kinds[Int(b[index])], default: (0, 0)].b += 1 }
            at = (pair.a + 1, pair.b + 1)
        }
        result.kinds = counts.map { .init(label: $0.key, onlyA: $0.value.a, onlyB: $0.value.b) }
        result.kinds.sort { ($1.onlyA + $1.onlyB, $0.label) < ($0.onlyA + $0.onlyB, $1.label) }
        result.onlyA = result.kinds.reduce(0) { $0 + $1.onlyA }
        result.onlyB = result.kinds.reduce(0) { $0 + $1.onlyB }
        result.meeting = Self.meeting(alignment, (a.count, b.count), exits)
        return result
    }

    /// The first run of pairs that is long enough, or reaches both ends.
    private static func meeting(
        _ alignment: Alignment, _ counts: (a: Int, b: Int), _ exits: (a: UInt64, b: UInt64)
    ) -> Aftermath.Meeting? {
        let pairs = alignment.pairs
        var start = 0
        while start < pairs.count {
            var end = start + 1
            while end < pairs.count, pairs[end].a == pairs[end - 1].a + 1,
                pairs[end].b == pairs[end - 1].b + 1
            {
                end += 1
            }
            let last = pairs[end - 1]
            // A window may end on one side only: then nothing there contradicts.
            let reachesEnd = last.a == counts.a - 1 || last.b == counts.b - 1
            // Exits alike at the very beginning differ in more than reason and site.
            let isFresh = pairs[start].a > 0 || pairs[start].b > 0 || end - start > 1
            if isFresh, end - start >= meetingLength || reachesEnd && end - start > 1 {
                let skip = pairs[start].a == 0 && pairs[start].b == 0 ? 1 : 0
                return Aftermath.Meeting(
                    exitA: exits.a + UInt64(pairs[start].a + skip),
                    exitB: exits.b + UInt64(pairs[start].b + skip),
                    length: UInt64(end - start - skip), lasts: reachesEnd)
            }
            start = end
        }
        return nil
    }
}

/// What sort of exit it is, for counting: more than the reason, less than the bytes.
enum ExitKind {
    static func label(_ frame: ExitFrame) -> String {
        if frame.isRewriting { return "rewriting" }
        if frame.flags.contains(.rewrittenInstruction) {
            return frame.answerForm == .cpuid ? "cpuid" : "rdtsc"
        }
        return switch frame.detail {
        case .io(let isWrite, _, let port, _, _):
            "\(isWrite ? "out" : "in") 0x\(TextLine.hexadecimal(UInt64(port)))"
        case .mmio(let address, _, let isWrite, _):
            "\(isWrite ? "write" : "read") 0x\(TextLine.hexadecimal(address.rawValue))"
        case .rdmsr(let index, _): "rdmsr 0x\(TextLine.hexadecimal(UInt64(index)))"
        case .wrmsr(let index, _, _): "wrmsr 0x\(TextLine.hexadecimal(UInt64(index)))"
        default: frame.reason.name
        }
    }
}
