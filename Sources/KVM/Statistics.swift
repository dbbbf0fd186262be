internal import CKVM

/// One statistic of a VM or vCPU, found by its name.
public struct Statistic: Hashable, Sendable {
    /// The kernel's name: `insn_emulation`, `exits`, `signal_exits`.
    public var name: String
    /// Where its first value stands in the statistics file, in bytes.
    var offset: UInt64
    /// How many 64-bit values it has (a histogram has several).
    public var count: Int
}

/// The statistics of a VM or vCPU (KVM_GET_STATS_FD), read without stopping anything.
public struct Statistics: ~Copyable {
    private let descriptor: FileDescriptor
    /// Every statistic, in the kernel's order.
    public let all: [Statistic]

    init(_ descriptor: consuming FileDescriptor) throws(KVMError) {
        let number = descriptor.number
        let header = try Self.read(number, at: 0, count: 24)
        let nameBytes = Int(Self.word(header, 4))
        let number32 = Int(Self.word(header, 8))
        let descriptors = UInt64(Self.word(header, 16))
        let data = UInt64(Self.word(header, 20))
        // A kernel has some dozens; the bounds are there so that nonsense is not allocated.
        guard nameBytes > 0, nameBytes <= 4096, number32 <= 65536 else {
            throw .malformed("a statistics header with \(number32) names of \(nameBytes) bytes")
        }
        let stride = 16 + nameBytes
        let table = try Self.read(number, at: descriptors, count: stride * number32)
        var all: [Statistic] = []
        for row in 0..<number32 {
            let start = row * stride
            let name = table[(start + 16)..<(start + stride)].prefix { $0 != 0 }
            let size = Int(table[start + 6]) | Int(table[start + 7]) << 8
            all.append(
                Statistic(
                    name: String(decoding: name, as: UTF8.self),
                    offset: data + UInt64(Self.word(table, start + 8)), count: size))
        }
        self.all = all
        self.descriptor = descriptor
    }

    /// The statistic with a name, nil where this kernel has none.
    public func find(_ name: String) -> Statistic? { all.first { $0.name == name } }

    /// The first value of a statistic, now. One `pread`.
    public func read(_ statistic: Statistic) throws(KVMError) -> UInt64 {
        var value: UInt64 = 0
        let result = unsafe withUnsafeMutableBytes(of: &value) { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            // SAFETY: 8 bytes are asked for, and there is room for 8.
            return unsafe ckvm_pread(descriptor.number, base, 8, statistic.offset)
        }
        try KVMError.check(result, "reading a KVM statistic")
        guard result == 8 else { throw .malformed("\(result) bytes of a statistic of 8") }
        return value
    }

    private static func read(
        _ number: Int32, at offset: UInt64, count: Int
    ) throws(KVMError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let result = unsafe bytes.withUnsafeMutableBytes { bytes -> Int in
                guard let base = bytes.baseAddress else { return 0 }
                // SAFETY: `done < count`, and no more than the rest is asked for.
                return unsafe ckvm_pread(number, base + done, count - done, offset + UInt64(done))
            }
            let got = try KVMError.check(result, "reading KVM statistics")
            guard got > 0 else { throw .malformed("a statistics file that ends early") }
            done += got
        }
        return bytes
    }

    private static func word(_ bytes: [UInt8], _ at: Int) -> UInt32 {
        var value: UInt32 = 0
        for index in 0..<4 { value |= UInt32(bytes[at + index]) << (index * 8) }
        return value
    }
}
