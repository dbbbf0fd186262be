internal import Machine
internal import Trace

/// Prints exits as JSON Lines, one object each, of schema `vmtape.exit/1`.
///
/// Keys come in this order; those in brackets only where they apply. Registers and addresses are
/// strings in hexadecimal, as a JSON number does not hold 64 bits; bytes are strings of two
/// digits a byte.
///
///     schema        "vmtape.exit/1"
///     exit          number, from 0
///     vcpu          number
///     reason        as KVM names it: "io", "mmio", "hlt", …
///     [dir]         "in" or "out": io, mmio, x86_rdmsr, x86_wrmsr
///     [port]        number: io              [address]  "0x…": mmio
///     [msr]         "0x…": x86_rdmsr, x86_wrmsr
///     [size]        bytes of one access     [count]    accesses: io
///     [data]        what the guest sent, in hexadecimal
///     [rewritten]   true where the OUT stands for an instruction that vmtape rewrote; in a debug
///                   exit: vmtape rewrites the instruction here
///     [answer]      what it was given, in hexadecimal
///     rip           "0x…": the instruction that caused the exit, an offset in CS
///     [linear]      "0x…": its linear address, where that differs
///     cpl, mode     number; "real", "protected16", "protected32", "compatibility", "long"
///     [symbol, offset, file, line]          where the instruction is
///     [time_ns, guest_ns, vmm_ns]           host time: since the start, in the guest before
///                                           the exit, outside after it
///     [regs]        object of registers by name, without rip: those that differ, or all
///     [sregs]       object of system-register words that differ: "cs.base", "cr3", …
///     [events]      array of what else happened before the next exit; each has a "kind":
///                   "interruption" (type, vector, [error_code], [rip, stored: in mid-flight]),
///                   "completion" (text), "stored" (text), "device_write" (address, data),
///                   "end" (reason, [guest_status], mid_flight, [ram])
public struct ExitJSON {
    private let registers: ShownRegisters
    private let names: AddressNames
    private var json: JSONWriter
    /// The part of a line that names an address, by the address's number: made once.
    private var nameTexts: [[UInt8]] = []

    /// Prints to a stream.
    public init(
        _ stream: OutputStream, registers: ShownRegisters = .none,
        names: AddressNames = AddressNames()
    ) {
        json = JSONWriter(stream)
        self.registers = registers
        self.names = names
    }

    /// Prints one exit.
    public mutating func write(_ frame: borrowing ExitFrame) {
        let stream = json.stream
        stream.write("{\"schema\":\"vmtape.exit/1\",\"exit\":")
        stream.write(decimal: frame.number)
        stream.write(",\"vcpu\":")
        stream.write(decimal: UInt64(frame.vCPU))
        stream.write(",\"reason\":\"")
        writeReason(frame.reason)
        stream.write(byte: 0x22)
        writeDetail(frame, stream)
        if !frame.sent.isEmpty {
            stream.write(",\"data\":\"")
            Self.write(frame.sent, stream)
            stream.write(byte: 0x22)
        }
        if frame.flags.contains(.rewrittenInstruction) { stream.write(",\"rewritten\":true") }
        if frame.answerForm != nil {
            stream.write(",\"answer\":\"")
            Self.write(frame.answer, stream)
            stream.write(byte: 0x22)
        }
        let address = frame.instructionAddress
        let linear = frame.linearAddress
        stream.write(",\"rip\":\"0x")
        stream.write(hex: address)
        stream.write(byte: 0x22)
        if linear != address {
            stream.write(",\"linear\":\"0x")
            stream.write(hex: linear)
            stream.write(byte: 0x22)
        }
        stream.write(",\"cpl\":")
        stream.write(decimal: UInt64(frame.cpl))
        switch frame.mode {
        case .real: stream.write(",\"mode\":\"real\"")
        case .protected16: stream.write(",\"mode\":\"protected16\"")
        case .protected32: stream.write(",\"mode\":\"protected32\"")
        case .compatibility: stream.write(",\"mode\":\"compatibility\"")
        case .long: stream.write(",\"mode\":\"long\"")
        }
        writeName(linear, stream)
        if let time = frame.time {
            stream.write(",\"time_ns\":")
            stream.write(decimal: time.sinceStart)
            stream.write(",\"guest_ns\":")
            stream.write(decimal: time.guest)
            stream.write(",\"vmm_ns\":")
            stream.write(decimal: time.vmm)
        }
        if registers != .none { writeRegisters(frame, stream) }
        if !frame.events.isEmpty { writeEvents(frame) }
        stream.write("}\n")
    }

    private func writeReason(_ reason: ExitReason) {
        switch reason {
        case .io: json.stream.write("io")
        case .mmio: json.stream.write("mmio")
        case .hlt: json.stream.write("hlt")
        default: json.stream.write(reason.name)
        }
    }

