import Glibc
import Testing

@testable import Symbols

/// The ELF files in `Fixtures` (`Fixtures/build` makes them).
enum Fixture: String, CaseIterable {
    case kernel64 = "kernel64.elf"
    case kernel32 = "kernel32.elf"
    case swift = "swift.elf"
    case stripped = "stripped.elf"

    static let directory: String = {
        let here = #filePath
        return here.prefix(upTo: here.lastIndex(of: "/") ?? here.startIndex) + "/Fixtures"
    }()

    var path: String { "\(Self.directory)/\(rawValue)" }

    func bytes() throws -> [UInt8] { try readFile(path) }

    func image(bias: UInt64 = 0) throws -> SymbolImage {
        try SymbolImage(elf: try bytes(), name: rawValue, bias: bias)
    }

    func symbolizer() throws -> Symbolizer {
        let symbolizer = Symbolizer()
        symbolizer.add(try image())
        return symbolizer
    }
}

/// A small generator with a fixed seed, so that a failure repeats (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// A directory that is there while the value lives, with what was written into it.
final class TemporaryDirectory {
    let path: String
    private var made: [String] = []

    init() throws {
        var template = Array("/tmp/vmtape-symbols-XXXXXX".utf8CString)
        let isMade = unsafe template.withUnsafeMutableBufferPointer { buffer in
            // SAFETY: the template is a C string that ends in six X, as mkdtemp asks.
            guard let base = buffer.baseAddress else { return false }
            return unsafe mkdtemp(base) != nil
        }
        guard isMade else { throw SymbolError.unreadable(file: "/tmp", reason: "mkdtemp failed") }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Writes a file, and makes the directories on its way.
    @discardableResult
    func write(_ name: String, _ bytes: [UInt8]) -> String {
        let full = "\(path)/\(name)"
        for index in name.indices where name[index] == "/" {
            let directory = "\(path)/\(name[..<index])"
            // SAFETY: the path is passed as a C string, here and below.
            if unsafe mkdir(directory, 0o700) == 0 { made.append(directory) }
        }
        let descriptor = unsafe open(full, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        made.append(full)
        let written = unsafe bytes.withUnsafeBytes { buffer in
            // SAFETY: the pointer and count are the buffer's.
            unsafe Glibc.write(descriptor, buffer.baseAddress, buffer.count)
        }
        close(descriptor)
        #expect(written == bytes.count)
        return full
    }

    deinit {
        // SAFETY: paths are passed as C strings.
        for path in made.reversed() { _ = unsafe remove(path) }
        _ = unsafe remove(path)
    }
}
