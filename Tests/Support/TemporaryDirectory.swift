import Glibc

/// A directory of its own for one test, removed with all in it when it goes.
public final class TemporaryDirectory: Sendable {
    /// Where it is.
    public let path: String

    /// Makes one under TMPDIR or /tmp.
    public init() throws(SupportError) {
        // SAFETY: getenv's string is copied at once.
        let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/vmtape-test-XXXXXX".utf8CString)
        // SAFETY: the template is a string that ends with a zero and may be written to.
        guard unsafe mkdtemp(&template) != nil else { throw SupportError("mkdtemp", errno: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The path of a file in it.
    public func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Writes a file in it, and makes the directories on its way; returns its path.
    @discardableResult
    public func write(_ name: String, _ bytes: [UInt8]) throws(SupportError) -> String {
        for index in name.indices where name[index] == "/" {
            let directory = file(String(name[..<index]))
            // SAFETY: Swift passes a NUL-terminated string for the call.
            guard unsafe mkdir(directory, 0o700) == 0 || errno == EEXIST else {
                throw SupportError(directory, errno: errno)
            }
        }
        try Files.write(file(name), bytes)
        return file(name)
    }

    deinit { Files.removeTree(path) }
}

/// What a helper could not do.
public struct SupportError: Error, CustomStringConvertible {
    /// What, and why.
    public let description: String

    init(_ what: String, errno: Int32) {
        // SAFETY: strerror gives a string that is copied at once.
        description = unsafe "\(what): \(strerror(errno).map { unsafe String(cString: $0) } ?? "")"
    }

    /// Something that was expected and did not come.
    public init(_ what: String) { description = what }
}
