internal import Machine
internal import Trace

/// What an exit did, in words: `out 0x3f8 1 41 'A'`, `in 0x3fd 1 -> 60`, `rdmsr 0x1b -> #GP`.
struct ExitDescription {
    /// What the guest did, as it is shown; without the answer.
    var request: String
    /// What it was answered, without the arrow; nil where it was not.
    var answer: String?
    /// The direction, which decides the colour.
    var role: TextRole = .plain

    /// More bytes than this are cut short.
    private static let shownBytes = 48

    init(_ frame: ExitFrame) {
        answer = Self.answer(frame)
        switch frame.detail {
        case .io(let isWrite, let size, let port, let count, _):
            role = isWrite ? .output : .input
            let name = isWrite ? "out" : "in"
            let repeated = count == 1 ? "\(size)" : "\(size)×\(count)"
            request = "\(name) 0x\(TextLine.hexadecimal(UInt64(port))) \(repeated)"
            if isWrite { request += " " + Self.bytes(frame.sent, unit: Int(size)) }
        case .mmio(let address, let length, let isWrite, _):
            role = isWrite ? .output : .input
            let name = isWrite ? "write" : "read"
            request = "\(name) 0x\(TextLine.hexadecimal(address.rawValue)) \(length)"
            if isWrite { request += " " + Self.bytes(frame.sent, unit: Int(length)) }
        case .rdmsr(let index, _):
            role = .input
            request = "rdmsr 0x\(TextLine.hexadecimal(UInt64(index)))"
        case .wrmsr(let index, _, let value):
            role = .output
            request =
                "wrmsr 0x\(TextLine.hexadecimal(UInt64(index))) 0x\(TextLine.hexadecimal(value))"
        case .hypercall(let number, _, _):
            request = "hypercall \(number)" + Self.words(frame.sent)
        case .internalError(let suberror, _):
            role = .bad
            request = "internal error \(suberror)" + Self.words(frame.sent)
        case .failEntry(let reason, let cpu):
            role = .bad
            request = "entry failed 0x\(TextLine.hexadecimal(reason)) on CPU \(cpu)"
        case .systemEvent(let type, _):
            request = "system event \(type)" + Self.words(frame.sent)
        case .exception(let vector, let errorCode):
            request = "exception \(vector), error code 0x\(TextLine.hexadecimal(UInt64(errorCode)))"
        case .debug(let exception, let pc, let dr6, _):
            request =
                "debug \(exception) at 0x\(TextLine.hexadecimal(pc)), dr6 "
                + "0x\(TextLine.hexadecimal(dr6))"
        case .other(let reason, _):
            request = reason.name
            if reason == .shutdown { role = .bad }
            if !frame.sent.isEmpty { request += " " + Self.bytes(frame.sent, unit: 1) }
        }
        if frame.isRewriting {
            request = Self.rewriting(frame)
        } else if frame.flags.contains(.rewrittenInstruction) {
            // The OUT is ours; what the guest wrote is what it stood for.
            request = Self.rewritten(frame)
            role = .input
        }
    }

    /// The instruction that was rewritten here, and to what: `rewritten: rdtsc, 0f 31 -> e6 5a`.
    private static func rewriting(_ frame: ExitFrame) -> String {
        var bytes: [UInt8] = []
        for case .completion(let changes) in frame.events {
            for case .memory(_, let piece) in changes { bytes += piece }
        }
        guard bytes.count == 2 else { return "an instruction is rewritten" }
        let name = RewrittenInstruction.name(port: UInt16(bytes[1]))
        let original = name == "cpuid" ? "0f a2" : "0f 31"
        let replacement = bytes.map { TextLine.hexadecimal(UInt64($0), 2) }
            .joined(separator: " ")
        return "rewritten: \(name), \(original) -> \(replacement)"
    }

    private static func rewritten(_ frame: ExitFrame) -> String {
        switch frame.answerForm {
        case AnswerForm.timeStamp: return "rdtsc"
        case AnswerForm.cpuid:
            let leaf = TextLine.hexadecimal(frame.registers[.rax] & 0xFFFF_FFFF)
            let index = TextLine.hexadecimal(frame.registers[.rcx] & 0xFFFF_FFFF)
            return "cpuid 0x\(leaf)/0x\(index)"
        default:
            guard case .io(_, _, let port, _, _) = frame.detail else { return "rdtsc" }
            return RewrittenInstruction.name(port: port)
        }
    }

    private static func answer(_ frame: ExitFrame) -> String? {
        guard let form = frame.answerForm else { return nil }
        let data = frame.answer
        switch form {
        case .io:
            guard case .io(_, let size, _, _, _) = frame.detail else { break }
            return bytes(data, unit: Int(size))
        case .mmio: return bytes(data, unit: data.count)
        case .msr:
            guard data.count >= 1 else { break }
            if data[0] != 0 { return "#GP" }
            if case .wrmsr = frame.detail { return "done" }
            guard data.count >= 9 else { break }
            return "0x" + TextLine.hexadecimal(word(data, at: 1, count: 8))
        case .hypercall, .timeStamp:
            return "0x" + TextLine.hexadecimal(word(data, at: 0, count: 8))
        case .cpuid:
            return (0..<4).map {
                TextLine.hexadecimal(word(data, at: $0 * 4, count: 4), 8)
            }.joined(separator: " ")
        default: break
        }
        return bytes(data, unit: 1)
    }

