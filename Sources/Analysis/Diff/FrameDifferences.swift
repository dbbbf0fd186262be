internal import Machine
internal import Trace

/// In what two exits differ, in words.
enum FrameDifferences {
    static func between(
        _ a: ExitFrame, _ b: ExitFrame, level: DiffLevel, namesA: AddressNames,
        namesB: AddressNames
    ) -> [Difference] {
        var found: [Difference] = []
        func compare(_ name: String, _ a: String?, _ b: String?) {
            if a != b { found.append(Difference(name, a, b)) }
        }
        if a.reason != b.reason { compare("reason", a.reason.name, b.reason.name) }
        let (left, right) = (ExitDescription(a), ExitDescription(b))
        compare("request", left.request, right.request)
        compare("answer", left.answer, right.answer)
        if level != .io {
            compare("vCPU", String(a.vCPU), String(b.vCPU))
            compare("mode", a.mode.title, b.mode.title)
            compare("CPL", String(a.cpl), String(b.cpl))
            if level == .symbol {
                compare("site", site(a, namesA), site(b, namesB))
            } else if a.linearAddress != b.linearAddress {
                compare("instruction", place(a, namesA), place(b, namesB))
            }
        }
        if level == .full { found += registers(a, b) }
        let count = max(a.events.count, b.events.count)
        if level == .full {
            for index in 0..<count {
                let left = index < a.events.count ? a.events[index] : nil
                let right = index < b.events.count ? b.events[index] : nil
                if left != right { compare("then", left?.text, right?.text) }
            }
        }
        return found
    }

    static func registers(_ a: ExitFrame, _ b: ExitFrame) -> [Difference] {
        var found: [Difference] = []
        for register in Register.allCases {
            let (left, right) = (a.registers[register], b.registers[register])
            if left != right { found.append(numbers(register.name, left, right)) }
        }
        for word in 0..<SystemRegisters.wordCount {
            let (left, right) = (a.system.words[word], b.system.words[word])
            if left != right {
                found.append(numbers(SystemRegisters.fieldName(word), left, right))
            }
        }
        return found
    }

    private static func numbers(_ name: String, _ a: UInt64, _ b: UInt64) -> Difference {
        let digits = max(a, b) >> 32 == 0 ? 8 : 16
        return Difference(
            name, TextLine.hexadecimal(a, digits), TextLine.hexadecimal(b, digits))
    }

    private static func place(_ frame: ExitFrame, _ names: AddressNames) -> String {
        let address = TraceText.address(frame)
        return names.name(of: frame.linearAddress).map { "\(address) \($0.text)" } ?? address
    }

    /// Function and offset, else the address.
    static func site(_ frame: ExitFrame, _ names: AddressNames) -> String {
        names.name(of: frame.linearAddress)?.site ?? TraceText.address(frame)
    }
}
