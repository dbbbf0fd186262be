internal import Glibc
internal import Guest
internal import Machine

/// Places in the guest's memory whose bytes are those of an instruction that reads the outside world
/// without an exit. Whether they are code shows only when they are executed.
struct CodeCandidates: Sendable {
    struct Candidate: Sendable {
        /// The linear address.
        var address: UInt64
        /// What stands before it.
        var code: CodeGuard
        /// Its second byte.
        var second: UInt8
    }

    /// In ascending order of address, each once.
    private(set) var all: [Candidate] = []
    /// Changes with ``all``.
    private(set) var generation: UInt32 = 0
    private let wanted: [UInt8]
    private var chunks: Set<UInt64> = []
    /// Pages that exits came from, and the sums of what they held when they were looked at.
    private var pages: [UInt64: UInt64] = [:]

    /// Memory is looked through in pieces of this size, the neighbours of one that executes too.
    private static let chunkLength: UInt64 = 256 << 10
    /// So much before and behind a page that executes for the first time is looked through again:
    /// it may have been put there since.
    private static let nearLength: UInt64 = 64 << 10
    /// More candidates than this are not kept: such memory is no code.
    private static let capacity = 4096

    /// - Parameter second: the second bytes of the instructions looked for; the first is 0F.
    init(second: [UInt8]) { wanted = second }

    /// Looks at the memory around an exit, unless that is known.
    mutating func look(
        around linear: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) {
        let page = linear & ~0xFFF
        let sum = Self.sum(
            PageWalk.read(
                GuestVirtualAddress(page), count: 4096, system: system, memory: memory))
        guard pages.updateValue(sum, forKey: page) != sum else { return }
        let chunk = linear / Self.chunkLength
        for near in [chunk &- 1, chunk, chunk &+ 1] where chunks.insert(near).inserted {
            scan(
                near &* Self.chunkLength, length: Self.chunkLength, system: system, memory: memory)
        }
        scan(
            page &- Self.nearLength, length: 2 * Self.nearLength, system: system, memory: memory)
    }

    /// Looks through a range of linear addresses.
    mutating func scan(
        _ start: UInt64, length: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) {
        var found: [(address: UInt64, second: UInt8)] = []
        var isEscapeLast = false
        for page in 0...length / 4096 {
            let address = (start & ~0xFFF) &+ page * 4096
            let bytes = PageWalk.read(
                GuestVirtualAddress(address), count: 4096, system: system, memory: memory)
            if isEscapeLast, let first = bytes.first, wanted.contains(first) {
                found.append((address &- 1, first))
            }
            isEscapeLast = bytes.count == 4096 && bytes[4095] == RewriteTraps.escape
            var from = 0
            while let index = Self.escape(in: bytes, from: from), index + 1 < bytes.count {
                from = index + 1
                if wanted.contains(bytes[from]) {
                    found.append((address &+ UInt64(index), bytes[from]))
                }
            }
        }
        for (address, second) in found where all.count < Self.capacity {
            let place = all.firstIndex { $0.address >= address } ?? all.endIndex
            if place < all.endIndex, all[place].address == address { continue }
            all.insert(
                Candidate(
                    address: address,
                    code: CodeGuard(of: address, system: system, memory: memory),
                    second: second),
                at: place)
            generation &+= 1
        }
    }

    /// The place of the next 0F, by memchr(3).
    private static func escape(in bytes: [UInt8], from start: Int) -> Int? {
        unsafe bytes.withUnsafeBytes { buffer -> Int? in
            guard start < buffer.count, let base = buffer.baseAddress else { return nil }
            // SAFETY: the range from `start` on is within the array's buffer.
            guard
                let found = unsafe memchr(
                    base + start, Int32(RewriteTraps.escape), buffer.count - start)
            else { return nil }
            return unsafe UnsafeRawPointer(found) - base
        }
    }

    /// Takes one out, for good or until memory around it is looked at again.
    mutating func remove(_ address: UInt64) {
        guard let place = all.firstIndex(where: { $0.address == address }) else { return }
        all.remove(at: place)
        generation &+= 1
    }

    private static func sum(_ bytes: [UInt8]) -> UInt64 {
        var sum: UInt64 = UInt64(bytes.count)
        for byte in bytes { sum = (sum ^ UInt64(byte)) &* 0x100_0000_01B3 }
        return sum
    }
}