    @inline(__always)
    private func writeDetail(_ frame: borrowing ExitFrame, _ stream: OutputStream) {
        switch frame.detail {
        case .io(let isWrite, let size, let port, let count, _):
            Self.writeDirection(isWrite, stream)
            stream.write(",\"port\":")
            stream.write(decimal: UInt64(port))
            stream.write(",\"size\":")
            stream.write(decimal: UInt64(size))
            stream.write(",\"count\":")
            stream.write(decimal: UInt64(count))
        case .mmio(let address, let length, let isWrite, _):
            Self.writeDirection(isWrite, stream)
            stream.write(",\"address\":\"0x")
            stream.write(hex: address.rawValue)
            stream.write("\",\"size\":")
            stream.write(decimal: UInt64(length))
        case .rdmsr(let index, _):
            stream.write(",\"dir\":\"in\",\"msr\":\"0x")
            stream.write(hex: UInt64(index))
            stream.write(byte: 0x22)
        case .wrmsr(let index, _, _):
            stream.write(",\"dir\":\"out\",\"msr\":\"0x")
            stream.write(hex: UInt64(index))
            stream.write(byte: 0x22)
        default: break
        }
    }

    private static func writeDirection(_ isWrite: Bool, _ stream: OutputStream) {
        if isWrite { stream.write(",\"dir\":\"out\"") } else { stream.write(",\"dir\":\"in\"") }
    }

    private static func write(_ data: borrowing ExitData, _ stream: OutputStream) {
        for index in 0..<data.count { stream.write(hex: UInt64(data[index]), digits: 2) }
    }

    private mutating func writeName(_ linear: UInt64, _ stream: OutputStream) {
        guard !names.isEmpty, let number = names.number(of: linear) else { return }
        while nameTexts.count <= number {
            nameTexts.append(Self.nameText(names.name(numbered: nameTexts.count)))
        }
        stream.write(bytes: nameTexts[number])
    }

    private static func nameText(_ name: AddressName?) -> [UInt8] {
        guard let name else { return [] }
        let stream = OutputStream()
        var json = JSONWriter(stream)
        json.beginObject()
        name.writePlace(&json)
        // The object's content, after a comma.
        return [0x2C] + stream.bytes.dropFirst()
    }

    private func writeRegisters(_ frame: borrowing ExitFrame, _ stream: OutputStream) {
        var json = json
        stream.write(",\"regs\":")
        json.beginObject()
        for register in Register.allCases where register != .rip {
            guard
                registers == .all || frame.changedRegisters & 1 << UInt32(register.rawValue) != 0
            else { continue }
            json.key(register.name)
            json.value(hex: frame.registers[register])
        }
        json.endObject()
        guard frame.changedSystemWords != 0 else { return }
        stream.write(",\"sregs\":")
        json = JSONWriter(stream)
        json.beginObject()
        for word in 0..<SystemRegisters.wordCount
        where frame.changedSystemWords & 1 << UInt64(word) != 0 {
            json.key(SystemRegisters.fieldName(word))
            json.value(hex: frame.system.words[word])
        }
        json.endObject()
    }

    private func writeEvents(_ frame: borrowing ExitFrame) {
        json.stream.write(",\"events\":")
        var json = JSONWriter(json.stream)
        json.beginArray()
        for event in frame.events { event.write(&json) }
        json.endArray()
    }
}

extension SystemRegisters {
    /// A name of its own for each word: `cs.base`, `cs.flags`, `gdt.limit`, `cr3`.
    static func fieldName(_ word: Int) -> String {
        let name = nameOfWord(word)
        switch word {
        case 0..<24: return name + [".base", ".limit_selector_type", ".attributes"][word % 3]
        case 24, 26: return name + ".base"
        case 25, 27: return name + ".limit"
        case 35...: return "\(name).\(word - 35)"
        default: return name
        }
    }
}

extension FrameEvent {
    func write(_ json: inout JSONWriter) {
        json.beginObject()
        json.key("kind")
        switch self {
        case .completion(let changes):
            json.value("completion" as StaticString)
            json.key("text")
            json.value(changes.map(\.text).joined(separator: ", "))
        case .interruption(let interruption):
            json.value("interruption" as StaticString)
            json.key("type")
            json.value(String(describing: interruption.kind))
            json.key("vector")
            json.value(UInt64(interruption.vector))
            if let code = interruption.errorCode {
                json.key("error_code")
                json.value(UInt64(code))
            }
            if let landmark = interruption.landmark {
                json.key("rip")
                json.value(hex: landmark.registers.rip)
                json.key("stored")
                json.value(landmark.stored != nil)
            }
        case .stored(let changes):
            json.value("stored" as StaticString)
            json.key("text")
            json.value(changes.map(\.text).joined(separator: ", "))
        case .deviceWrite(let address, let bytes):
            json.value("device_write" as StaticString)
            json.key("address")
            json.value(hex: address.rawValue)
            json.key("data")
            json.value(hexBytes: bytes)
        case .end(let end, _):
            json.value("end" as StaticString)
            json.key("reason")
            json.value(end.reason.name)
            if let status = end.guestStatus {
                json.key("guest_status")
                json.value(Int(status))
            }
            json.key("mid_flight")
            json.value(end.isInMidFlight)
            if let memory = end.memory {
                json.key("ram")
                json.value(memory.description)
            }
        }
        json.endObject()
    }
}
