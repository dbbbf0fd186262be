public import Machine
public import Trace

extension ExitFrame {
    /// The exit that a row by itself describes, with registers that are known from elsewhere: what
    /// a replay reports of an event that is on no tape.
    ///
    /// - Parameter row: the bytes that the event was read from, and that its ranges refer to.
    public init(
        _ exit: ExitEvent, row: [UInt8], number: UInt64, registers: GeneralRegisters,
        system: SystemRegisters
    ) {
        self.init()
        self.number = number
        detail = exit.detail
        flags = exit.flags
        rewind = exit.rewind
        changedRegisters = exit.changedRegisters
        changedSystemWords = exit.changedSystemWords
        self.registers = registers
        self.system = system
        mode = system.mode
        cpl = system.cpl
        switch exit.detail {
        case .io(let isWrite, _, _, _, let data):
            if isWrite { sent = ExitData(Self.bytes(data, row)) }
        case .mmio(_, let length, let isWrite, let value):
            if isWrite { sent.replace(withValue: value, count: min(Int(length), 8)) }
        case .wrmsr(_, _, let value): sent.replace(withValue: value, count: 8)
        case .hypercall(_, _, let data), .internalError(_, let data), .systemEvent(_, let data),
            .other(_, let data):
            sent = ExitData(Self.bytes(data, row))
        case .rdmsr, .failEntry, .exception, .debug: break
        }
    }

    private static func bytes(_ range: Range<Int>, _ row: [UInt8]) -> [UInt8] {
        Array(row[range.clamped(to: 0..<row.count)])
    }
}
