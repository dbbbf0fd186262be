internal import Machine
internal import Trace

/// Exits as comma-separated values: a heading, then one line an exit.
///
/// Columns, empty where an exit does not have them: exit, vcpu, reason, dir (in or out), port,
/// address, msr, size, count, data, answer (hexadecimal digits, two a byte), rip, linear, cpl,
/// mode, symbol, offset, file, line, time_ns, guest_ns, vmm_ns; with registers asked for, rax to
/// r15 and rflags, where those that did not change are empty unless all were asked for. Addresses
/// and registers are hexadecimal with 0x.
public struct CSVExport {
    private let stream: OutputStream
    private let registers: ShownRegisters
    private let names: AddressNames
    private var nameTexts: [String] = []

    private static let shownRegisters = Register.allCases.filter { $0 != .rip }

    /// Writes the heading.
    public init(
        _ stream: OutputStream, registers: ShownRegisters = .none,
        names: AddressNames = AddressNames()
    ) {
        self.stream = stream
        self.registers = registers
        self.names = names
        stream.write("exit,vcpu,reason,dir,port,address,msr,size,count,data,answer,rip,linear,")
        stream.write("cpl,mode,symbol,offset,file,line,time_ns,guest_ns,vmm_ns")
        if registers != .none {
            for register in Self.shownRegisters { stream.write(",\(register.name)") }
        }
        stream.write("\n")
    }

    /// Writes one exit.
    public mutating func add(_ frame: borrowing ExitFrame) {
        stream.write(decimal: frame.number)
        stream.write(",")
        stream.write(decimal: UInt64(frame.vCPU))
        stream.write(",")
        if frame.reason == .io { stream.write("io") } else { stream.write(frame.reason.name) }
        writeDetail(frame)
        stream.write(",")
        for index in 0..<frame.sent.count {
            stream.write(hex: UInt64(frame.sent[index]), digits: 2)
        }
        stream.write(",")
        for index in 0..<frame.answer.count {
            stream.write(hex: UInt64(frame.answer[index]), digits: 2)
        }
        stream.write(",0x")
        stream.write(hex: frame.instructionAddress)
        stream.write(",0x")
        stream.write(hex: frame.linearAddress)
        stream.write(",")
        stream.write(decimal: UInt64(frame.cpl))
        stream.write(",")
        stream.write(frame.mode.rawValue)
        stream.write(",")
        writeName(frame.linearAddress)
        if let time = frame.time {
            stream.write(",")
            stream.write(decimal: time.sinceStart)
            stream.write(",")
            stream.write(decimal: time.guest)
            stream.write(",")
            stream.write(decimal: time.vmm)
        } else {
            stream.write(",,,")
        }
        if registers != .none { writeRegisters(frame) }
        stream.write("\n")
    }

    /// dir, port, address, msr, size, count, with a comma before each.
    private func writeDetail(_ frame: borrowing ExitFrame) {
        switch frame.detail {
        case .io(let isWrite, let size, let port, let count, _):
            if isWrite { stream.write(",out,0x") } else { stream.write(",in,0x") }
            stream.write(hex: UInt64(port))
            stream.write(",,,")
            stream.write(decimal: UInt64(size))
            stream.write(",")
            stream.write(decimal: UInt64(count))
        case .mmio(let address, let length, let isWrite, _):
            if isWrite { stream.write(",out,,0x") } else { stream.write(",in,,0x") }
            stream.write(hex: address.rawValue)
            stream.write(",,")
            stream.write(decimal: UInt64(length))
            stream.write(",")
        case .rdmsr(let index, _):
            stream.write(",in,,,0x")
            stream.write(hex: UInt64(index))
            stream.write(",,")
        case .wrmsr(let index, _, _):
            stream.write(",out,,,0x")
            stream.write(hex: UInt64(index))
            stream.write(",,")
        default: stream.write(",,,,,,")
        }
    }

    /// symbol, offset, file, line.
    private mutating func writeName(_ address: UInt64) {
        guard !names.isEmpty, let number = names.number(of: address) else {
            stream.write(",,,")
            return
        }
        while nameTexts.count <= number {
            let name = names.name(numbered: nameTexts.count)
            let fields = [
                name.map { CSV.quoted($0.function) }, name.map { String($0.offset) },
                name?.file.map(CSV.quoted), name?.line.map { String($0) },
            ]
            nameTexts.append(fields.map { $0 ?? "" }.joined(separator: ","))
        }
        stream.write(nameTexts[number])
    }

    private func writeRegisters(_ frame: borrowing ExitFrame) {
        for register in Self.shownRegisters {
            stream.write(",")
            guard
                registers == .all || frame.changedRegisters & 1 << UInt32(register.rawValue) != 0
            else { continue }
            stream.write("0x")
            stream.write(hex: frame.registers[register])
        }
    }
}
