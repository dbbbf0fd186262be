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

    /// One line: `filter, column 12: …`.
    public var description: String { "filter, column \(column): \(message)" }

    /// ``description``, the filter's text under it, and a caret under the column.
    public var report: String {
        let shown = String(text.map { $0.isNewline || $0 == "\t" ? " " : $0 })
        return "\(description)\n  \(shown)\n  \(String(repeating: " ", count: column - 1))^"
    }
}
