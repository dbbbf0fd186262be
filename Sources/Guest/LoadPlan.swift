public import Machine

/// Everything that starting a guest puts into its memory and registers. A pure function of the
/// files, the options and the RAM size, so that a trace that holds those holds the load.
public struct LoadPlan: Sendable {
    /// Bytes that go into memory.
    public struct Write: Equatable, Sendable {
        /// Where.
        public var address: GuestPhysicalAddress
        /// What; a view of the image where it comes from there.
        public var bytes: ArraySlice<UInt8>
        /// What for: `segment 0`, `page tables`, `command line`.
        public var purpose: String
    }

    /// The image's kind, as recognised or as the options say.
    public internal(set) var kind: GuestKind
    /// Where RAM is.
    public let ram: RAMLayout
    /// The ROM that ends at 4 GiB, in bytes; 0: none.
    public internal(set) var romLengthInBytes: UInt64 = 0
    /// The writes; none reaches into another.
    public internal(set) var writes: [Write] = []
    /// General-purpose registers, RIP and RFLAGS at the first instruction. Interrupts are off, and
    /// there is no stack. RDI is the guest-physical address of the NUL-terminated command line, 0
    /// without one; multiboot and Linux kernels have what their boot protocols say instead.
    public internal(set) var registers = GeneralRegisters()
    /// Segment and control registers at the first instruction.
    public internal(set) var systemRegisters = SystemRegisters()
    /// Where code was loaded.
    public internal(set) var code: [CodeRange] = []
    /// Things worth telling the user that do not stop the load.
    public internal(set) var notes: [String] = []
    /// The unpacked image.
    public let image: [UInt8]
    /// The files and options, as a trace keeps them: the image first, then modules
    /// or an initial RAM disk.
    public let records: [GuestImageRecord]

    /// What the machine hands out by fw_cfg; its kernel comes with ``initrd`` and ``commandLine``.
    public var firmware: FirmwareInputs { options.firmware }
    /// The initial RAM disk, where one was given.
    public var initrd: GuestFile? { options.initrd }
    /// The guest's command line.
    public var commandLine: String { options.commandLine }

    let name: String
    let options: LoadOptions

    /// The most bytes a command line may have.
    static let maximumCommandLineLength = 64 << 10

    /// Plans the load of an image as read from its file; gzip is unpacked first.
    ///
    /// Throws ``GuestError`` of any kind but unreadable and badRecord.
    public init(
        image file: GuestFile, options: LoadOptions = LoadOptions(), ram: RAMLayout
    ) throws(GuestError) {
        guard !file.bytes.isEmpty else {
            throw GuestError(.empty, file.name, "the file is empty")
        }
        let limit = Int(min(ram.lengthInBytes, UInt64(GuestFile.maximumLength)))
        image = Gzip.isGzip(file.bytes) ? try Gzip.unpack(file, limit: limit) : file.bytes
        guard !image.isEmpty else {
            throw GuestError(.empty, file.name, "unpacks to nothing")
        }
        name = file.name
        self.ram = ram
        self.options = options
        if let kind = options.kind {
            self.kind = kind
        } else {
            kind = try GuestKind.recognise(image, name: file.name)
        }
        records = GuestImageRecord.records(file, options, kind, ram)
        try checkOptions()
        switch kind {
        case .flatReal: try planFlatReal()
        case .flatLong: try planFlatLong()
        case .elf64: try planELF64()
        case .elf32: try planELF32()
        case .multiboot: try planMultiboot()
        case .linux: try planLinux()
        case .firmware: try planFirmware()
        }
    }

    /// Puts the guest's bytes into its memory, which must be fresh and have the ROM that
    /// ``romLengthInBytes`` says. Pages that would only be zero are not touched: fresh memory is
    /// zero, and stays sparse.
    ///
    /// Throws ``GuestError/Kind/badAddress`` where memory is missing.
    public func apply(to memory: borrowing GuestMemory) throws(GuestError) {
        for write in writes {
            var rest = write.bytes
            var address = write.address.rawValue
            while !rest.isEmpty {
                let toPageEnd = RAMLayout.pageLength - address % RAMLayout.pageLength
                let piece = rest.prefix(Int(toPageEnd))
                if !isZero(piece) { try memory.write(GuestPhysicalAddress(address), piece) }
                address += UInt64(piece.count)
                rest = rest.dropFirst(piece.count)
            }
        }
    }

