// Tag, length, value: the payload of metadata blocks. An item is a u32 tag, a u32 length and so
// many bytes. A reader skips tags it does not know; a tag may be repeated where a list is meant.

/// Writes items.
struct TLVWriter: ~Copyable {
    private(set) var buffer = ByteBuffer()

    mutating func item(_ tag: UInt32, _ write: (inout ByteBuffer) -> Void) {
        buffer.append(tag)
        let lengthAt = buffer.count
        buffer.append(UInt32(0))
        write(&buffer)
        buffer.patch(UInt32(truncatingIfNeeded: buffer.count - lengthAt - 4), at: lengthAt)
    }

    mutating func item(_ tag: UInt32, _ string: String) {
        item(tag) { $0.append(Array(string.utf8)) }
    }

    mutating func item(_ tag: UInt32, _ value: UInt64) { item(tag) { $0.append(value) } }

    mutating func item(_ tag: UInt32, _ property: Property) {
        item(tag) {
            $0.append(counted: property.key)
            $0.append(counted: property.value)
        }
    }
}

extension ByteBuffer {
    /// A u32 length and the string's UTF-8.
    mutating func append(counted string: String) {
        let bytes = Array(string.utf8)
        append(UInt32(truncatingIfNeeded: bytes.count))
        append(bytes)
    }
}

extension ByteReader {
    /// A u32 length and so many bytes of UTF-8.
    mutating func countedString() throws(Malformed) -> String {
        try string(Int(try integer(UInt32.self)))
    }

    /// A u32 length and so many bytes.
    mutating func countedBytes() throws(Malformed) -> [UInt8] {
        unsafe Array(try bytes(Int(try integer(UInt32.self))))
    }

    mutating func property() throws(Malformed) -> Property {
        let key = try countedString()
        return Property(key, try countedString())
    }

    mutating func digest() throws(Malformed) -> Digest128 {
        let low: UInt64 = try integer()
        return Digest128(low: low, high: try integer())
    }
}

/// Goes through the items of a payload; the value reader is bounded by the item.
func forEachItem(
    in payload: UnsafeRawBufferPointer, _ what: StaticString,
    _ body: (UInt32, inout ByteReader) throws(Malformed) -> Void
) throws(Malformed) {
    // SAFETY: the readers check every bound; nothing outlives the call.
    var reader = unsafe ByteReader(payload, what)
    while !reader.isAtEnd {
        let tag: UInt32 = try reader.integer()
        let length = Int(try reader.integer(UInt32.self))
        var value = unsafe ByteReader(try reader.bytes(length), what)
        try body(tag, &value)
    }
}
