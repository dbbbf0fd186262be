extension Disassembler {
    /// No CALL is longer, prefixes apart: FF /2 with SIB and a displacement of 32 bits, 9A with a
    /// far pointer (Intel SDM vol. 2, CALL).
    public static let longestCall = 7
    private static let shortestCall = 2

    /// Whether the bytes end in a CALL, as those before any return address do.
    ///
    /// - Parameter bytes: code up to the address, ``longestCall`` bytes of it or more.
    public func endsInCall(_ bytes: [UInt8]) -> Bool {
        guard bytes.count >= Self.longestCall else { return false }
        return (Self.shortestCall...Self.longestCall).contains { length in
            let decoded = decodeQuickly(bytes.span, at: bytes.count - length)
            return decoded?.kind == .call && decoded?.length == length
        }
    }
}
