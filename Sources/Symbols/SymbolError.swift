/// Why a file gives no symbols.
public enum SymbolError: Error, Equatable, CustomStringConvertible {
    /// The file cannot be read; `reason` is the system's text for it.
    case unreadable(file: String, reason: String)
    /// The bytes do not start like an ELF file.
    case notELF(file: String)
    /// The file ends before something its headers promise.
    case truncated(file: String, what: String, offset: UInt64, sizeInBytes: UInt64)
    /// A field of the file makes no sense; `detail` is libelf's text for it.
    case damaged(file: String, what: String, detail: String)
    /// A text map has a line that is no symbol. Lines count from 1.
    case badMapLine(file: String, line: Int)
    /// The file holds neither symbols nor line numbers.
    case noSymbols(file: String)
    /// `FILE@OFFSET` has an offset that is no number.
    case badOffset(argument: String)

    /// One line: what is wrong, where, what to do.
    public var description: String {
        switch self {
        case .unreadable(let file, let reason):
            "\(file): cannot be read: \(reason)"
        case .notELF(let file):
            "\(file): not an ELF file and not a symbol map (System.map, nm output)"
        case .truncated(let file, let what, let offset, let size):
            "\(file): truncated: \(what) at offset \(hexadecimal(offset)), \(size) bytes long, "
                + "is beyond the end of the file"
        case .damaged(let file, let what, let detail):
            "\(file): \(what) is damaged: \(detail)"
        case .badMapLine(let file, let line):
            "\(file):\(line): not a symbol; expected ADDRESS TYPE NAME as in System.map"
        case .noSymbols(let file):
            "\(file): has neither symbols nor line numbers; give the unstripped file"
        case .badOffset(let argument):
            "\(argument): the part after @ is not a number; write FILE@0x100000 or FILE@-4096"
        }
    }
}

/// Something about symbols that a person should know, and that stops nothing.
public enum SymbolWarning: Equatable, Sendable, CustomStringConvertible {
    /// Line numbers of an image are left out, in part or whole; `detail` is libdw's text.
    case damagedDebugInformation(image: String, detail: String)
    /// Call frame information of an image is left out, in part or whole; `detail` says where it
    /// makes no sense.
    case damagedCallFrames(image: String, detail: String)
    /// A file of symbols was built from something else than the image in the trace.
    case buildIDDiffers(file: String, found: [UInt8], image: String, expected: [UInt8])

    /// One line: what is wrong, where, what to do.
    public var description: String {
        switch self {
        case .damagedDebugInformation(let image, let detail):
            "\(image): debug information cannot be used in full (\(detail)); "
                + "lines may be missing"
        case .damagedCallFrames(let image, let detail):
            "\(image): call frame information cannot be used in full (\(detail)); "
                + "backtraces may end early"
        case .buildIDDiffers(let file, let found, let image, let expected):
            "\(file): build-id \(hexadecimal(found)) differs from \(hexadecimal(expected)) of "
                + "\(image); its symbols are of another build"
        }
    }
}

/// A number as `0x1f`.
func hexadecimal(_ number: UInt64) -> String { "0x" + String(number, radix: 16) }

/// Bytes as `0a1b2c`.
func hexadecimal(_ bytes: [UInt8]) -> String {
    var text = ""
    for byte in bytes {
        if byte < 16 { text += "0" }
        text += String(byte, radix: 16)
    }
    return text
}
