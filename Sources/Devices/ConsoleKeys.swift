/// The keys that the console keeps from the guest: those after Ctrl-A.
struct ConsoleKeys {
    /// What a key means.
    enum Action: Equatable {
        /// It goes to the guest.
        case send(UInt8)
        /// It is part of a sequence.
        case nothing
        /// The user wants to leave.
        case leave
        /// The user wants to know the keys.
        case help
    }

    /// Ctrl-A.
    static let prefix: UInt8 = 1
    /// What help says.
    static let help =
        "\r\nvmtape: Ctrl-A X leaves, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A H shows this\r\n"

    private var isAfterPrefix = false

    /// Takes a key.
    mutating func take(_ byte: UInt8) -> Action {
        guard isAfterPrefix else {
            guard byte == Self.prefix else { return .send(byte) }
            isAfterPrefix = true
            return .nothing
        }
        isAfterPrefix = false
        switch byte {
        case Self.prefix, UInt8(ascii: "a"), UInt8(ascii: "A"): return .send(Self.prefix)
        case UInt8(ascii: "x"), UInt8(ascii: "X"): return .leave
        case UInt8(ascii: "h"), UInt8(ascii: "H"), UInt8(ascii: "?"): return .help
        default: return .nothing
        }
    }
}
