import Glibc
import TestSupport

@testable import Symbols

/// LLVM's symbolizer, which ours must agree with: the one of the Swift toolchain.
enum Reference {
    /// Its path; nil where no Swift toolchain with one is in PATH.
    static let path: String? = {
        guard let search = unsafe getenv("PATH") else { return nil }
        // SAFETY: getenv's result is a C string; tests do not change the environment.
        for directory in unsafe String(cString: search).split(separator: ":") {
            guard unsafe access("\(directory)/swiftc", X_OK) == 0 else { continue }
            guard let resolved = unsafe realpath("\(directory)/swiftc", nil) else { continue }
            // SAFETY: realpath gives a C string of malloc.
            let compiler = unsafe String(cString: resolved)
            unsafe free(resolved)
            for compiler in [compiler, "\(directory)/swiftc"] {
                guard let slash = compiler.lastIndex(of: "/") else { continue }
                let tool = "\(compiler[..<slash])/llvm-symbolizer"
                if unsafe access(tool, X_OK) == 0 { return tool }
            }
        }
        return nil
    }()

    /// What it says of each address, in order. Its JSON is avoided: one line a field is easier to
    /// read without a parser.
    static func symbolize(_ file: String, _ addresses: [UInt64]) throws -> [[Frame]] {
        guard let path else { return [] }
        let directory = try TemporaryDirectory()
        let input = addresses.map { "\(hexadecimal($0))\n" }.joined()
        let list = try directory.write("addresses", Array(input.utf8))
        let command =
            "'\(path)' -e '\(file)' --no-demangle --inlines --output-style=LLVM < '\(list)'"
        // SAFETY: popen and fgetc on a stream that this function opens and closes.
        guard let stream = unsafe popen(command, "r") else { return [] }
        var output: [UInt8] = []
        while case let character = unsafe getc(stream), character != EOF {
            output.append(UInt8(truncatingIfNeeded: character))
        }
        unsafe pclose(stream)
        var results: [[Frame]] = []
        var current: [Frame] = []
        var function: String?
        for line in String(decoding: output, as: UTF8.self).split(
            separator: "\n", omittingEmptySubsequences: false)
        {
            if line.isEmpty {
                if !current.isEmpty { results.append(current) }
                current = []
                function = nil
            } else if let name = function {
                let place = SourcePath.normalized(String(line), directory: nil)
                current.append(Frame(function: name, place: place))
                function = nil
            } else {
                function = String(line)
            }
        }
        return results
    }

    struct Frame: Equatable, CustomStringConvertible {
        var function: String
        var place: String

        var description: String { "\(function) at \(place)" }
    }

    /// Our answer as LLVM would print it. Where there are no lines, LLVM prints the name of the
    /// object file that a local symbol came from as if it were a source file; ours says nothing.
    static func frames(of answer: SymbolizedAddress?, beside expected: [Frame]) -> [Frame] {
        guard let answer else { return [Frame(function: "??", place: "??:0:0")] }
        if answer.frames.isEmpty {
            let isPlaceless = expected.count == 1 && expected[0].place.hasSuffix(":0:0")
            let place = isPlaceless ? expected[0].place : "??:0:0"
            return [Frame(function: answer.linkageName, place: place)]
        }
        return answer.frames.map {
            Frame(
                function: $0.linkageName ?? "??",
                place: "\($0.file ?? "??"):\($0.line ?? 0):\($0.column ?? 0)")
        }
    }
}
