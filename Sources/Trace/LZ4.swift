private import CLZ4

/// LZ4 blocks, without frame.
enum LZ4 {
    /// Appends `bytes` compressed; false, and nothing appended, where that would not be smaller.
    static func compress(
        _ bytes: UnsafeRawBufferPointer, into output: inout ByteBuffer
    ) -> Bool {
        guard bytes.count > 16, bytes.count <= Limits.payloadBytes else { return false }
        let bound = bytes.count - 1
        // SAFETY: LZ4 writes at most `bound` bytes, which are reserved, and reads `count`.
        let to = unsafe output.reserve(bound)
        let size = unsafe LZ4_compress_default(
            bytes.baseAddress?.assumingMemoryBound(to: CChar.self),
            to.assumingMemoryBound(to: CChar.self), Int32(bytes.count), Int32(bound))
        guard size > 0 else { return false }
        output.setCount(output.count + Int(size))
        return true
    }

    /// Replaces `output` with exactly `rawLength` bytes; fails on anything else.
    static func expand(
        _ bytes: UnsafeRawBufferPointer, rawLength: Int, into output: inout ByteBuffer
    ) throws(Malformed) {
        guard rawLength <= Limits.payloadBytes, bytes.count <= Limits.payloadBytes else {
            throw Malformed("a payload of \(rawLength) bytes")
        }
        output.removeAll()
        // SAFETY: LZ4 writes at most `rawLength` bytes, which are reserved, and reads `count`.
        let to = unsafe output.reserve(rawLength)
        let size = unsafe LZ4_decompress_safe(
            bytes.baseAddress?.assumingMemoryBound(to: CChar.self),
            to.assumingMemoryBound(to: CChar.self), Int32(bytes.count), Int32(rawLength))
        guard size == Int32(rawLength) else {
            throw Malformed("the compressed payload does not expand to \(rawLength) bytes")
        }
        output.setCount(rawLength)
    }
}
