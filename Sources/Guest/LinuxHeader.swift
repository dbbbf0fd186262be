/// The header of a bzImage (Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
/// Offsets are those in the image, and in the page of boot parameters, which has them alike.
struct LinuxHeader {
    /// Where fields are, in bytes.
    enum Field {
        static let setupSectors = 0x1F1
        static let size = 0x1F4
        static let bootFlag = 0x1FE
        static let jumpLength = 0x201
        static let magic = 0x202
        static let version = 0x206
        static let loaderType = 0x210
        static let loadFlags = 0x211
        static let initrdAddress = 0x218
        static let initrdSize = 0x21C
        static let commandLine = 0x228
        static let highestInitrd = 0x22C
        static let alignment = 0x230
        static let moreLoadFlags = 0x236
        static let commandLineSize = 0x238
        static let setupData = 0x250
        static let preferredAddress = 0x258
        static let initSize = 0x260
    }

    /// "HdrS".
    static let magic: UInt32 = 0x5372_6448
    /// The first protocol whose header says whether there is a 64-bit entry (Linux 3.8).
    static let leastVersion: UInt16 = 0x020C
    /// Where the 64-bit entry is, from the start of the protected-mode part.
    static let longEntry: UInt64 = 0x200
    private static let has64BitEntry: UInt16 = 1

    /// The header's own bytes, from ``Field/setupSectors`` on.
    let bytes: ArraySlice<UInt8>
    /// Where the part that is loaded begins in the image.
    let kernelStart: Int
    /// Where it wants to be.
    let address: UInt64
    /// How much memory it takes from there on while it starts.
    let initSize: UInt64
    /// The highest address that its RAM disk may take.
    let highestInitrd: UInt64
    /// The most bytes its command line may have, without the NUL.
    let commandLineSize: Int

    /// Whether an image has a header.
    static func isThere(_ image: [UInt8]) -> Bool {
        LittleEndianReader(image[...]).word(at: Field.magic) == magic
            && LittleEndianReader(image[...]).half(at: Field.bootFlag) == 0xAA55
    }

    /// Reads the header of a bzImage.
    ///
    /// Throws ``GuestError`` of kind malformed, truncated or unsupported.
    init(_ image: [UInt8], name: String) throws(GuestError) {
        let reader = LittleEndianReader(image[...])
        guard Self.isThere(image) else {
            throw GuestError(
                .malformed, name, "no Linux boot header (\"HdrS\" at offset 0x202), and not ELF")
        }
        guard let version = reader.half(at: Field.version), version >= Self.leastVersion,
            let flags = reader.half(at: Field.moreLoadFlags), flags & Self.has64BitEntry != 0
        else {
            throw GuestError(
                .unsupported, name,
                "no 64-bit entry (xloadflags at offset 0x236): a 64-bit kernel of Linux 3.8 or "
                    + "newer is needed")
        }
        let sectors = Int(image[Field.setupSectors])
        kernelStart = ((sectors == 0 ? 4 : sectors) + 1) * 512
        let end = Field.magic + Int(image[Field.jumpLength])
        guard let size = reader.word(at: Field.size),
            let low = reader.word(at: Field.preferredAddress),
            let high = reader.word(at: Field.preferredAddress + 4),
            let initSize = reader.word(at: Field.initSize),
            let highestInitrd = reader.word(at: Field.highestInitrd),
            let commandLineSize = reader.word(at: Field.commandLineSize),
            end >= Field.initSize + 4, end <= image.count, kernelStart < image.count
        else { throw GuestError(.truncated, name, "the Linux boot header is cut off") }
        // The size counts 16 bytes, rounded up.
        guard UInt64(image.count - kernelStart) + 15 >= UInt64(size) * 16 else {
            throw GuestError(
                .truncated, name,
                "the kernel is \(UInt64(size) * 16) bytes from offset \(hex(UInt64(kernelStart))) "
                    + "on, the file ends after \(image.count - kernelStart)")
        }
        bytes = image[Field.setupSectors..<end]
        address = UInt64(high) << 32 | UInt64(low)
        self.initSize = UInt64(initSize)
        self.highestInitrd = UInt64(highestInitrd)
        self.commandLineSize = Int(commandLineSize)
    }
}
