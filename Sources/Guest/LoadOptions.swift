/// What a user says about how a guest image is to be loaded.
public struct LoadOptions: Equatable, Sendable {
    /// The kind of image; nil: recognised by content.
    public var kind: GuestKind?
    /// Where the image is loaded, a guest-physical address; nil: as its kind has it. Flat images
    /// and ELF files only; an ELF file's lowest segment goes there.
    public var loadAddress: UInt64?
    /// Where the guest is entered; nil: as its kind has it. Not for firmware.
    public var entry: UInt64?
    /// The guest's command line, without the image's name.
    public var commandLine: String
    /// Multiboot modules, in their order.
    public var modules: [GuestModule]
    /// A Linux kernel's initial RAM disk.
    public var initrd: GuestFile?
    /// What the machine hands out by fw_cfg.
    public var firmware: FirmwareInputs
    /// Tables for a kernel to find its machine by. Not looked at for firmware, which makes its own.
    public var tables: SystemTables?

    /// Makes options; the defaults leave everything to the image.
    public init(
        kind: GuestKind? = nil, loadAddress: UInt64? = nil, entry: UInt64? = nil,
        commandLine: String = "", modules: [GuestModule] = [], initrd: GuestFile? = nil,
        tables: SystemTables? = nil, firmware: FirmwareInputs = FirmwareInputs()
    ) {
        self.kind = kind
        self.loadAddress = loadAddress
        self.entry = entry
        self.commandLine = commandLine
        self.modules = modules
        self.initrd = initrd
        self.tables = tables
        self.firmware = firmware
    }
}

/// A file that a multiboot kernel is given beside its image. It is not unpacked.
public struct GuestModule: Equatable, Sendable {
    /// The file.
    public var file: GuestFile
    /// The module's string.
    public var commandLine: String

    /// Makes a module.
    public init(file: GuestFile, commandLine: String = "") {
        self.file = file
        self.commandLine = commandLine
    }
}
