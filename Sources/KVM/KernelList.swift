/// A buffer in the form the kernel wants its lists: a header of `headerBytes` whose first 32 bits
/// count the entries, then the entries.
///
/// Bounds are checked at every access, since counts come back from the kernel.
struct KernelList {
    var bytes: [UInt8]
    let headerBytes: Int
    let entryBytes: Int

    init(capacity: Int, headerBytes: Int, entryBytes: Int) {
        self.headerBytes = headerBytes
        self.entryBytes = entryBytes
        bytes = [UInt8](repeating: 0, count: headerBytes + capacity * entryBytes)
        count = capacity
    }

    /// The number of entries that the header states, never more than there is room for.
    var count: Int {
        get {
            let stated = unsafe bytes.withUnsafeBytes { bytes in
                // SAFETY: every list is made with a header of at least 4 bytes.
                unsafe bytes.loadUnaligned(as: UInt32.self)
            }
            return min(Int(stated), (bytes.count - headerBytes) / entryBytes)
        }
        set {
            let stated = UInt32(newValue)
            for index in 0..<4 { bytes[index] = UInt8(truncatingIfNeeded: stated >> (index * 8)) }
        }
    }

    /// A 32-bit field of an entry.
    func word32(_ entry: Int, at offset: Int) -> UInt32 {
        let start = headerBytes + entry * entryBytes + offset
        var value: UInt32 = 0
        for index in 0..<4 { value |= UInt32(bytes[start + index]) << (index * 8) }
        return value
    }

    /// A 64-bit field of an entry.
    func word64(_ entry: Int, at offset: Int) -> UInt64 {
        UInt64(word32(entry, at: offset)) | UInt64(word32(entry, at: offset + 4)) << 32
    }

    /// Sets a 32-bit field of an entry.
    mutating func set(_ entry: Int, at offset: Int, _ value: UInt32) {
        let start = headerBytes + entry * entryBytes + offset
        for index in 0..<4 {
            bytes[start + index] = UInt8(truncatingIfNeeded: value >> (index * 8))
        }
    }

    /// Sets a 64-bit field of an entry.
    mutating func set(_ entry: Int, at offset: Int, _ value: UInt64) {
        set(entry, at: offset, UInt32(truncatingIfNeeded: value))
        set(entry, at: offset + 4, UInt32(truncatingIfNeeded: value >> 32))
    }
}
