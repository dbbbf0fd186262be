import Machine

/// QEMU's fw_cfg as a PC has it (QEMU, docs/specs/fw_cfg): a 16-bit selector at 0x510, data byte by
/// byte at 0x511, and the DMA interface's address, big-endian, at 0x514–0x51B. Nothing in it can be
/// written.
struct FirmwareConfigurationPort: Sendable {
    /// Bits of a DMA request's control word; the selector is in its upper half.
    private enum Control {
        static let error: UInt32 = 1
        static let read: UInt32 = 2
        static let skip: UInt32 = 4
        static let select: UInt32 = 8
        static let write: UInt32 = 16
    }

    /// What one write to RAM takes at most.
    static let chunkLength = 64 << 10
    private static let zeros = [UInt8](repeating: 0, count: 4096)
    /// What the address register reads as: the sign that DMA is there.
    private static let dmaSignature = Array("QEMU CFG".utf8)

    private let items: FirmwareItems
    private let hasDMA: Bool
    private var selected: [UInt8]
    private var offset: UInt64 = 0
    private var dmaAddress: UInt64 = 0

    /// Makes the device of a machine.
    init(_ pc: PCConfiguration) {
        hasDMA = pc.offersFirmwareDMA
        items = FirmwareItems(pc, hasDMA: hasDMA)
        selected = items.bytes(FirmwareItems.Key.signature)
    }

    /// Writes 16 bits at 0x510.
    mutating func select(_ key: UInt16) {
        selected = items.bytes(key)
        offset = 0
    }

    /// Reads the next byte of the item; zero behind its end.
    mutating func readData() -> UInt8 {
        defer { offset &+= 1 }
        return offset < UInt64(selected.count) ? selected[Int(offset)] : 0
    }

    /// Reads a byte of the address register, by offset 0–7.
    func readAddress(_ index: UInt16) -> UInt8 {
        hasDMA ? Self.dmaSignature[Int(index & 7)] : 0xFF
    }

    /// Writes a byte of the address register, by offset 0–7. True: the last one came, and a
    /// request waits at the address.
    mutating func writeAddress(_ index: UInt16, _ value: UInt8) -> Bool {
        guard hasDMA else { return false }
        let shift = UInt64(7 - index & 7) * 8
        dmaAddress = dmaAddress & ~(0xFF << shift) | UInt64(value) << shift
        return index & 7 == 7
    }

    /// Serves the request at the address that was written.
    mutating func transfer<Memory: DirectMemory & ~Copyable>(
        with memory: inout Memory
    ) throws(Memory.Failure) {
        let place = dmaAddress
        dmaAddress = 0
        var request = InlineArray<16, UInt8>(repeating: 0)
        // SAFETY (whole function): each buffer is a local value's or an array's own, alive through
        // the call it is passed to.
        let isRead = try unsafe withUnsafeMutableBytes(of: &request) {
            bytes throws(Memory.Failure) in
            try unsafe memory.read(GuestPhysicalAddress(place), into: bytes)
        }
        guard isRead else { return }  // nowhere to put even the error
        func number(_ at: Int, _ length: Int) -> UInt64 {
            (at..<at + length).reduce(0) { $0 << 8 | UInt64(request[$1]) }
        }
        let control = UInt32(truncatingIfNeeded: number(0, 4))
        let length = number(4, 4)
        if control & Control.select != 0 { select(UInt16(truncatingIfNeeded: control >> 16)) }
        var isDone = true
        if control & Control.write != 0 {
            isDone = false
        } else if control & Control.read != 0 {
            isDone = try send(length, to: number(8, 8), &memory)
        } else if control & Control.skip != 0 {
            offset &+= length
        }
        var answer = (isDone ? 0 : Control.error).bigEndian
        _ = try unsafe withUnsafeMutableBytes(of: &answer) { bytes throws(Memory.Failure) in
            try unsafe memory.write(GuestPhysicalAddress(place), UnsafeRawBufferPointer(bytes))
        }
    }

    /// Copies from the item, and zeros behind its end.
    private mutating func send<Memory: DirectMemory & ~Copyable>(
        _ length: UInt64, to address: UInt64, _ memory: inout Memory
    ) throws(Memory.Failure) -> Bool {
        var left = length
        var target = address
        while left > 0 {
            let rest = UInt64(selected.count) > offset ? UInt64(selected.count) - offset : 0
            let source = rest > 0 ? selected : Self.zeros
            let start = rest > 0 ? Int(offset) : 0
            let available = rest > 0 ? rest : UInt64(Self.zeros.count)
            let count = min(left, available, UInt64(Self.chunkLength))
            // SAFETY: start + count lies within the array that is borrowed; slicing checks.
            let isRAM = try unsafe source.span.bytes.extracting(start..<start + Int(count))
                .withUnsafeBytes { bytes throws(Memory.Failure) in
                    try unsafe memory.write(GuestPhysicalAddress(target), bytes)
                }
            guard isRAM else { return false }
            left -= count
            offset &+= count
            target &+= count
        }
        return true
    }
}
