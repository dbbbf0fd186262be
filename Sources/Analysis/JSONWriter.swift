/// Writes JSON (RFC 8259) straight into an ``OutputStream``, one value after the other.
///
/// The exports print tens of millions of lines; building a tree of values for each would cost
/// more than everything else they do. Keys appear in the order in which they are written.
///
/// 64-bit register values and addresses are written as strings (`"0xfee00000"`): a JSON number
/// is a double to most readers, and would lose their low bits.
public struct JSONWriter {
    /// Where the text goes.
    public let stream: OutputStream
    private var needsComma = false

    /// Writes to a stream.
    public init(_ stream: OutputStream) { self.stream = stream }

    /// Opens an object.
    public mutating func beginObject() { open(0x7B) }

    /// Closes an object.
    public mutating func endObject() { close(0x7D) }

    /// Opens an array.
    public mutating func beginArray() { open(0x5B) }

    /// Closes an array.
    public mutating func endArray() { close(0x5D) }

    /// Ends a line: the one object a line that was written is complete.
    public mutating func endLine() {
        stream.write("\n")
        needsComma = false
    }

    /// A key, which must be plain ASCII; a value must follow.
    public mutating func key(_ name: StaticString) {
        separate()
        stream.write(byte: 0x22)
        stream.write(name)
        stream.write("\":")
        needsComma = false
    }

    /// A key that is not known at compile time.
    public mutating func key(_ name: String) {
        separate()
        quote(name)
        stream.write(byte: 0x3A)
        needsComma = false
    }

    /// A string.
    public mutating func value(_ text: String) {
        separate()
        quote(text)
    }

    /// A string that needs no escaping.
    public mutating func value(_ text: StaticString) {
        separate()
        stream.write(byte: 0x22)
        stream.write(text)
        stream.write(byte: 0x22)
    }

    /// A number.
    public mutating func value(_ number: UInt64) {
        separate()
        stream.write(decimal: number)
    }

    /// A number.
    public mutating func value(_ number: Int) {
        separate()
        if number < 0 { stream.write(byte: 0x2D) }
        stream.write(decimal: UInt64(number.magnitude))
    }

    /// A number; not-a-number and infinities, which JSON does not have, become null.
    public mutating func value(_ number: Double) {
        separate()
        if number.isFinite { stream.write(String(number)) } else { stream.write("null") }
    }

    /// A truth value.
    public mutating func value(_ flag: Bool) {
        separate()
        if flag { stream.write("true") } else { stream.write("false") }
    }

    /// Null.
    public mutating func null() {
        separate()
        stream.write("null")
    }

    /// A number as a string: `"0x3f8"`.
    public mutating func value(hex number: UInt64) {
        separate()
        stream.write("\"0x")
        stream.write(hex: number)
        stream.write(byte: 0x22)
    }

    /// Bytes as a string of hexadecimal digits, two a byte.
    public mutating func value(hexBytes bytes: some Sequence<UInt8>) {
        separate()
        stream.write(byte: 0x22)
        for byte in bytes { stream.write(hex: UInt64(byte), digits: 2) }
        stream.write(byte: 0x22)
    }

    private mutating func open(_ bracket: UInt8) {
        separate()
        stream.write(byte: bracket)
        needsComma = false
    }

    private mutating func close(_ bracket: UInt8) {
        stream.write(byte: bracket)
        needsComma = true
    }

    private mutating func separate() {
        if needsComma { stream.write(byte: 0x2C) }
        needsComma = true
    }

    private func quote(_ text: String) {
        stream.write(byte: 0x22)
        for byte in text.utf8 {
            switch byte {
            case 0x22: stream.write("\\\"")
            case 0x5C: stream.write("\\\\")
            case 0x0A: stream.write("\\n")
            case 0x0D: stream.write("\\r")
            case 0x09: stream.write("\\t")
            case 0..<0x20:
                stream.write("\\u")
                stream.write(hex: UInt64(byte), digits: 4)
            default: stream.write(byte: byte)
            }
        }
        stream.write(byte: 0x22)
    }
}
