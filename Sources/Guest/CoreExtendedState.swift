public import Machine

/// The XSAVE area as a core file has it (Intel SDM vol. 1, 13.4; Linux `user_xstateregs`).
public enum CoreExtendedState {
    /// Where Linux puts XCR0, among the bytes that FXSAVE leaves to software.
    private static let xcr0Offset = 464
    /// The legacy area and the header of the XSAVE area.
    private static let headerEnd = 576
    /// x87 and SSE, which FXSAVE stores.
    private static let legacy: UInt64 = 3
    /// No area is longer.
    private static let limit = 1 << 16

    /// The part of an XSAVE area that XCR0 enables, with XCR0 written where debuggers look for it;
    /// empty where nothing is enabled beside x87 and SSE, or the area is too short.
    ///
    /// - Parameters:
    ///   - area: as KVM_GET_XSAVE2 gives it, in the standard format.
    ///   - cpuid: the guest's, of which leaf 0xD says where each part is.
    public static func area(
        _ area: [UInt8], xcr0: UInt64, cpuid: [CPUIDEntry]
    ) -> [UInt8] {
        guard xcr0 & ~legacy != 0, area.count >= headerEnd else { return [] }
        var end = headerEnd
        for entry in cpuid where entry.function == 0xD && (2..<63).contains(entry.index) {
            guard xcr0 >> UInt64(entry.index) & 1 != 0 else { continue }
            let (offset, size) = (Int(entry.ebx), Int(entry.eax))
            guard offset >= headerEnd, offset <= limit, size <= limit else { return [] }
            end = max(end, offset + size)
        }
        guard end > headerEnd, end <= area.count else { return [] }
        var result = Array(area.prefix(end))
        for index in 0..<8 {
            result[xcr0Offset + index] = UInt8(truncatingIfNeeded: xcr0 >> UInt64(index * 8))
        }
        return result
    }
}
