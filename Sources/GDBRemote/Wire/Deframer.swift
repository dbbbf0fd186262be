/// Takes a byte stream apart into packets (GDB manual, "Remote Protocol", "Overview").
///
/// A value: a copy can look ahead in bytes that the original has yet to read. Holds at most
/// ``Limits/packet`` bytes, whatever comes.
struct Deframer {
    /// What a byte completed.
    enum Event: Equatable {
        /// A packet with the right checksum: escapes and run lengths undone.
        case packet([UInt8])
        /// `+`.
        case acknowledgement
        /// `-`: what was sent last is to be sent again.
        case refusal
        /// ^C between packets. Within a packet the byte is data.
        case interrupt
        /// A packet that cannot be used.
        case broken(Damage)
    }

    /// What is wrong with a packet.
    enum Damage: Equatable {
        /// The checksum is another one, or no number.
        case checksum
        /// More bytes than ``Limits/packet``, as sent or with its runs written out.
        case oversized
        /// A run length without a byte to repeat, or an escape at the end.
        case coding
    }

    private enum State {
        case between
        case body
        case firstDigit
        case secondDigit(first: UInt8)
    }

    private var state = State.between
    private var body: [UInt8] = []
    private var sum: UInt8 = 0
    private var isOversized = false

    /// Takes one byte.
    mutating func take(_ byte: UInt8) -> Event? {
        switch state {
        case .between:
            switch byte {
            case UInt8(ascii: "$"): begin()
            case UInt8(ascii: "+"): return .acknowledgement
            case UInt8(ascii: "-"): return .refusal
            case 3: return .interrupt
            default: break  // Noise between packets, as on a serial line.
            }
        case .body:
            switch byte {
            case UInt8(ascii: "#"): state = .firstDigit
            // Never data: it is escaped there. The packet before was cut off.
            case UInt8(ascii: "$"): begin()
            default:
                sum &+= byte
                if body.count < Limits.packet { body.append(byte) } else { isOversized = true }
            }
        case .firstDigit:
            state = .secondDigit(first: byte)
        case .secondDigit(let first):
            state = .between
            return end(first, byte)
        }
        return nil
    }

    private mutating func begin() {
        state = .body
        body.removeAll(keepingCapacity: true)
        sum = 0
        isOversized = false
    }

    private mutating func end(_ first: UInt8, _ second: UInt8) -> Event {
        guard let high = HexText.value(first), let low = HexText.value(second),
            high << 4 | low == sum
        else { return .broken(.checksum) }
        if isOversized { return .broken(.oversized) }
        return Self.decoded(body)
    }

    /// Undoes `}X` (X exclusive-or 0x20) and `X*N` (X again N - 29 times).
    private static func decoded(_ body: [UInt8]) -> Event {
        // Nearly every packet has neither.
        guard body.contains(where: { $0 == UInt8(ascii: "}") || $0 == UInt8(ascii: "*") }) else {
            return .packet(body)
        }
        var result: [UInt8] = []
        result.reserveCapacity(body.count)
        var index = 0
        while index < body.count {
            let byte = body[index]
            switch byte {
            case UInt8(ascii: "}"):
                guard index + 1 < body.count else { return .broken(.coding) }
                result.append(body[index + 1] ^ 0x20)
                index += 2
            case UInt8(ascii: "*"):
                guard let last = result.last, index + 1 < body.count,
                    (32...126).contains(body[index + 1])
                else { return .broken(.coding) }
                result.append(contentsOf: repeatElement(last, count: Int(body[index + 1]) - 29))
                index += 2
            default:
                result.append(byte)
                index += 1
            }
            guard result.count <= Limits.packet else { return .broken(.oversized) }
        }
        return .packet(result)
    }
}
