/// Hexadecimal as the protocol writes it: lower case, no prefix.
enum HexText {
    /// A number in the fewest digits.
    static func number(_ value: UInt64) -> [UInt8] { Array(String(value, radix: 16).utf8) }

    /// Two digits a byte.
    static func bytes(_ bytes: some Collection<UInt8>) -> [UInt8] {
        var text: [UInt8] = []
        text.reserveCapacity(bytes.count * 2)
        for byte in bytes {
            text.append(digit(byte >> 4))
            text.append(digit(byte & 15))
        }
        return text
    }

    /// The digit of a value below 16.
    static func digit(_ value: UInt8) -> UInt8 { value < 10 ? 0x30 + value : 0x57 + value }

    /// The value of a digit in either case; nil: it is none.
    static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x61...0x66: digit - 0x57
        case 0x41...0x46: digit - 0x37
        default: nil
        }
    }

    /// Reads a number of 1 to 16 digits, leading zeros aside; nil: it is none, or too large.
    static func number(_ text: some Collection<UInt8>) -> UInt64? {
        guard !text.isEmpty else { return nil }
        var result: UInt64 = 0
        for character in text {
            guard let digit = value(character), result >> 60 == 0 else { return nil }
            result = result << 4 | UInt64(digit)
        }
        return result
    }

    /// Reads two digits a byte; nil where that is not what it is.
    static func bytes(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        guard text.count.isMultiple(of: 2) else { return nil }
        var result: [UInt8] = []
        result.reserveCapacity(text.count / 2)
        var index = text.startIndex
        while index < text.endIndex {
            guard let high = value(text[index]), let low = value(text[index + 1]) else {
                return nil
            }
            result.append(high << 4 | low)
            index += 2
        }
        return result
    }
}
