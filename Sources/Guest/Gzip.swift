import CZlib

/// Unpacking of gzip files (RFC 1952) by zlib.
enum Gzip {
    /// Whether the bytes begin as a gzip file does: magic number and the one known method.
    static func isGzip(_ bytes: [UInt8]) -> Bool {
        bytes.count >= 3 && bytes[0] == 0x1F && bytes[1] == 0x8B && bytes[2] == 8
    }

    /// Unpacks all members of a gzip file; what follows the last one is ignored, as gzip does.
    ///
    /// Throws ``GuestError`` of kind truncated, malformed, or tooBig (beyond `limit` bytes).
    static func unpack(_ file: GuestFile, limit: Int) throws(GuestError) -> [UInt8] {
        var output: [UInt8] = []
        // The last four bytes say how much it is (modulo 2^32): a hint, since they can be anything.
        // DEFLATE makes at most 1032 bytes of one.
        let tail = LittleEndianReader(file.bytes.suffix(4)).word(at: 0) ?? 0
        output.reserveCapacity(min(Int(tail), limit, file.bytes.count * 1032))
        var position = 0
        repeat {
            position = try unpackMember(file, from: position, limit: limit, into: &output)
        } while isGzip(at: position, in: file.bytes)
        return output
    }

    private static func isGzip(at position: Int, in bytes: [UInt8]) -> Bool {
        position <= bytes.count - 3 && bytes[position] == 0x1F && bytes[position + 1] == 0x8B
            && bytes[position + 2] == 8
    }

    /// Unpacks the member at `start` and gives the position after it.
    private static func unpackMember(
        _ file: GuestFile, from start: Int, limit: Int, into output: inout [UInt8]
    ) throws(GuestError) -> Int {
        var stream = unsafe z_stream()
        let gzipOnly: Int32 = 15 + 16
        // SAFETY: the stream is zeroed, and lives on this frame until inflateEnd.
        let opened = unsafe inflateInit2_(
            &stream, gzipOnly, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        guard opened == Z_OK else {
            throw GuestError(.noMemory, file.name, "zlib could not start (code \(opened))")
        }
        // SAFETY: opened above, ended once.
        defer { unsafe inflateEnd(&stream) }
        let chunkLength = 1 << 18
        var chunk = [UInt8](repeating: 0, count: chunkLength)
        var position = start
        while true {
            let given = min(file.bytes.count - position, 1 << 20)
            var used = 0
            var made = 0
            // SAFETY: zlib reads `given` bytes from `position` on, which exist, and writes at most
            // chunkLength bytes; the pointers are dead after the call.
            let result = unsafe file.bytes.withUnsafeBufferPointer { input -> Int32 in
                unsafe chunk.withUnsafeMutableBufferPointer { room -> Int32 in
                    unsafe stream.next_in = UnsafeMutablePointer(
                        mutating: input.baseAddress?.advanced(by: position))
                    unsafe stream.avail_in = UInt32(given)
                    unsafe stream.next_out = room.baseAddress
                    unsafe stream.avail_out = UInt32(chunkLength)
                    let result = unsafe inflate(&stream, Z_NO_FLUSH)
                    used = unsafe given - Int(stream.avail_in)
                    made = unsafe chunkLength - Int(stream.avail_out)
                    return result
                }
            }
            position += used
            guard made <= limit - output.count else {
                throw GuestError(
                    .tooBig, file.name,
                    "unpacks to more than \(size(UInt64(limit))); "
                        + "give the guest more RAM if the image is really that big")
            }
            output.append(contentsOf: chunk[..<made])
            switch result {
            case Z_STREAM_END: return position
            case Z_OK where used > 0 || made > 0: continue
            case Z_OK, Z_BUF_ERROR:
                throw GuestError(
                    .truncated, file.name,
                    "the gzip data ends too soon, after \(file.bytes.count) bytes")
            default:
                throw GuestError(
                    .malformed, file.name, "the gzip data is damaged near byte \(position)")
            }
        }
    }
}
