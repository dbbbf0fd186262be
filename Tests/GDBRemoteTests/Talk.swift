import GDBRemote

/// A conversation with a ``ToyMachine`` in packets as a person writes them.
struct Talk: ~Copyable {
    var machine: ToyMachine
    var conversation = Conversation()
    let interrupt = InterruptFlag()
    private var acknowledges = true

    init(_ machine: consuming ToyMachine = ToyMachine(), acknowledges: Bool = false) {
        self.machine = machine
        if !acknowledges {
            _ = bytes("+$QStartNoAckMode#b0+")
            self.acknowledges = false
        }
    }

    /// Sends bytes as they are; gives those that come back, as text.
    mutating func bytes(_ text: String) -> String { bytes(Array(text.utf8)) }

    /// Sends bytes as they are; gives those that come back, as text in Latin-1.
    mutating func bytes(_ bytes: [UInt8]) -> String {
        let answer = conversation.receive(bytes, &machine, until: interrupt)
        return String(String.UnicodeScalarView(answer.map { Unicode.Scalar($0) }))
    }

    /// Sends a packet; gives the packets that come back, without their frames.
    mutating func say(_ packet: String) -> [String] {
        let text = bytes(Self.frame(Array(packet.utf8)))
        return Self.payloads(text)
    }

    /// Sends a packet that has one answer.
    mutating func ask(_ packet: String) -> String {
        let answers = say(packet)
        return answers.count == 1 ? answers[0] : "\(answers.count) answers: \(answers)"
    }

    static func frame(_ payload: [UInt8]) -> [UInt8] {
        let sum = payload.reduce(0 as UInt8) { $0 &+ $1 }
        let digits = Array(String(UInt32(sum) + 0x100, radix: 16).utf8.suffix(2))
        return [0x24] + payload + [0x23] + digits
    }

    /// The packets of a stream without what is between them; the checksums must be right.
    static func payloads(_ text: String) -> [String] {
        var result: [String] = []
        var rest = text[...]
        while let start = rest.firstIndex(of: "$"), let end = rest.firstIndex(of: "#") {
            let payload = rest[rest.index(after: start)..<end]
            let sum = payload.unicodeScalars.reduce(0) { ($0 + $1.value) & 0xFF }
            let after = rest.index(end, offsetBy: 3)
            let given = UInt32(rest[rest.index(after: end)..<after], radix: 16)
            result.append(given == sum ? unescaped(payload) : "wrong checksum: \(payload)")
            rest = rest[after...]
        }
        return result
    }

    private static func unescaped(_ payload: Substring) -> String {
        var result = String.UnicodeScalarView()
        var isEscaped = false
        for scalar in payload.unicodeScalars {
            if scalar == "}", !isEscaped {
                isEscaped = true
                continue
            }
            let byte = UInt8(truncatingIfNeeded: scalar.value)
            result.append(Unicode.Scalar(isEscaped ? byte ^ 0x20 : byte))
            isEscaped = false
        }
        return String(result)
    }
}

/// The text of `O` packets.
func consoleText(_ packets: [String]) -> String {
    var bytes: [UInt8] = []
    for packet in packets where packet.hasPrefix("O") && packet != "OK" {
        var rest = packet.dropFirst()
        while rest.count >= 2 {
            bytes.append(UInt8(rest.prefix(2), radix: 16) ?? 0x3F)
            rest = rest.dropFirst(2)
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}

/// Text as the protocol's hexadecimal.
func hexadecimal(_ text: String) -> String {
    text.utf8.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
