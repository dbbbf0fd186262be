/// What a PC's set-up program leaves in battery-backed RAM (IBM PC/AT Technical Reference; what
/// lies above 0x32 is what Bochs' and SeaBIOS' firmware read).
struct CMOSContents: Sendable {
    /// 128 bytes; the clock's own are zero.
    private(set) var bytes = [UInt8](repeating: 0, count: 128)

    /// Contents that tell of RAM, in bytes, below and from 4 GiB on, and of CPUs.
    init(memoryBelow4GiB: UInt64, memoryAbove4GiB: UInt64, processorCount: Int) {
        let kibibytes = memoryBelow4GiB >> 10
        put(min(kibibytes, 640), at: 0x15, count: 2)
        let extended = min(kibibytes > 1024 ? kibibytes - 1024 : 0, 0xFFFF)
        put(extended, at: 0x17, count: 2)
        put(extended, at: 0x30, count: 2)
        // Units of 64 KiB from 16 MiB on, and from 4 GiB on.
        let units = memoryBelow4GiB >> 16
        let above16MiB = units > 256 ? units - 256 : 0
        put(min(above16MiB, 0xFFFF), at: 0x34, count: 2)
        put(min(memoryAbove4GiB >> 16, 0xFF_FFFF), at: 0x5B, count: 3)
        bytes[0x5F] = UInt8(clamping: processorCount - 1)
        // An arithmetic coprocessor; no diskette drives; a display adapter with its own firmware.
        bytes[0x14] = 0x02
        // Boot order of Bochs' firmware: hard disk, diskette, CD.
        bytes[0x3D] = 0x12
        bytes[0x38] = 0x30
        var sum: UInt16 = 0
        for index in 0x10...0x2D { sum &+= UInt16(bytes[index]) }
        bytes[0x2E] = UInt8(truncatingIfNeeded: sum >> 8)
        bytes[0x2F] = UInt8(truncatingIfNeeded: sum)
    }

    private mutating func put(_ value: UInt64, at index: Int, count: Int) {
        for byte in 0..<count {
            bytes[index + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))
        }
    }
}
