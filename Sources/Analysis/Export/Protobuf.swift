/// Encodes Protocol Buffers messages (protobuf.dev, "Encoding"): as much of it as a writer of a
/// handful of messages needs.
struct ProtobufMessage {
    private(set) var bytes: [UInt8] = []

    mutating func removeAll() { bytes.removeAll(keepingCapacity: true) }

    /// A field of type uint64, int64, uint32, bool or enum.
    @inline(__always)
    mutating func add(_ field: UInt64, _ value: UInt64) {
        add(varint: field << 3)
        add(varint: value)
    }

    /// A field of type string.
    mutating func add(_ field: UInt64, _ text: String) {
        add(varint: field << 3 | 2)
        add(varint: UInt64(text.utf8.count))
        bytes.append(contentsOf: text.utf8)
    }

    /// A field that is a message itself.
    mutating func add(_ field: UInt64, _ message: ProtobufMessage) {
        add(varint: field << 3 | 2)
        add(varint: UInt64(message.bytes.count))
        bytes.append(contentsOf: message.bytes)
    }

    @inline(__always)
    private mutating func add(varint value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }
}
