/// Reads the fields of a packet from left to right.
struct PacketScanner {
    private(set) var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    var isAtEnd: Bool { rest.isEmpty }

    /// The next byte, taken.
    mutating func next() -> UInt8? { rest.popFirst() }

    /// Takes a text if it is next.
    mutating func take(_ text: StaticString) -> Bool {
        let wanted = Array("\(text)".utf8)
        guard rest.starts(with: wanted) else { return false }
        rest.removeFirst(wanted.count)
        return true
    }

    /// Takes bytes up to a character, or to the end; the character stays.
    mutating func upTo(_ character: Unicode.Scalar) -> ArraySlice<UInt8> {
        let end = rest.firstIndex(of: UInt8(ascii: character)) ?? rest.endIndex
        defer { rest = rest[end...] }
        return rest[..<end]
    }

    /// Takes a hexadecimal number.
    mutating func number(_ what: StaticString) throws(CommandError) -> UInt64 {
        let digits = rest.prefix { HexText.value($0) != nil }
        guard let number = HexText.number(digits) else {
            throw CommandError(
                digits.isEmpty
                    ? "malformed packet: \(what) is missing"
                    : "malformed packet: \(what) does not fit 64 bits")
        }
        rest.removeFirst(digits.count)
        return number
    }

    /// Takes a number that must be within bounds.
    mutating func number(
        _ what: StaticString, atMost bound: Int
    ) throws(CommandError) -> Int {
        let number = try number(what)
        guard number <= UInt64(bound) else {
            throw CommandError("\(what) \(number) is more than \(bound)")
        }
        return Int(number)
    }

    /// Takes a separator that must be there.
    mutating func expect(_ character: StaticString) throws(CommandError) {
        guard take(character) else {
            throw CommandError("malformed packet: '\(character)' is missing")
        }
    }

    /// The packet must have ended.
    func expectEnd() throws(CommandError) {
        guard isAtEnd else { throw CommandError("malformed packet: something follows its end") }
    }

    /// Takes a thread: `-1`, `0`, or a number.
    mutating func thread() throws(CommandError) -> Command.ThreadChoice {
        if take("-1") { return .all }
        let number = try number("thread", atMost: Int(DebugThread.ID.max))
        return number == 0 ? .any : .one(DebugThread.ID(number))
    }
}
