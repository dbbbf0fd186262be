/// Puts a packet into its frame: `$`, the bytes with escapes, `#`, checksum.
enum PacketFrame {
    /// The bytes that are sent.
    ///
    /// `}`, `#`, `$` and `*` are escaped wherever they stand: in text none of them occurs but in
    /// messages for people, and a debugger undoes escapes only in binary data. ``text(_:)`` keeps
    /// them out of messages.
    static func framed(_ payload: some Collection<UInt8>) -> [UInt8] {
        var frame: [UInt8] = []
        frame.reserveCapacity(payload.count + 4)
        frame.append(UInt8(ascii: "$"))
        var sum: UInt8 = 0
        func append(_ byte: UInt8) {
            frame.append(byte)
            sum &+= byte
        }
        for byte in payload {
            if isSpecial(byte) {
                append(UInt8(ascii: "}"))
                append(byte ^ 0x20)
            } else {
                append(byte)
            }
        }
        frame.append(UInt8(ascii: "#"))
        frame.append(HexText.digit(sum >> 4))
        frame.append(HexText.digit(sum & 15))
        return frame
    }

    /// A message in one line of plain ASCII, for the inside of a packet that is not hexadecimal.
    static func text(_ message: String) -> [UInt8] {
        message.utf8.prefix(maximumMessage).map { byte in
            (32...126).contains(byte) && !isSpecial(byte) ? byte : UInt8(ascii: "?")
        }
    }

    /// Longest message; a line for a person.
    private static let maximumMessage = 1000

    private static func isSpecial(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "}") || byte == UInt8(ascii: "#") || byte == UInt8(ascii: "$")
            || byte == UInt8(ascii: "*")
    }
}
