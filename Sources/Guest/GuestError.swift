/// What is wrong with a guest image, an option of its loading, or its memory.
///
/// ``description`` is one line: the file or thing it is about, what is wrong and where in it, and
/// what to do where there is something to do.
public struct GuestError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The kind of trouble, for code that tells them apart.
    public enum Kind: String, CaseIterable, Sendable {
        /// The file cannot be opened or read.
        case unreadable
        /// The file has no bytes.
        case empty
        /// The image needs more memory than the guest has, or more than vmtape accepts.
        case tooBig
        /// The image is of no kind that can be started here: wrong class, machine, byte order.
        case unsupported
        /// The image ends before something that it says it holds.
        case truncated
        /// The image contradicts itself: a bad checksum, overlapping segments.
        case malformed
        /// An address lies outside of RAM, or where something else is.
        case badAddress
        /// An option does not fit the image.
        case badOption
        /// The host gave no memory.
        case noMemory
        /// A record of a trace does not describe a load.
        case badRecord
        /// A file that is to be written is there already.
        case exists
        /// A file cannot be written.
        case unwritable
    }

    /// The kind of trouble.
    public var kind: Kind
    /// What it is about: a file name as given, `guest memory`, an option.
    public var subject: String
    /// What is wrong, where, and what to do; one line without the subject.
    public var message: String

    /// Makes an error.
    public init(_ kind: Kind, _ subject: String, _ message: String) {
        self.kind = kind
        self.subject = subject
        self.message = message
    }

    /// `subject: message`.
    public var description: String { "\(subject): \(message)" }
}

/// A number as messages show addresses: `0x1000`.
func hex(_ number: some BinaryInteger) -> String { "0x" + String(number, radix: 16) }

/// A byte count as people read it: exact in KiB, MiB or GiB where it is a multiple, else in bytes.
func size(_ count: UInt64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] as [(UInt64, String)]
    where count >> shift != 0 && count & ((1 << shift) - 1) == 0 {
        return "\(count >> shift) \(unit)"
    }
    return "\(count) bytes"
}
