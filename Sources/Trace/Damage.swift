/// A piece of a trace that cannot be read.
public struct Damage: Equatable, Sendable, CustomStringConvertible {
    /// Where it begins in the file, in bytes; nil where it is in no one place, or in the side file.
    public var offset: UInt64?
    /// What is wrong.
    public var what: String
    /// The exits that are lost with it, where that is known.
    public var lostExits: Range<UInt64>?

    init(_ offset: UInt64?, _ what: String, lostExits: Range<UInt64>? = nil) {
        self.offset = offset
        self.what = what
        self.lostExits = lostExits
    }

    /// One line.
    public var description: String {
        let place = offset.map { "at byte \($0): " } ?? ""
        // Not `count`, an Int: a damaged block can claim to begin at any exit.
        guard let lost = lostExits, let last = lost.last else { return place + what }
        let exits =
            last == lost.lowerBound ? "exit \(last) is" : "exits \(lost.lowerBound)..\(last) are"
        return "\(place)\(what); \(exits) lost"
    }
}
