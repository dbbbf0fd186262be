/// How text for people is laid out and coloured.
public struct TextStyle: Equatable, Sendable {
    /// Columns to fit into; lines for tools pass a large number.
    public var width: Int
    /// Whether colours (ANSI escape sequences) are wanted.
    public var hasColour: Bool

    /// No narrower than this, however narrow the terminal is.
    public static let minimumWidth = 40

    /// Makes a style.
    public init(width: Int = 100, hasColour: Bool = false) {
        self.width = max(width, Self.minimumWidth)
        self.hasColour = hasColour
    }
}

/// What a piece of text is, which decides its colour.
enum TextRole {
    case plain, dim, bold, input, output, symbol, warning, bad, good

    var code: StaticString {
        switch self {
        case .plain: ""
        case .dim: "2"
        case .bold: "1"
        case .input: "32"
        case .output: "36"
        case .symbol: "34"
        case .warning: "33"
        case .bad: "31"
        case .good: "32"
        }
    }
}

/// One line for people as it grows: counts columns, leaves out colours that are not wanted, and
/// never lets a control character of guest or file reach the terminal.
struct TextLine {
    let style: TextStyle
    private(set) var bytes: [UInt8] = []
    /// Characters so far.
    private(set) var column = 0

    init(_ style: TextStyle) { self.style = style }

    /// Room that is left.
    var room: Int { max(0, style.width - column) }

    mutating func put(_ text: String, _ role: TextRole = .plain) {
        begin(role)
        for scalar in text.unicodeScalars {
            let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
            bytes.append(contentsOf: String(isControl ? "\u{FFFD}" : scalar).utf8)
            column += 1
        }
        end(role)
    }

    /// As much of a text as fits before the line's end, with an ellipsis where some is missing.
    mutating func put(clipped text: String, _ role: TextRole = .plain) {
        guard room > 0 else { return }
        let fits = text.unicodeScalars.count <= room
        put(fits ? text : String(text.unicodeScalars.prefix(room - 1)) + "…", role)
    }

    mutating func put(right text: String, width: Int, _ role: TextRole = .plain) {
        pad(width - text.unicodeScalars.count)
        put(text, role)
    }

    mutating func put(hex number: UInt64, digits: Int = 1, _ role: TextRole = .plain) {
        put(Self.hexadecimal(number, digits), role)
    }

    /// Spaces.
    mutating func pad(_ count: Int) {
        guard count > 0 else { return }
        bytes.append(contentsOf: repeatElement(0x20, count: count))
        column += count
    }

    /// Spaces up to a column; at least one where the line is beyond it.
    mutating func pad(to target: Int) { pad(max(1, target - column)) }

    /// Writes the line and begins the next one.
    mutating func end(_ stream: OutputStream) {
        while bytes.last == 0x20 { bytes.removeLast() }
        stream.write(bytes: bytes)
        stream.write("\n")
        bytes.removeAll(keepingCapacity: true)
        column = 0
    }

    private mutating func begin(_ role: TextRole) {
        guard style.hasColour, role != .plain else { return }
        bytes.append(contentsOf: "\u{1B}[\(role.code)m".utf8)
    }

    private mutating func end(_ role: TextRole) {
        guard style.hasColour, role != .plain else { return }
        bytes.append(contentsOf: "\u{1B}[0m".utf8)
    }

    static func hexadecimal(_ number: UInt64, _ digits: Int = 1) -> String {
        let text = String(number, radix: 16)
        return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
    }
}