    private func checkOptions() throws(GuestError) {
        if kind != .multiboot && !options.modules.isEmpty {
            throw GuestError(
                .badOption, name, "modules go to multiboot kernels, and this is \(kind.rawValue)")
        }
        if kind == .firmware && (options.loadAddress != nil || options.entry != nil) {
            throw GuestError(
                .badOption, name,
                "firmware is entered at the reset vector: leave --load and --entry away")
        }
        let bootsKernel = kind == .firmware && options.firmware.kernel != nil
        if kind != .linux && !bootsKernel && options.initrd != nil {
            throw GuestError(
                .badOption, name, "an initrd goes to a Linux kernel, and this is \(kind.rawValue)")
        }
        if kind != .firmware && options.firmware.kernel != nil {
            throw GuestError(
                .badOption, name,
                "a kernel by fw_cfg is booted by firmware, and this is \(kind.rawValue): give the "
                    + "kernel as the image")
        }
        try options.firmware.check()
        if kind == .linux && (options.loadAddress != nil || options.entry != nil) {
            throw GuestError(
                .badOption, name,
                "a Linux kernel says where it goes and is entered: leave --load and --entry away")
        }
        if kind == .multiboot && options.loadAddress != nil {
            throw GuestError(
                .badOption, name, "a multiboot kernel says where it goes: leave --load away")
        }
        if kind == .firmware && !bootsKernel && !options.commandLine.isEmpty {
            throw GuestError(
                .badOption, name, "firmware takes no command line, unless it is given a kernel")
        }
        for text in [options.commandLine] + options.modules.map(\.commandLine) {
            guard !text.utf8.contains(0), text.utf8.count < Self.maximumCommandLineLength else {
                throw GuestError(
                    .badOption, name,
                    "a command line has no NUL and less than "
                        + size(UInt64(Self.maximumCommandLineLength)))
            }
        }
    }

    /// Adds a write; no bytes make none.
    mutating func add(_ bytes: ArraySlice<UInt8>, at address: UInt64, _ purpose: String) {
        guard !bytes.isEmpty else { return }
        writes.append(
            Write(address: GuestPhysicalAddress(address), bytes: bytes, purpose: purpose))
    }

    /// Takes the registers of a state; RDI gets the address of the command line, 0 without one.
    mutating func start(_ state: InitialState, commandLine: UInt64 = 0) {
        registers = state.registers
        systemRegisters = state.system
        if commandLine != 0 { registers[.rdi] = commandLine }
    }

    /// Puts the command line into free memory and gives its address, 0 without one.
    mutating func placeCommandLine(in area: inout BootArea) throws(GuestError) -> UInt64 {
        guard !options.commandLine.isEmpty else { return 0 }
        let bytes = Array(options.commandLine.utf8) + [0]
        let address = try area.takeHigh(UInt64(bytes.count), for: "command line")
        add(bytes[...], at: address, "command line")
        return address
    }

    /// Puts the flat segments' descriptor table into free memory.
    mutating func placeDescriptors(
        in area: inout BootArea, is64Bit: Bool
    ) throws(GuestError) -> UInt64 {
        let bytes = InitialState.globalDescriptors(is64Bit: is64Bit)
        let address = try area.takeHigh(UInt64(bytes.count), for: "segment descriptors")
        add(bytes[...], at: address, "segment descriptors")
        return address
    }

    /// Puts page tables into free memory.
    mutating func place(
        _ tables: PageTables, in area: inout BootArea
    ) throws(GuestError) -> UInt64 {
        let address = try area.takeHigh(UInt64(tables.count) * 4096, for: "page tables")
        add(tables.bytes(at: address)[...], at: address, "page tables")
        return address
    }

    /// A mapping failure as an error about this image.
    func error(_ failure: PageTables.Failure) -> GuestError {
        switch failure {
        case .tooManyTables:
            GuestError(
                .tooBig, name,
                "its link addresses need more than \(PageTables.maximumTableCount) page tables; "
                    + "align its segments to 2 MiB")
        case .conflict(let virtual):
            GuestError(
                .malformed, name,
                "two segments want the page at virtual \(hex(virtual)) for different physical "
                    + "pages")
        }
    }
}
