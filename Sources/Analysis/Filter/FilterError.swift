/// What is wrong with a filter's text, and where.
public struct FilterError: Error, Equatable, CustomStringConvertible {
    /// What is wrong and what to write instead.
    public var message: String
    /// Where: counted in characters from 1.
    public var column: Int
    /// The filter as it was given.
    public var text: String

    /// Makes an error.
    public init(_ message: String, column: Int, text: String) {
        self.message = message
        self.column = column
        self.text = text
    }

    /// One line: `filter, column 15, at 'prot == 2': there is no field …`.
    public var description: String {
        "filter, column \(column)\(place): \(message)"
    }

    /// What stands there, so that nobody has to count.
    private var place: String {
        guard !text.isEmpty else { return "" }
        let rest = text.dropFirst(column - 1)
        guard !rest.isEmpty else { return ", at its end" }
        let shown = rest.prefix(Self.shownCharacters).map { $0.isNewline || $0 == "\t" ? " " : $0 }
        return ", at '\(String(shown))\(rest.count > shown.count ? "…" : "")'"
    }

    /// How much of the text is shown from the column on.
    private static let shownCharacters = 24
}
