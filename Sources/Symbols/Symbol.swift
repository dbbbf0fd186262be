/// A name for a stretch of addresses.
public struct Symbol: Equatable, Sendable {
    /// The name as the linker sees it, mangled where the language mangles.
    public var linkageName: String
    /// The first address, as linked.
    public var address: UInt64
    /// Its size in bytes as the file says; 0 where it does not.
    public var sizeInBytes: UInt64
    /// What it names.
    public var kind: Kind
    /// Who sees it.
    public var binding: Binding

    /// What a symbol names.
    public enum Kind: Sendable {
        /// STT_FUNC, STT_GNU_IFUNC; `T`, `t`, `i` of nm.
        case function
        /// STT_OBJECT; the data types of nm.
        case object
        /// STT_NOTYPE: labels of assembly language and of linker scripts.
        case untyped
    }

    /// Who sees a symbol. The raw value grows with how far it is seen.
    public enum Binding: Int, Comparable, Sendable {
        case local, weak, global

        /// Orders bindings by how far they are seen.
        public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    }

    /// Makes a symbol.
    public init(
        linkageName: String, address: UInt64, sizeInBytes: UInt64, kind: Kind, binding: Binding
    ) {
        self.linkageName = linkageName
        self.address = address
        self.sizeInBytes = sizeInBytes
        self.kind = kind
        self.binding = binding
    }

    /// The name as people write it: ``linkageName`` demangled.
    public var name: String { Demangler.demangled(linkageName) }
}
