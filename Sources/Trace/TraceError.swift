/// Why a trace could not be written or read.
///
/// An error is one clear line: what is wrong, in which file and where, and what to do.
public struct TraceError: Error, Equatable, CustomStringConvertible {
    /// What kind of trouble it is, for programs.
    public enum Code: Equatable, Sendable {
        /// A system call failed with this `errno`.
        case system(Int32)
        /// The output exists and overwriting was not asked for.
        case exists
        /// The file is no trace at all.
        case notATrace
        /// The trace needs a reader of a newer version.
        case newerVersion
        /// Bytes of the file are not what was written.
        case damaged
        /// No such block or exit in this trace.
        case outOfRange
        /// Something is larger than the format allows.
        case tooLarge
    }

    /// What kind of trouble it is.
    public var code: Code
    /// The file, or a name for bytes in memory.
    public var file: String
    /// Where in the file, in bytes from its start; nil where no place is at fault.
    public var offset: UInt64?
    /// What is wrong and what to do, without file and place.
    public var message: String

    /// Makes an error.
    public init(_ code: Code, file: String, offset: UInt64? = nil, _ message: String) {
        self.code = code
        self.file = file
        self.offset = offset
        self.message = message
    }

    /// One line: file, place, what is wrong.
    public var description: String {
        guard let offset else { return "\(file): \(message)" }
        return "\(file): at byte \(offset): \(message)"
    }
}

/// What is wrong with a piece of a block, before its place in a file is known.
struct Malformed: Error {
    var what: String
    init(_ what: String) { self.what = what }
}
