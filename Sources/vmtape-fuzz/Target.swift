internal import Glibc

/// What can be fuzzed: `--target=NAME` chooses one.
enum Target: String, CaseIterable {
    /// The trace reader over a whole file.
    case trace
    /// The trace reader over rows in a side file.
    case tail
    /// The reader of keyframe files.
    case keyframes
    /// Recognition and loading of guest images, gzip included.
    case image
    /// The filter language.
    case filter
    /// Symbol files: ELF with DWARF, and maps.
    case symbols
    /// A debugger's side of the GDB remote protocol.
    case debugger

    /// Runs the code under test on one input. It must return: no trap, no hang.
    func run(_ input: [UInt8]) {
        switch self {
        case .trace: TraceTarget.run(input)
        case .tail: TailTarget.run(input)
        case .keyframes: KeyframesTarget.run(input)
        case .image: ImageTarget.run(input)
        case .filter: FilterTarget.run(input)
        case .symbols: SymbolsTarget.run(input)
        case .debugger: DebuggerTarget.run(input)
        }
    }

    /// The target that the command line names.
    static func chosen(_ arguments: [String]) -> Target? {
        arguments.compactMap { argument in
            argument.hasPrefix("--target=") ? Target(rawValue: String(argument.dropFirst(9))) : nil
        }.last
    }

    static let usage = "--target=" + allCases.map(\.rawValue).joined(separator: "|")
}

/// A broken promise of the code under test: found by libFuzzer as a crash.
func require(_ holds: Bool, _ promise: StaticString) {
    precondition(holds, "\(promise)")
}

/// The bytes of a file; nil where it cannot be read.
func contents(of path: String) -> [UInt8]? {
    // SAFETY: Swift passes a NUL-terminated string; the descriptor is closed once.
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        // SAFETY: the buffer holds as many bytes as are asked for.
        let count = unsafe read(descriptor, &chunk, chunk.count)
        guard count >= 0 else { return nil }
        if count == 0 { return bytes }
        bytes += chunk[..<count]
    }
}

/// Writes a file; false where that fails.
func save(_ bytes: [UInt8], to path: String) -> Bool {
    // SAFETY: Swift passes a NUL-terminated string and the array's bytes.
    let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    return unsafe write(descriptor, bytes, bytes.count) == bytes.count
}

/// A line on standard error.
func complain(_ text: String) {
    let line = text + "\n"
    // SAFETY: Swift passes the bytes of the string for the call.
    _ = unsafe write(STDERR_FILENO, line, line.utf8.count)
}
