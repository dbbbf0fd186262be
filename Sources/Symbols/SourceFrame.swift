/// A place in the source, and the function that is written there.
public struct SourceFrame: Equatable, Sendable {
    /// The function's name as the linker sees it, or as the source has it where the compiler
    /// recorded no other; nil where it is not known.
    public var linkageName: String?
    /// The source file with its directories, as the compiler recorded it, without `.` and empty
    /// parts.
    public var file: String?
    /// The line, from 1; nil where the compiler made the code up.
    public var line: Int?
    /// The column, from 1; nil where it is not known.
    public var column: Int?
    /// Whether the function was inlined into the one of the next frame.
    public var isInlined: Bool

    /// Makes a frame.
    public init(
        linkageName: String?, file: String?, line: Int?, column: Int?, isInlined: Bool
    ) {
        self.linkageName = linkageName
        self.file = file
        self.line = line
        self.column = column
        self.isInlined = isInlined
    }

    /// The function's name as people write it.
    public var function: String? { linkageName.map(Demangler.demangled) }

    /// The file without its directories.
    public var fileName: String? {
        file.map { path in
            let start = path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex
            return Demangler.printable(String(path[start...]))
        }
    }

    /// Whether the file is one that a person wrote, and not `<compiler-generated>` or the like.
    var isInSource: Bool { fileName.map { !$0.hasPrefix("<") } ?? false }

    /// `file.swift:34`, or as much of it as is known.
    public var place: String? {
        fileName.map { name in line.map { "\(name):\($0)" } ?? name }
    }
}
