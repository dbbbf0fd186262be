/// An address in the guest's physical memory, in bytes.
public struct GuestPhysicalAddress: RawRepresentable, Hashable, Comparable, Sendable {
    /// The address as a number.
    public var rawValue: UInt64

    /// Makes an address of a number; every number is a valid one.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Makes an address of a number; every number is a valid one.
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// Orders addresses as unsigned numbers.
    public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

/// An address as the guest's instructions see it: linear, after segmentation and before paging.
public struct GuestVirtualAddress: RawRepresentable, Hashable, Comparable, Sendable {
    /// The address as a number.
    public var rawValue: UInt64

    /// Makes an address of a number; every number is a valid one.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Makes an address of a number; every number is a valid one.
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// Orders addresses as unsigned numbers.
    public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}
