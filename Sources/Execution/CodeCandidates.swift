internal import Disassembly
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
    /// More candidates than this are not kept: such memory is no code.
    private static let capacity = 4096

    /// - Parameter second: the second bytes of the instructions looked for; the first is 0F.
    init(second: [UInt8]) { wanted = second }

    /// Looks at the memory around an exit, unless that is known.
    mutating func look(
        around linear: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) {
        let page = linear & ~0xFFF
        let bytes = PageWalk.read(
            GuestVirtualAddress(page), count: 4096, system: system, memory: memory)
        let sum = Self.sum(bytes)
        let known = pages.updateValue(sum, forKey: page)
        guard known != sum else { return }
        let chunk = linear / Self.chunkLength
        // Other bytes at a place that executed before: what was there was unloaded.
        if known != nil { chunks.remove(chunk) }
        for near in [chunk &- 1, chunk, chunk &+ 1] where chunks.insert(near).inserted {
            scan(
                near &* Self.chunkLength, length: Self.chunkLength, system: system, memory: memory)
        }
    }

    /// Looks through a range of linear addresses.
    mutating func scan(
        _ start: UInt64, length: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) {
        var last: UInt8 = 0
        var found: [(address: UInt64, second: UInt8)] = []
        var page = start & ~0xFFF
        let end = start &+ length
        while page != end, page &- start < length || page < start {
            let bytes = PageWalk.read(
                GuestVirtualAddress(page), count: 4096, system: system, memory: memory)
            if let first = bytes.first, last == 0x0F, wanted.contains(first) {
                found.append((page &- 1, first))
            }
            var index = 0
            while index + 1 < bytes.count {
                if bytes[index] == 0x0F, wanted.contains(bytes[index + 1]) {
                    found.append((page &+ UInt64(index), bytes[index + 1]))
                }
                index += 1
            }
            last = bytes.count == 4096 ? bytes[4095] : 0
            page &+= 4096
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
