/// What the machine tells its firmware by fw_cfg: items by number, and files, which are items with
/// names (QEMU, docs/specs/fw_cfg). Made once, before the machine starts.
struct FirmwareItems: Sendable {
    /// Numbers of items.
    enum Key {
        static let signature: UInt16 = 0x00
        static let identifier: UInt16 = 0x01
        static let uuid: UInt16 = 0x02
        static let memorySize: UInt16 = 0x03
        static let noGraphics: UInt16 = 0x04
        static let processorCount: UInt16 = 0x05
        static let kernelAddress: UInt16 = 0x07
        static let kernelSize: UInt16 = 0x08
        static let initrdAddress: UInt16 = 0x0A
        static let initrdSize: UInt16 = 0x0B
        static let bootMenu: UInt16 = 0x0E
        static let maximumProcessorCount: UInt16 = 0x0F
        static let kernelEntry: UInt16 = 0x10
        static let kernelData: UInt16 = 0x11
        static let initrdData: UInt16 = 0x12
        static let commandLineAddress: UInt16 = 0x13
        static let commandLineSize: UInt16 = 0x14
        static let commandLineData: UInt16 = 0x15
        static let setupAddress: UInt16 = 0x16
        static let setupSize: UInt16 = 0x17
        static let setupData: UInt16 = 0x18
        static let directory: UInt16 = 0x19
        static let firstFile: UInt16 = 0x20
    }

    /// The most files; the directory of more would pass the numbers that interfaces allow.
    static let fileLimit = 256
    /// The longest file name, in bytes, without its NUL.
    static let nameLimit = 55

    private var items: [[UInt8]] = []

    /// The bytes of an item; empty where there is none. Bits 14 (writing) and 15 (of an
    /// architecture) are the selector's.
    func bytes(_ key: UInt16) -> [UInt8] {
        // No item is an architecture's own.
        let key = Int(key & 0xBFFF)
        return key < items.count ? items[key] : []
    }

    private mutating func add(_ key: UInt16, _ bytes: [UInt8]) {
        while items.count <= Int(key) { items.append([]) }
        items[Int(key)] = bytes
    }

    private mutating func add(_ key: UInt16, _ value: UInt64, length: Int) {
        add(key, (0..<length).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) })
    }

    /// Makes the items of a machine.
    ///
    /// - Parameter hasDMA: firmware may use the DMA interface.
    init(_ pc: PCConfiguration, hasDMA: Bool) {
        add(Key.signature, Array("QEMU".utf8))
        add(Key.identifier, hasDMA ? 3 : 1, length: 4)
        add(Key.uuid, [UInt8](repeating: 0, count: 16))
        // RAM below 4 GiB; what lies above is in etc/e820.
        add(Key.memorySize, pc.memoryBelow4GiB, length: 8)
        add(Key.noGraphics, 1, length: 2)
        add(Key.processorCount, 1, length: 2)
        add(Key.maximumProcessorCount, 1, length: 2)
        add(Key.bootMenu, 0, length: 2)
        addKernel(pc)
        var files = [PCConfiguration.File(name: "etc/e820", bytes: Self.memoryMap(pc))]
        if !pc.bootOrder.isEmpty {
            // Each path ends with a newline, the last with a NUL.
            let text = pc.bootOrder.joined(separator: "\n")
            files.append(.init(name: "bootorder", bytes: Array(text.utf8) + [0]))
        }
        files += pc.files
        files.sort { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        addFiles(files.prefix(Self.fileLimit))
    }

    /// RAM as BIOS calls list it: address, length, type 1.
    private static func memoryMap(_ pc: PCConfiguration) -> [UInt8] {
        var bytes: [UInt8] = []
        func add(_ address: UInt64, _ length: UInt64) {
            guard length > 0 else { return }
            for value in [address, length] {
                for byte in 0..<8 as Range<UInt64> {
                    bytes.append(UInt8(truncatingIfNeeded: value >> (byte * 8)))
                }
            }
            bytes += [1, 0, 0, 0]
        }
        add(0, pc.memoryBelow4GiB)
        add(1 << 32, pc.memoryAbove4GiB)
        return bytes
    }

    private mutating func addFiles(_ files: ArraySlice<PCConfiguration.File>) {
        var directory = Self.bigEndian(UInt64(files.count), length: 4)
        for (index, file) in files.enumerated() {
            let key = Key.firstFile + UInt16(index)
            var name = Array(file.name.utf8.prefix(Self.nameLimit))
            name += [UInt8](repeating: 0, count: Self.nameLimit + 1 - name.count)
            directory += Self.bigEndian(UInt64(UInt32(clamping: file.bytes.count)), length: 4)
            directory += Self.bigEndian(UInt64(key), length: 2) + [0, 0] + name
            add(key, file.bytes)
        }
        add(Key.directory, directory)
    }

    static func bigEndian(_ value: UInt64, length: Int) -> [UInt8] {
        (0..<length).reversed().map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }

    // MARK: A Linux kernel

    /// A bzImage, cut where its real-mode part ends (Linux, Documentation/arch/x86/boot.rst), with
    /// the addresses that QEMU's boot ROM and U-Boot expect.
    private mutating func addKernel(_ pc: PCConfiguration) {
        guard !pc.kernel.isEmpty else { return }
        let kernel = pc.kernel
        let sectors = kernel.count > 0x1F1 && kernel[0x1F1] > 0 ? Int(kernel[0x1F1]) : 4
        let setup = min((sectors + 1) * 512, kernel.count)
        add(Key.setupAddress, 0x1_0000, length: 4)
        add(Key.setupSize, UInt64(setup), length: 4)
        add(Key.setupData, Array(kernel[..<setup]))
        add(Key.kernelAddress, 0x10_0000, length: 4)
        add(Key.kernelEntry, 0x10_0000, length: 4)
        add(Key.kernelSize, UInt64(UInt32(clamping: kernel.count - setup)), length: 4)
        add(Key.kernelData, Array(kernel[setup...]))
        let commandLine = Array(pc.commandLine.utf8) + [0]
        add(Key.commandLineAddress, 0x2_0000, length: 4)
        add(Key.commandLineSize, UInt64(commandLine.count), length: 4)
        add(Key.commandLineData, commandLine)
        guard !pc.initrd.isEmpty else { return }
        // As high as the kernel allows (initrd_addr_max) and RAM reaches, on a page's start.
        var highest: UInt64 = 0x37FF_FFFF
        if kernel.count >= 0x230 {
            let limit = kernel[0x22C..<0x230].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            if limit > 0 { highest = limit }
        }
        let end = min(highest + 1, pc.memoryBelow4GiB)
        let length = UInt64(pc.initrd.count)
        add(Key.initrdAddress, end > length ? (end - length) & ~0xFFF : 0, length: 4)
        add(Key.initrdSize, length, length: 4)
        add(Key.initrdData, pc.initrd)
    }
}
