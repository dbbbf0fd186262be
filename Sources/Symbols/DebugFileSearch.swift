/// Finds the file that the debug information of a stripped image went to, where gdb looks too
/// (its manual, "Debugging Information in Separate Files").
public struct DebugFileSearch: Sendable {
    /// Directories that hold `.build-id/` and copies of the system's directory tree.
    public var roots: [String]

    /// Makes a search.
    public init(roots: [String] = ["/usr/lib/debug"]) { self.roots = roots }

    /// Where the file for an image may be, the likeliest first.
    ///
    /// - Parameters:
    ///   - buildID: the image's build-id.
    ///   - link: the name in its .gnu_debuglink.
    ///   - directory: where the image came from, an absolute path; nil where nobody knows.
    public func candidates(
        buildID: [UInt8]?, link: String?, directory: String?
    ) -> [String] {
        var paths: [String] = []
        if let buildID, buildID.count > 1 {
            let first = hexadecimal([buildID[0]])
            let rest = hexadecimal(Array(buildID[1...]))
            paths += roots.map { "\($0)/.build-id/\(first)/\(rest).debug" }
        }
        // A link with a slash could lead anywhere: the format has a bare file name.
        if let link, !link.isEmpty, !link.contains("/"), let directory {
            paths += ["\(directory)/\(link)", "\(directory)/.debug/\(link)"]
            if directory.hasPrefix("/") { paths += roots.map { "\($0)\(directory)/\(link)" } }
        }
        return paths
    }

    /// The first candidate that can be read and is of the same build: an equal build-id, or where
    /// the image has none, the CRC-32 of the link. Others are passed over.
    func find(for image: SymbolImage, directory: String?) -> SymbolImage? {
        for path in candidates(
            buildID: image.buildID, link: image.debugLink?.fileName, directory: directory)
        {
            guard let bytes = try? readFile(path), ELFFile.isELF(bytes) else { continue }
            if image.buildID == nil, let link = image.debugLink,
                crc32(bytes) != link.checksum
            {
                continue
            }
            guard
                let found = try? SymbolImage(
                    elf: bytes, name: path, bias: image.bias, followsLinks: true),
                found.buildID == image.buildID, !found.symbols.isEmpty || found.hasLines
            else { continue }
            return found
        }
        return nil
    }
}

/// The checksum of .gnu_debuglink: CRC-32 of IEEE 802.3, reflected.
func crc32(_ bytes: [UInt8]) -> UInt32 {
    var table = InlineArray<256, UInt32>(repeating: 0)
    for index in 0..<256 {
        var value = UInt32(index)
        for _ in 0..<8 { value = value & 1 == 0 ? value >> 1 : value >> 1 ^ 0xEDB8_8320 }
        table[index] = value
    }
    var sum: UInt32 = 0xFFFF_FFFF
    for byte in bytes { sum = sum >> 8 ^ table[Int((sum ^ UInt32(byte)) & 0xFF)] }
    return ~sum
}
