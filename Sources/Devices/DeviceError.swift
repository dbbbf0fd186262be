import Glibc

/// What went wrong between a device and the host. ``description`` is one line.
public struct DeviceError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The kind of trouble, for code that tells them apart.
    public enum Kind: String, Sendable {
        /// A file cannot be opened.
        case cannotOpen
        /// Whoever read the output is gone (EPIPE).
        case readerGone
        /// Output cannot be written.
        case cannotWrite
        /// The terminal or the thread that reads it cannot be set up.
        case noConsole
        /// The devices that a trace tells of cannot be made.
        case unknownMachine
    }

    /// The kind of trouble.
    public var kind: Kind
    /// What it is about: a file name, `standard output`.
    public var subject: String
    /// What is wrong; one line without the subject.
    public var message: String

    /// Makes an error.
    public init(_ kind: Kind, _ subject: String, _ message: String) {
        self.kind = kind
        self.subject = subject
        self.message = message
    }

    /// Makes an error that errno explains.
    init(_ kind: Kind, _ subject: String, _ action: String, errno number: Int32) {
        // SAFETY: strerror gives a NUL-terminated string that is copied at once.
        let text = unsafe strerror(number).map { unsafe String(cString: $0) }
        self.init(kind, subject, "\(action): \(text ?? "errno \(number)")")
    }

    /// `subject: message`.
    public var description: String { "\(subject): \(message)" }
}
