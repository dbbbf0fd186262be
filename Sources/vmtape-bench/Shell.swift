internal import Glibc

/// Runs a command line and gives what it writes to standard output.
func output(of command: String) throws(BenchError) -> String {
    // SAFETY: Swift passes NUL-terminated strings; the stream is closed once, below.
    guard let stream = unsafe popen(command, "r") else {
        throw BenchError(message: "cannot start: \(command)")
    }
    var bytes: [UInt8] = []
    while true {
        let byte = unsafe fgetc(stream)
        if byte == EOF { break }
        bytes.append(UInt8(truncatingIfNeeded: byte))
    }
    let text = String(decoding: bytes, as: UTF8.self)
    guard unsafe pclose(stream) == 0 else {
        throw BenchError(message: "failed: \(command): \(text)")
    }
    return text
}

/// A word that the shell takes as it is.
func quoted(_ word: String) -> String {
    "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''")
        + "'"
}

/// The whole number that follows a word in a line of `word number` pairs.
func number(after word: String, in text: String) throws(BenchError) -> Double {
    let words = text.split { $0 == " " || $0 == "," || $0 == "\n" || $0 == "\t" }
    guard let place = words.firstIndex(where: { $0 == word }), place + 1 < words.count,
        let value = Double(words[place + 1])
    else { throw BenchError(message: "no '\(word) NUMBER' in: \(text)") }
    return value
}
