/// What is known about one address: the function, how far into it, and the source.
public struct SymbolizedAddress: Equatable, Sendable {
    /// The name of the function that the code belongs to, as the linker sees it.
    public var linkageName: String
    /// That name as people write it.
    public var function: String
    /// Bytes from the function's start to the address.
    public var offset: UInt64
    /// The name of the image that says so.
    public var image: String
    /// Where the code was written, the innermost function first: inlined ones, and last the
    /// function itself. Empty where there are no lines for the address.
    public var frames: [SourceFrame]

    /// `function+0x12`, the same in two builds where the function is the same.
    public var site: String { "\(function)+\(hexadecimal(offset))" }

    /// `function+0x12 (file.swift:34)`: the place is that of the innermost frame which has one.
    public var text: String { withPlace(site) }

    /// `file.swift:34`: where the innermost code that a person wrote is; nil where nobody knows.
    /// Compilers give line 0 or a made-up file to code that is in no source.
    public var place: String? {
        (frames.first { $0.line != nil && $0.isInSource } ?? frames.first(where: \.isInSource))?
            .place
    }

    /// As ``text``, without parameters and results: for narrow columns.
    public var shortText: String { withPlace(shortSite) }

    /// As ``site``, without parameters and results.
    public var shortSite: String {
        "\(Demangler.abbreviated(linkageName))+\(hexadecimal(offset))"
    }

    /// As ``text``, with what was inlined, the innermost first: `kmain+0x12 (io.swift:3, inlined
    /// outb in write)`.
    public var fullText: String {
        let inlined = frames.filter(\.isInlined).compactMap(\.function)
        guard !inlined.isEmpty else { return text }
        let chain = "inlined " + inlined.joined(separator: " in ")
        return "\(site) (\(place.map { "\($0), " } ?? "")\(chain))"
    }

    /// Every function of the address, the outermost first, as a folded stack has them.
    public var stack: [String] {
        [function] + frames.filter(\.isInlined).compactMap(\.function).reversed()
    }

    private func withPlace(_ site: String) -> String {
        place.map { "\(site) (\($0))" } ?? site
    }
}
