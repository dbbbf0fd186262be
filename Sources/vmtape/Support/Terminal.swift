internal import Analysis
internal import Glibc

/// What is known of the terminal on a descriptor.
struct Terminal {
    /// Whether the descriptor is a terminal at all.
    let isTerminal: Bool
    /// Whether escape sequences for colour are welcome (https://no-color.org).
    let hasColour: Bool
    /// Columns; 100 where nothing says how many.
    let width: Int

    init(_ descriptor: Int32) {
        isTerminal = isatty(descriptor) == 1
        let noColour = Self.environment("NO_COLOR").map { !$0.isEmpty } ?? false
        hasColour = isTerminal && !noColour && Self.environment("TERM") != "dumb"
        var size = winsize()
        // SAFETY: TIOCGWINSZ fills one winsize, which is what it gets.
        let hasSize = unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0
        width = hasSize ? Int(size.ws_col) : Self.environment("COLUMNS").flatMap { Int($0) } ?? 100
    }

    static func environment(_ name: String) -> String? {
        // SAFETY: getenv's string is copied at once; nothing here changes the environment.
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }
}

/// Colours, which vanish where they are not wanted.
struct Style {
    let isOn: Bool

    func bold(_ text: String) -> String { wrap(text, "1") }
    func dim(_ text: String) -> String { wrap(text, "2") }
    func red(_ text: String) -> String { wrap(text, "31") }
    func green(_ text: String) -> String { wrap(text, "32") }
    func yellow(_ text: String) -> String { wrap(text, "33") }
    func cyan(_ text: String) -> String { wrap(text, "36") }

    private func wrap(_ text: String, _ code: String) -> String {
        isOn ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text
    }
}

/// Messages to people: on stderr, so that stdout holds nothing but data.
enum Message {
    /// One line on stderr.
    static func line(_ text: String) {
        let stream = OutputStream(descriptor: STDERR_FILENO)
        stream.write(text)
        stream.write("\n")
        stream.flush()
    }

    /// An error line, as every vmtape command prints it.
    static func error(_ text: String) {
        line("\(Style(isOn: Terminal(STDERR_FILENO).hasColour).red("vmtape:")) \(text)")
    }

    /// Something to know that does not stop the command.
    static func note(_ text: String) {
        line("\(Style(isOn: Terminal(STDERR_FILENO).hasColour).yellow("vmtape: note:")) \(text)")
    }
}

/// The exit status of every command (README, "Exit status").
enum Status {
    /// Yes, or done.
    static let done: Int32 = 0
    /// The answer is no: a replay diverged, a trace is damaged.
    static let no: Int32 = 1
    /// It could not be done: no KVM, unreadable, bad image.
    static let couldNot: Int32 = 2
}
