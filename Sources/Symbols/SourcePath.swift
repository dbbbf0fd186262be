/// Paths of source files as debug information has them.
enum SourcePath {
    /// The path without empty parts and `.`, which only say how the compiler was called; `..`
    /// stays, since what it leaves may be a link. A path that does not start at the root counts
    /// from the directory that the compiler ran in, where that one is known in full: a relative
    /// one (reproducible builds have them) is in the path already, if anywhere.
    static func normalized(_ path: String, directory: String?) -> String {
        var full = path
        if !path.hasPrefix("/"), let directory, directory.hasPrefix("/") {
            full = "\(directory)/\(path)"
        }
        guard full.contains("//") || full.hasPrefix("./") || full.contains("/./") else {
            return full
        }
        let parts = full.split(separator: "/").filter { $0 != "." }
        return (full.hasPrefix("/") ? "/" : "") + parts.joined(separator: "/")
    }
}
