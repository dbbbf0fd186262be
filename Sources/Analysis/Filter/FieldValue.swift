internal import Machine
internal import Trace

extension FilterField {
    /// The field's number in an exit; nil where the exit does not have it.
    @inline(__always)
    func value(in frame: borrowing ExitFrame, _ names: AddressNames) -> UInt64? {
        switch kind {
        case .exit: return frame.number
        case .register: return frame.registers.words[Int(index)] >> UInt64(shift) & mask
        case .systemWord: return frame.system.words[Int(index)] >> UInt64(shift) & mask
        case .instruction: return frame.instructionAddress
        case .linear: return frame.linearAddress
        case .reason: return UInt64(frame.reason.rawValue)
        case .vCPU: return UInt64(frame.vCPU)
        case .cpl: return UInt64(frame.cpl)
        case .mode: return frame.mode.place
        case .port, .address, .direction, .size, .count, .msr:
            return detail(frame.detail)
        case .length:
            return frame.data.isEmpty ? nil : UInt64(frame.data.count)
        case .data:
            let count = frame.data.count
            return count == 0 || count > 8 ? nil : frame.data.value
        case .time: return frame.time?.sinceStart
        case .guestTime: return frame.time?.guest
        case .vmmTime: return frame.time?.vmm
        case .vector: return Self.vector(frame)
        case .line: return names.name(of: frame.linearAddress)?.line.map { UInt64(max($0, 0)) }
        case .event, .symbol, .file: return nil
        }
    }

    @inline(__always)
    private func detail(_ detail: ExitDetail<Range<Int>>) -> UInt64? {
        switch (detail, kind) {
        case (.io(_, _, let port, _, _), .port): UInt64(port)
        case (.io(let isWrite, _, _, _, _), .direction): isWrite ? 1 : 0
        case (.io(_, let size, _, _, _), .size): UInt64(size)
        case (.io(_, _, _, let count, _), .count): UInt64(count)
        case (.mmio(let address, _, _, _), .address): address.rawValue
        case (.mmio(_, _, let isWrite, _), .direction): isWrite ? 1 : 0
        case (.mmio(_, let length, _, _), .size): UInt64(length)
        case (.rdmsr(let index, _), .msr): UInt64(index)
        case (.wrmsr(let index, _, _), .msr): UInt64(index)
        case (.rdmsr, .direction): 0
        case (.wrmsr, .direction): 1
        default: nil
        }
    }

    private static func vector(_ frame: borrowing ExitFrame) -> UInt64? {
        for event in frame.events {
            if case .interruption(let interruption) = event { return UInt64(interruption.vector) }
        }
        return nil
    }
}

extension CPUMode {
    /// The mode's place among all modes.
    var place: UInt64 {
        switch self {
        case .real: 0
        case .protected16: 1
        case .protected32: 2
        case .compatibility: 3
        case .long: 4
        }
    }
}
