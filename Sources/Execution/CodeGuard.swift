internal import Disassembly
internal import Guest
internal import Machine

/// What the code before a candidate says of it.
///
/// A guess that ranks candidates, and decides nothing else.
struct CodeGuard: Sendable {
    /// Of the ways to decode what stands before it, how many in 256 arrive at it: nearly all where it
    /// is code, few where its bytes belong to other instructions.
    private(set) var fit: UInt8 = 255
    /// In its function an instruction that exits comes first on every way: it need not be thought of
    /// before that exit.
    private(set) var isGuarded = false

    /// Whether it is likely to be code.
    var isLikely: Bool { fit >= 128 }

    /// How far before a candidate decoding begins, for its fit.
    private static let history = 24
    /// How far around a candidate its function is looked at, in bytes.
    private static let reach = 1024

    /// Looks at the code before a linear address.
    init(
        of address: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) {
        let before = min(address, UInt64(Self.reach))
        let bytes = PageWalk.read(
            GuestVirtualAddress(address &- before), count: Int(before) + Self.reach,
            system: system, memory: memory)
        let place = Int(before)
        guard place >= Self.history, bytes.count >= place + 2 else { return }
        var best: (arrivals: Int, disassembler: Disassembler)?
        let widths: [Disassembler.CodeWidth] =
            system.mode == .long ? [.long64] : [.protected32, .protected16]
        for width in widths {
            let disassembler = Disassembler(width)
            let arrivals = Self.arrivals(bytes.span, place, disassembler)
            if arrivals > best?.arrivals ?? -1 { best = (arrivals, disassembler) }
        }
        guard let best else { return }
        fit = UInt8(best.arrivals * 255 / Self.history)
        guard isLikely else { return }
        isGuarded = Self.isGuarded(bytes.span, place, best.disassembler)
    }

    private static func arrivals(
        _ bytes: Span<UInt8>, _ place: Int, _ disassembler: Disassembler
    ) -> Int {
        var arrivals = 0
        for start in place - history..<place {
            var at = start
            while at < place, let flow = disassembler.flow(bytes, at: at, address: 0) {
                at += flow.length
            }
            if at == place { arrivals += 1 }
        }
        return arrivals
    }

    private static func isGuarded(
        _ bytes: Span<UInt8>, _ place: Int, _ disassembler: Disassembler
    ) -> Bool {
        // The function is taken to begin behind the last RET.
        var start: Int?
        var at = 0
        while at < place {
            guard let flow = disassembler.flow(bytes, at: at, address: 0) else {
                at += 1
                continue
            }
            at += flow.length
            if flow.kind == .ret { start = at }
        }
        guard let start, start < place else { return false }
        return walk(bytes, start, to: place, disassembler, passesExits: true)
            && !walk(bytes, start, to: place, disassembler, passesExits: false)
    }

    /// Whether the flow of the code leads from one offset to another, calls being passed over.
    private static func walk(
        _ bytes: Span<UInt8>, _ start: Int, to place: Int, _ disassembler: Disassembler,
        passesExits: Bool
    ) -> Bool {
        var visited = [Bool](repeating: false, count: bytes.count)
        var queue = [start]
        while var at = queue.popLast() {
            stretch: while at < bytes.count, !visited[at] {
                if at == place { return true }
                visited[at] = true
                guard let flow = disassembler.flow(bytes, at: at, address: UInt64(at)) else {
                    break
                }
                switch flow.kind {
                case .portIn, .portOut, .portInString, .portOutString, .hlt:
                    if !passesExits { break stretch }
                case .call: break
                default:
                    if let target = flow.target, target < UInt64(bytes.count) {
                        queue.append(Int(target))
                    }
                }
                guard flow.fallsThrough else { break }
                at += flow.length
            }
        }
        return false
    }
}
