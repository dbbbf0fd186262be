/// What a Linux kernel is told at its 64-bit entry: the page of boot parameters (Linux,
/// Documentation/arch/x86/zero-page.rst), with the command line and a seed for its random numbers
/// behind it.
struct LinuxBootParameters {
    /// The kernel's header; nil: a vmlinux, which has none with it.
    var header: LinuxHeader?
    var ram: RAMLayout
    var commandLine: String
    var initrd: Range<UInt64>?

    private static let pageLength = 4096
    private static let mapCountOffset = 0x1E8
    private static let mapOffset = 0x2D0
    private static let seedType: UInt32 = 9
    /// "Loader without a number" (boot.rst, type_of_loader).
    private static let loaderType: UInt8 = 0xFF
    private static let isLoadedHigh: UInt8 = 1
    /// The same for every run, since it is input to the guest. With it a kernel whose command line
    /// says `random.trust_bootloader=1` need not wait for noise.
    private static let seed = Array("vmtape: one seed for all, no secret".utf8)

    /// How many bytes it takes.
    var length: UInt64 { UInt64(bytes(at: 0).count) }

    /// Its bytes when they lie at `base`, which is below 4 GiB.
    func bytes(at base: UInt64) -> [UInt8] {
        var page = [UInt8](repeating: 0, count: Self.pageLength)
        func put(_ number: some FixedWidthInteger & UnsignedInteger, _ offset: Int) {
            var bytes: [UInt8] = []
            bytes.append(littleEndian: number)
            page.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        typealias Field = LinuxHeader.Field
        if let header {
            page.replaceSubrange(header.bytes.indices, with: header.bytes)
        } else {
            put(UInt16(0xAA55), Field.bootFlag)
            put(LinuxHeader.magic, Field.magic)
            put(LinuxHeader.leastVersion, Field.version)
            put(UInt32(0x20_0000), Field.alignment)
            put(UInt32(Self.longestCommandLine), Field.commandLineSize)
        }
        page[Field.loaderType] = Self.loaderType
        page[Field.loadFlags] |= Self.isLoadedHigh
        if let initrd {
            put(UInt32(truncatingIfNeeded: initrd.lowerBound), Field.initrdAddress)
            put(UInt32(truncatingIfNeeded: initrd.count), Field.initrdSize)
        }
        let map = ram.map
        page[Self.mapCountOffset] = UInt8(map.count)
        var entries: [UInt8] = []
        for entry in map { entries.append(littleEndian: entry) }
        page.replaceSubrange(Self.mapOffset..<Self.mapOffset + entries.count, with: entries)
        // struct setup_data: next, type, length, data.
        let seedAt = base &+ UInt64(Self.pageLength)
        var behind: [UInt8] = []
        behind.append(littleEndian: UInt64(0))
        behind.append(littleEndian: Self.seedType)
        behind.append(littleEndian: UInt32(Self.seed.count))
        behind += Self.seed
        put(seedAt, Field.setupData)
        put(
            UInt32(truncatingIfNeeded: seedAt) &+ UInt32(behind.count), Field.commandLine)
        return page + behind + Array(commandLine.utf8) + [0]
    }

    /// The longest command line of a kernel that does not say, without the NUL.
    static let longestCommandLine = 2047
}
