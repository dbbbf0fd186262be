public import Machine

/// The bytes of rewritten instructions as the guest has them, to be put back into what is read from
/// its memory: nothing that a person or a debugger sees has ours in it.
public struct OriginalBytes: Sendable {
    private let sites: [RewrittenSite]

    /// Knows the sites that a trace lists.
    public init(_ sites: [RewrittenSite] = []) { self.sites = sites }

    /// Puts original bytes into what was read at a linear address. Where other bytes than the
    /// replacement stand, the guest wrote them, and they stay. Of a site that is cut off, the
    /// part that is there is judged. Sites that are known by their physical address alone are
    /// passed over.
    public func restore(_ bytes: inout [UInt8], at address: GuestVirtualAddress) {
        restore(&bytes, at: address.rawValue) { $0.linearAddress?.rawValue }
    }

    /// The same for bytes read at a guest-physical address.
    public func restore(_ bytes: inout [UInt8], at address: GuestPhysicalAddress) {
        restore(&bytes, at: address.rawValue) { $0.address.rawValue }
    }

    /// Whether the instruction at a linear address is one that was rewritten.
    public func isRewritten(_ address: GuestVirtualAddress) -> Bool {
        sites.contains { $0.linearAddress == address }
    }

    private func restore(
        _ bytes: inout [UInt8], at address: UInt64, _ place: (RewrittenSite) -> UInt64?
    ) {
        for site in sites {
            let count = min(site.original.count, site.replacement.count)
            guard let start = place(site) else { continue }
            let offset = start &- address
            if offset < UInt64(bytes.count) {
                // It begins here, and may be cut off at the end.
                let here = min(count, bytes.count - Int(offset))
                let range = Int(offset)..<Int(offset) + here
                if bytes[range].elementsEqual(site.replacement.prefix(here)) {
                    bytes.replaceSubrange(range, with: site.original.prefix(here))
                }
            } else if 0 &- offset < UInt64(count) {
                // It began before what was read.
                let missing = Int(0 &- offset)
                let here = min(count - missing, bytes.count)
                let range = 0..<here
                let replacement = site.replacement[missing..<missing + here]
                if bytes[range].elementsEqual(replacement) {
                    bytes.replaceSubrange(range, with: site.original[missing..<missing + here])
                }
            }
        }
    }
}
