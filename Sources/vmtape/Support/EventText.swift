internal import Machine
internal import Trace

/// An event in a few words, for reports.
enum EventText {
    /// - Parameter row: the event's bytes, which its ranges refer to.
    static func describe(_ event: Event, row: [UInt8], rip: UInt64?) -> String {
        switch event {
        case .start: return "start"
        case .exit(let exit):
            let address = rip.map { "at 0x" + RunText.hex($0 &- UInt64(exit.rewind), digits: 1) }
            return what(exit.detail, row) + (address.map { "  \($0)" } ?? "")
        case .answer(_, let data): return "-> " + bytes(data, row)
        case .completion: return "completion"
        case .interruption(_, let vector, _, _): return "interruption, vector \(vector)"
        case .deviceWrite(let address, let data):
            return "device write of \(data.count) bytes at 0x"
                + RunText.hex(address.rawValue, digits: 1)
        case .end(let end): return "end: \(end.reason.name)"
        }
    }

    private static func what(_ detail: ExitDetail<Range<Int>>, _ row: [UInt8]) -> String {
        switch detail {
        case .io(let isWrite, let size, let port, let count, let data):
            let times = count > 1 ? " x\(count)" : ""
            let sent = isWrite ? " " + bytes(data, row) : ""
            return "\(isWrite ? "out" : "in") 0x\(RunText.hex(UInt64(port), digits: 1)) "
                + "\(size)\(times)\(sent)"
        case .mmio(let address, let length, let isWrite, let value):
            let sent = isWrite ? " 0x" + RunText.hex(value, digits: Int(length) * 2) : ""
            return "mmio \(isWrite ? "write" : "read") 0x"
                + "\(RunText.hex(address.rawValue, digits: 1)) \(length)\(sent)"
        case .rdmsr(let index, _): return "rdmsr 0x\(RunText.hex(UInt64(index), digits: 1))"
        case .wrmsr(let index, _, let value):
            return "wrmsr 0x\(RunText.hex(UInt64(index), digits: 1)) "
                + "0x\(RunText.hex(value, digits: 1))"
        default: return detail.reason.name
        }
    }

    private static func bytes(_ range: Range<Int>, _ row: [UInt8]) -> String {
        let range = range.clamped(to: 0..<row.count)
        let shown = row[range].prefix(16).map { RunText.hex(UInt64($0), digits: 2) }
        return shown.joined(separator: " ") + (range.count > 16 ? " ..." : "")
    }
}
