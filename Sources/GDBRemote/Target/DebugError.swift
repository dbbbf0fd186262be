/// Why a request of the debugger cannot be served; the session goes on.
///
/// The text reaches the person at the debugger, as far as the debugger shows it.
public struct DebugError: Error, Equatable, Sendable, CustomStringConvertible {
    /// One line: what is wrong, where, what to do.
    public var description: String

    /// Makes an error of its text.
    public init(_ description: String) { self.description = description }

    /// The answer to a write into the past.
    public static let readOnly = DebugError(
        "the recording is read-only: vmtape replay --live-from changes what happens")
}
