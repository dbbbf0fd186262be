internal import Machine

/// Reads the text of a `monitor` command.
enum MonitorParser {
    /// A command, or what the session answers by itself.
    enum Request: Equatable {
        case command(MonitorCommand)
        /// `help`.
        case help
        /// `hints on|off`: whether a move is followed by advice on the debugger's memory.
        case hints(Bool)
        /// `console on|off`: whether what the guest prints is shown.
        case console(Bool)
    }

    /// - Throws: ``DebugError`` that says what was expected.
    static func parse(_ bytes: [UInt8]) throws(DebugError) -> Request {
        guard bytes.count <= Limits.monitorCommand else {
            throw DebugError("a monitor command has at most \(Limits.monitorCommand) bytes")
        }
        let text = String(decoding: bytes, as: UTF8.self)
        var words = text.split { $0 == " " || $0 == "\t" || $0 == "\n" || $0 == "\r" }[...]
        guard let name = words.popFirst() else { return .help }
        let request: Request
        switch name {
        case "help": return .help
        case "when": request = .command(.when(isExact: isNext("exact", &words)))
        case "goto": request = .command(.goTo(try destination(&words)))
        case "exits": request = .command(.exits(try range(&words)))
        case "exit": request = .command(.exit(try exit(&words)))
        case "next": request = .command(.nextIO(port: try port(&words, after: "next")))
        case "prev": request = .command(.previousIO(port: try port(&words, after: "prev")))
        case "checkpoint": request = .command(.checkpoint)
        case "last-write": request = .command(try lastWrite(&words))
        case "disassemble": request = .command(try disassemble(&words))
        case "registers": request = .command(.registers)
        case "info": request = .command(.info)
        case "hints": request = .hints(try onOff(&words, after: name))
        case "console": request = .console(try onOff(&words, after: name))
        default:
            throw DebugError("there is no monitor command \(quoted(name)); try monitor help")
        }
        guard let extra = words.first else { return request }
        throw DebugError("monitor \(name): \(quoted(extra)) is too much; try monitor help")
    }

    private static let positions = "begin, end, 17, 17+4, 17+4.9 (in ring 3) or 50%"

    private static func destination(
        _ words: inout ArraySlice<Substring>
    ) throws(DebugError) -> Destination {
        guard let word = words.popFirst() else {
            throw DebugError("monitor goto needs a position: \(positions)")
        }
        guard let destination = Destination(String(word)) else {
            throw DebugError("\(quoted(word)) is no position; write \(positions)")
        }
        return destination
    }

    /// `N`, `N..M`, or nothing.
    private static func range(
        _ words: inout ArraySlice<Substring>
    ) throws(DebugError) -> ClosedRange<UInt64>? {
        guard let word = words.popFirst() else { return nil }
        let bounds = word.split(separator: ".", omittingEmptySubsequences: false)
        guard let first = bounds.first.flatMap({ number($0) }) else {
            throw DebugError("\(quoted(word)) is no range of exits; write 17 or 17..40")
        }
        if bounds.count == 1 { return first...first }
        guard bounds.count == 3, bounds[1].isEmpty, let last = number(bounds[2]), first <= last
        else {
            throw DebugError("\(quoted(word)) is no range of exits; write 17 or 17..40")
        }
        guard last - first < Limits.listedExits else {
            throw DebugError("monitor exits lists at most \(Limits.listedExits) exits at once")
        }
        return first...last
    }

    /// Takes a word if it is next.
    private static func isNext(_ word: String, _ words: inout ArraySlice<Substring>) -> Bool {
        guard let first = words.first, first == word else { return false }
        words.removeFirst()
        return true
    }

    private static func exit(_ words: inout ArraySlice<Substring>) throws(DebugError) -> UInt64 {
        guard let word = words.popFirst(), let exit = number(word) else {
            throw DebugError("monitor exit needs the number of an exit")
        }
        return exit
    }

    /// `io [PORT]`.
    private static func port(
        _ words: inout ArraySlice<Substring>, after name: String
    ) throws(DebugError) -> UInt16? {
        guard words.popFirst() == "io" else {
            throw DebugError("monitor \(name) knows: \(name) io [PORT]")
        }
        guard let word = words.popFirst() else { return nil }
        guard let value = number(word), let port = UInt16(exactly: value) else {
            throw DebugError("\(quoted(word)) is no port; write 0 to 0xffff")
        }
        return port
    }

    private static func lastWrite(
        _ words: inout ArraySlice<Substring>
    ) throws(DebugError) -> MonitorCommand {
        guard let word = words.popFirst() else {
            throw DebugError("monitor last-write needs an address: 0x1000 or 0x1000,8")
        }
        let parts = word.split(separator: ",", maxSplits: 1, omittingEmptySubsequences: false)
        guard let address = parts.first.flatMap({ number($0) }) else {
            throw DebugError("\(quoted(word)) is no address; write 0x1000 or 0x1000,8")
        }
        guard parts.count == 2 else { return .lastWrite(address: address, length: 1) }
        guard let length = number(parts[1]), (1...Limits.watchedBytes).contains(length),
            !address.addingReportingOverflow(length - 1).overflow
        else {
            throw DebugError(
                "\(quoted(parts[1])) is no length; write 1 to \(Limits.watchedBytes) bytes, "
                    + "within memory")
        }
        return .lastWrite(address: address, length: length)
    }

    private static func disassemble(
        _ words: inout ArraySlice<Substring>
    ) throws(DebugError) -> MonitorCommand {
        var numbers: [UInt64] = []
        while numbers.count < 2, let word = words.popFirst() {
            guard let number = number(word) else {
                throw DebugError(
                    "\(quoted(word)) is no number; write disassemble [ADDRESS] [COUNT]")
            }
            numbers.append(number)
        }
        let count = numbers.count == 2 ? numbers[1] : 10
        guard (1...Limits.disassembledInstructions).contains(count) else {
            throw DebugError(
                "monitor disassemble shows 1 to \(Limits.disassembledInstructions) instructions")
        }
        return .disassemble(address: numbers.first, count: count)
    }

    private static func onOff(
        _ words: inout ArraySlice<Substring>, after name: Substring
    ) throws(DebugError) -> Bool {
        switch words.popFirst() {
        case "on": return true
        case "off": return false
        default: throw DebugError("monitor \(name) knows: on, off")
        }
    }

    /// Decimal, or hexadecimal after `0x`.
    private static func number(_ text: Substring) -> UInt64? {
        if text.hasPrefix("0x") { return HexText.number(text.dropFirst(2).utf8) }
        guard !text.isEmpty, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        return UInt64(text)
    }

    /// What somebody wrote, short and in one line.
    private static func quoted(_ text: Substring) -> String {
        let short = text.prefix(40)
        return "'\(short)\(short.endIndex == text.endIndex ? "" : "...")'"
    }
}
