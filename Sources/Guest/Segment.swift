public import Machine

/// A piece of an image and where it goes.
struct ImageSegment: Equatable {
    /// Its bytes in the unpacked image.
    var fileRange: Range<Int>
    /// Where it is loaded.
    var physical: UInt64
    /// Where its code expects to be.
    var virtual: UInt64
    /// Its length in memory; what the file does not fill is zero.
    var lengthInMemory: UInt64
    /// Whether it holds code.
    var isExecutable: Bool

    /// The end in physical memory; segments are checked to lie in RAM before this is used.
    var physicalEnd: UInt64 { physical &+ lengthInMemory }

    /// Checks that the segments lie in RAM and not over one another.
    static func check(
        _ segments: [ImageSegment], in layout: RAMLayout, name: String
    ) throws(GuestError) {
        for (index, segment) in segments.enumerated() {
            guard layout.contains(segment.physical, segment.lengthInMemory) else {
                throw GuestError(
                    .badAddress, name,
                    "segment \(index) (\(size(segment.lengthInMemory)) at physical "
                        + "\(hex(segment.physical))) is not in \(layout.name); give more RAM, "
                        + "or --load to move the image")
            }
        }
        let order = segments.indices.sorted { segments[$0].physical < segments[$1].physical }
        for (a, b) in zip(order, order.dropFirst())
        where segments[a].physicalEnd > segments[b].physical {
            throw GuestError(
                .malformed, name,
                "segments \(min(a, b)) and \(max(a, b)) overlap at physical "
                    + hex(segments[b].physical))
        }
    }
}

/// A range of loaded code, for whoever looks for instructions in it.
public struct CodeRange: Equatable, Sendable {
    /// Where it is loaded.
    public var physical: GuestPhysicalAddress
    /// Where it is linked to run.
    public var virtual: GuestVirtualAddress
    /// Its bytes in the unpacked image.
    public var fileRange: Range<Int>
    /// The section's name, `segment N` where there are no sections, `image` for flat ones.
    public var name: String
    /// Whether the file says that all of it is code. Not so for flat images, firmware and segments
    /// without sections, where code and data lie mixed.
    public var isCertain: Bool
}
