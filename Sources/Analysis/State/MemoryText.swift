/// Prints memory for people, sixteen bytes a line:
///
///     0000000000101028  63 68 6f 3a 20 74 79 70  65 20 61 20 6c 69 6e 65  |cho: type a line|
///     0000000000102000  not mapped up to 0000000000102fff
public struct MemoryText {
    private let stream: OutputStream
    private let style: TextStyle
    private var line: TextLine

    /// Prints to a stream.
    public init(_ stream: OutputStream, style: TextStyle = TextStyle()) {
        self.stream = stream
        self.style = style
        line = TextLine(style)
    }

    /// Prints `count` bytes from an address on.
    ///
    /// - Parameters:
    ///   - address: linear or physical, as `read` takes it.
    ///   - read: gives up to so many bytes from an address on, fewer where the rest is not there.
    ///     Asked for no more than 4 KiB at a time.
    public mutating func write(
        _ address: UInt64, count: UInt64, read: (_ address: UInt64, _ count: Int) -> [UInt8]
    ) {
        var shown = MemoryPieces(address, count: count)
        while let piece = shown.next(read) {
            switch piece {
            case .bytes(let address, let bytes): write(bytes, at: address)
            case .missing(let low, let count): writeMissing(low, count)
            }
        }
    }

    private mutating func write(_ bytes: [UInt8], at address: UInt64) {
        // A line of sixteen takes 86 columns; on narrow terminals eight do.
        let perLine = style.width >= 86 ? 16 : 8
        var start = 0
        while start < bytes.count {
            let piece = bytes[start..<min(start + perLine, bytes.count)]
            line.put(hex: address &+ UInt64(start), digits: 16, .dim)
            line.put(" ")
            for index in 0..<perLine {
                if index % 8 == 0 { line.put(" ") }
                if start + index < piece.endIndex {
                    let byte = piece[start + index]
                    line.put(hex: UInt64(byte), digits: 2, byte == 0 ? .dim : .plain)
                    line.put(" ")
                } else {
                    line.put("   ")
                }
            }
            line.put(" |", .dim)
            line.put(
                String(
                    String.UnicodeScalarView(
                        piece.map {
                            (0x20..<0x7F).contains($0) ? UnicodeScalar($0) : "."
                        })))
            line.put("|", .dim)
            line.end(stream)
            start += piece.count
        }
    }

    private mutating func writeMissing(_ address: UInt64, _ count: UInt64) {
        line.put(hex: address, digits: 16, .dim)
        line.put("  not mapped up to ", .warning)
        line.put(hex: address &+ (count &- 1), digits: 16, .warning)
        line.end(stream)
    }
}

/// Writes memory as JSON.
public struct MemoryJSON {
    /// Writes an array of objects: `address` and either `bytes` (hexadecimal digits) or, for what is
    /// not mapped, `missing` (a number of bytes). Parameters as ``MemoryText/write(_:count:read:)``.
    public static func write(
        _ address: UInt64, count: UInt64, to json: inout JSONWriter,
        read: (_ address: UInt64, _ count: Int) -> [UInt8]
    ) {
        json.beginArray()
        var pieces = MemoryPieces(address, count: count)
        while let piece = pieces.next(read) {
            json.beginObject()
            json.key("address")
            switch piece {
            case .bytes(let address, let bytes):
                json.value(hex: address)
                json.key("bytes")
                json.value(hexBytes: bytes)
            case .missing(let address, let count):
                json.value(hex: address)
                json.key("missing")
                json.value(count)
            }
            json.endObject()
        }
        json.endArray()
    }
}

/// A range of memory as it comes, by pages, with neighbouring pages that are missing told as one.
struct MemoryPieces {
    enum Piece: Equatable {
        case bytes(UInt64, [UInt8])
        case missing(UInt64, UInt64)
    }

    private var address: UInt64
    private var rest: UInt64
    private var ready: Piece?

    /// The range ends where addresses do.
    init(_ address: UInt64, count: UInt64) {
        self.address = address
        let most = UInt64.max - address
        rest = count > most ? most &+ 1 : count
    }

    mutating func next(_ read: (UInt64, Int) -> [UInt8]) -> Piece? {
        if let piece = ready {
            ready = nil
            return piece
        }
        let start = address
        while rest > 0 {
            let length = min(rest, 0x1000 - address & 0xFFF)
            let bytes = read(address, Int(length)).prefix(Int(length))
            if bytes.isEmpty {
                address &+= length
                rest -= length
                continue
            }
            let piece = Piece.bytes(address, Array(bytes))
            let missing = address &- start
            address &+= UInt64(bytes.count)
            rest -= UInt64(bytes.count)
            guard missing > 0 else { return piece }
            ready = piece
            return .missing(start, missing)
        }
        return address == start ? nil : .missing(start, address &- start)
    }
}
