internal import CKVM

/// Zeroed memory of this process for guests of ours that live for milliseconds.
@safe
struct ScratchMemory: ~Copyable {
    private let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(byteCount: Int) throws(KVMError) {
        var error = 0
        // SAFETY: the result is checked; the mapping is this value's own until deinit.
        guard let base = unsafe ckvm_map_memory(byteCount, &error) else {
            throw KVMError.failure(error, "mmap of guest memory")
        }
        unsafe self.base = base
        self.byteCount = byteCount
    }

    deinit {
        // SAFETY: mapped in init with this size, unmapped only here.
        unsafe ckvm_unmap(base, byteCount)
    }

    /// The whole of it; valid while self lives.
    var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: base, count: byteCount)
    }

    /// Puts zeros everywhere.
    func clear() {
        // SAFETY: the whole mapping, which is self's own.
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }

    /// Writes bytes at an offset; what does not fit is a bug of ours.
    func write(_ bytes: [UInt8], at offset: Int) {
        precondition(offset >= 0 && offset + bytes.count <= byteCount)
        // SAFETY: the range was checked.
        for (index, byte) in bytes.enumerated() { unsafe self.bytes[offset + index] = byte }
    }

    /// Writes a 64-bit number at an offset, little-endian.
    func write64(_ value: UInt64, at offset: Int) {
        write((0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }, at: offset)
    }

    /// Reads a 64-bit number at an offset, little-endian.
    func read64(at offset: Int) -> UInt64 {
        precondition(offset >= 0 && offset + 8 <= byteCount)
        // SAFETY: the range was checked.
        return (0..<8).reduce(0) { $0 | (unsafe UInt64(bytes[offset + $1])) << UInt64($1 * 8) }
    }
}
