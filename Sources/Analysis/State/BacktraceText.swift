internal import Machine
public import Symbols

/// Prints a backtrace for people:
///
///     #0  00100030  port_read8 (io.h:27), inlined
///                   uart_write_byte+0x10 (io.c:4)
///     #1  00100088  uart_write+0x28 (io.c:16)
///     #2  00100423  exception+0x13 (triple-fault.c:42)
///     #3  001003e7  exception_common+0x27 (exceptions.S:25)
///     #4  00100548  work+0x18 (triple-fault.c:51)  interrupted
///
/// Frames that are a guess are said to be; so is why it ends early.
public struct BacktraceText {
    private let stream: OutputStream
    private let style: TextStyle
    private var line: TextLine

    /// Prints to a stream.
    public init(_ stream: OutputStream, style: TextStyle = TextStyle()) {
        self.stream = stream
        self.style = style
        line = TextLine(style)
    }

    /// Prints the frames.
    public mutating func write(_ backtrace: Backtrace) {
        let numberWidth = String(backtrace.frames.count - 1).utf8.count
        for frame in backtrace.frames {
            let number = "#\(frame.number)"
            line.put(number, .bold)
            line.pad(numberWidth + 3 - number.utf8.count)
            let address = frame.address.rawValue
            line.put(hex: address, digits: address >> 32 == 0 ? 8 : 16, .dim)
            line.put("  ")
            writeName(frame)
            if frame.isExact, frame.number > 0 { line.put(clipped: "  interrupted", .warning) }
            if frame.source.isGuess { line.put(clipped: "  (a guess)", .warning) }
            line.end(stream)
        }
        if let text = backtrace.endText {
            line.put(clipped: "ends here: \(text)", .warning)
            line.end(stream)
        }
    }

    private mutating func writeName(_ frame: StackFrame) {
        guard let name = frame.name else {
            line.put("??", .dim)
            return
        }
        let indent = line.column
        for inlined in name.frames where inlined.isInlined {
            line.put(clipped: inlined.function ?? "??", .symbol)
            if let place = inlined.place { line.put(clipped: " (\(place))") }
            line.put(clipped: ", inlined", .dim)
            line.end(stream)
            line.pad(indent)
        }
        line.put(clipped: name.shortSite, .symbol)
        if let place = name.frames.last?.place { line.put(clipped: " (\(place))") }
    }
}

extension Backtrace {
    /// Writes an object: `frames`, the innermost first, `complete`, and `end` (`outermost`, or why
    /// it ends early).
    public func write(to json: inout JSONWriter) {
        json.beginObject()
        json.key("frames")
        json.beginArray()
        for frame in frames { frame.write(to: &json) }
        json.endArray()
        json.key("complete")
        json.value(isComplete)
        json.key("end")
        json.value(endText ?? "outermost")
        json.endObject()
    }
}

extension StackFrame {
    fileprivate func write(to json: inout JSONWriter) {
        json.beginObject()
        json.key("number")
        json.value(number)
        json.key("address")
        json.value(hex: address.rawValue)
        json.key("found_by")
        json.value(source.rawValue)
        json.key("exact")
        json.value(isExact)
        if let canonicalFrameAddress {
            json.key("cfa")
            json.value(hex: canonicalFrameAddress)
        }
        if let name {
            json.key("symbol")
            json.value(name.function)
            json.key("offset")
            json.value(name.offset)
            json.key("source")
            json.beginArray()
            for frame in name.frames {
                json.beginObject()
                if let function = frame.function {
                    json.key("function")
                    json.value(function)
                }
                if let file = frame.file {
                    json.key("file")
                    json.value(file)
                }
                if let line = frame.line {
                    json.key("line")
                    json.value(line)
                }
                json.key("inlined")
                json.value(frame.isInlined)
                json.endObject()
            }
            json.endArray()
        }
        json.key("regs")
        json.beginObject()
        for register in Register.allCases {
            guard let value = self[register] else { continue }
            json.key(register.name)
            json.value(hex: value)
        }
        json.endObject()
        json.endObject()
    }
}