    /// A little-endian number from the middle of some bytes; bytes that are missing are zero.
    static func word(_ data: ExitData, at start: Int, count: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<count where start + index < data.count {
            value |= UInt64(data[start + index]) << UInt64(index * 8)
        }
        return value
    }

    private static func words(_ data: ExitData) -> String {
        var text = ""
        for index in 0..<(data.count / 8) {
            text += " 0x" + TextLine.hexadecimal(word(data, at: index * 8, count: 8))
        }
        return text
    }

    /// Bytes in units: one number per access (most significant digit first), and as characters
    /// where the units are bytes that can be printed.
    static func bytes(_ data: ExitData, unit: Int) -> String {
        guard unit > 0, data.count > 0 else { return "" }
        if unit == 1, data.count > 1, isText(data) {
            let shown = min(data.count, shownBytes)
            var text = "\""
            for index in 0..<shown { text += escaped(data[index], quote: 0x22) }
            return text + (shown < data.count ? "\"… (\(data.count) bytes)" : "\"")
        }
        let units = (data.count + unit - 1) / unit
        let shown = min(units, max(1, shownBytes / 2 / unit))
        var text = (0..<shown).map {
            TextLine.hexadecimal(word(data, at: $0 * unit, count: min(unit, 8)), unit * 2)
        }.joined(separator: " ")
        if shown < units { text += "… (\(data.count) bytes)" }
        if data.count == 1, isPrintable(data[0]) {
            text += " '\(escaped(data[0], quote: 0x27))'"
        }
        return text
    }

    private static func isPrintable(_ byte: UInt8) -> Bool {
        (0x20..<0x7F).contains(byte) || byte == 0x0A || byte == 0x0D || byte == 0x09
    }

    private static func isText(_ data: ExitData) -> Bool {
        for index in 0..<data.count where !isPrintable(data[index]) { return false }
        return true
    }

    private static func escaped(_ byte: UInt8, quote: UInt8) -> String {
        switch byte {
        case 0x0A: return "\\n"
        case 0x0D: return "\\r"
        case 0x09: return "\\t"
        case 0x5C: return "\\\\"
        case quote: return "\\" + String(UnicodeScalar(byte))
        default: return String(UnicodeScalar(byte))
        }
    }
}

/// What the OUTs stand for that vmtape puts in an instruction's place.
enum RewrittenInstruction {
    /// The instruction, by the port: 0x5a and those after it are RDTSC's, 0xcb and those after it
    /// CPUID's (`Rewriting` in Execution).
    static func name(port: UInt16) -> String { port >= 0xC0 ? "cpuid" : "rdtsc" }
}

extension FrameEvent {
    /// The event in one line.
    var text: String {
        switch self {
        case .completion(let changes):
            let shown = changes.prefix(6).map(\.text).joined(separator: ", ")
            return "completed by the runner: \(shown)" + (changes.count > 6 ? ", …" : "")
        case .interruption(let interruption): return interruption.text
        case .stored(let changes):
            let pieces = changes.reduce(0) { count, change in
                if case .memory(_, let bytes) = change { count + bytes.count } else { count }
            }
            return "the machine there is stored: registers, \(pieces) bytes of RAM"
        case .deviceWrite(let address, let bytes):
            return "device wrote 0x\(TextLine.hexadecimal(address.rawValue)): "
                + ExitDescription.bytes(ExitData(Array(bytes.prefix(4096))), unit: 1)
                + (bytes.count > 4096 ? " (\(bytes.count) bytes)" : "")
        case .end(let end, _): return end.text
        }
    }
}

extension Interruption {
    var text: String {
        let name =
            switch kind {
            case .external: "interrupt 0x\(TextLine.hexadecimal(UInt64(vector)))"
            case .nmi: "NMI"
            case .exception: "exception \(vector)"
            }
        let code = errorCode.map { ", error code 0x\(TextLine.hexadecimal(UInt64($0)))" } ?? ""
        guard let landmark else { return "\(name)\(code)" }
        let steps = landmark.instructions.map { ", \($0) instructions on" } ?? ""
        let place = TextLine.hexadecimal(landmark.registers.rip)
        return "\(name)\(code) in mid-flight at 0x\(place)\(steps)"
    }
}

extension EndEvent {
    var text: String {
        var text = "end: \(reason.name.replacing("_", with: " "))"
        if let guestStatus { text += ", guest status \(guestStatus)" }
        if isInMidFlight { text += ", between two exits" }
        if let memory { text += ", RAM \(memory)" }
        return text
    }
}

extension Change {
    var text: String {
        switch self {
        case .register(let register, let value):
            "\(register.name)=\(TextLine.hexadecimal(value))"
        case .systemWord(let index, let value):
            "\(SystemRegisters.nameOfWord(Int(index)))=\(TextLine.hexadecimal(value))"
        case .event(let kind, let vector, let errorCode):
            "injected " + Interruption(kind, vector: vector, errorCode: errorCode).text
        case .msr(let index, let value):
            "msr 0x\(TextLine.hexadecimal(UInt64(index)))=\(TextLine.hexadecimal(value))"
        case .extendedState(let offset, let bytes):
            "\(bytes.count) bytes of XSAVE at \(offset)"
        case .memory(let address, let bytes):
            "\(bytes.count) bytes of RAM at 0x\(TextLine.hexadecimal(address.rawValue))"
        case .debugWord(let index, let value):
            "debug word \(index)=\(TextLine.hexadecimal(value))"
        case .extendedControl(let index, let value):
            "xcr\(index)=\(TextLine.hexadecimal(value))"
        case .noMemory: "all of RAM zero"
        }
    }
}
