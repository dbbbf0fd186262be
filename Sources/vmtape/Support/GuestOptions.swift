internal import ArgumentParser
internal import Devices
internal import Execution
internal import Guest

/// The options that say which guest runs on what: shared by run and record.
struct GuestOptions: ParsableArguments {
    @Option(
        name: [.short, .long],
        help: "RAM, in bytes or with K, M, G; a multiple of 4 KiB.")
    var memory = ByteSize(bytes: 64 << 20)

    @Option(
        help: ArgumentHelp(
            "The devices: bare (serial port and ways to end), pc (also interrupt controllers, "
                + "timers, clock, keyboard, PCI) or pc-apic (a pc with local APIC and I/O APIC). "
                + "Default: pc for firmware and Linux, else bare.",
            valueName: MachineKind.allCases.map(\.rawValue).joined(separator: "|")))
    var machine: MachineOption?

    @Option(
        help: ArgumentHelp(
            "The clock of devices and rewritten RDTSCs: the host's, or a virtual one that advances "
                + "by so many nanoseconds an exit and skips idle time, so that the same inputs give "
                + "the same trace.",
            valueName: "host|virtual[=ns]"))
    var clock: ClockOption = .init(kind: .host)

    @Option(
        help: ArgumentHelp(
            "Under a virtual clock, a guest that waits without an exit for a timer: the run ends, or "
                + "time passes all the same, by kicks, and two recordings may differ.",
            valueName: "end|kick"))
    var stall: StallOption = .end

    @Option(
        help: ArgumentHelp(
            "RDTSC, and CPUID where KVM cannot hide the host's: rewritten to exits, and so recorded "
                + "(in an ELF file's code at load, elsewhere when first executed), or left alone.",
            valueName: "rewrite|native"))
    var tsc: TSCOption = .rewrite

    @Flag(
        name: .customLong("no-completions"),
        help: ArgumentHelp(
            "Do not carry out instructions that KVM cannot emulate (int3, popcnt, cmpxchg16b, ...): "
                + "the run ends at them."))
    var hasNoCompletions = false

    @Option(help: ArgumentHelp("ASCII text typed on a PC's keyboard.", valueName: "text"))
    var keys = ""

    @Option(
        help: ArgumentHelp(
            "How to load the image; recognised by its content unless given. A vmlinux is an ELF "
                + "file to be told as linux.",
            valueName: GuestKind.allCases.map(\.rawValue).joined(separator: "|")))
    var kind: KindOption?

    @Option(
        help: ArgumentHelp(
            "Guest-physical address a flat or ELF image is loaded at.", valueName: "address"))
    var load: Number?

    @Option(
        help: ArgumentHelp("Address the guest is entered at.", valueName: "address"))
    var entry: Number?

    @Option(
        help: ArgumentHelp(
            "A multiboot module, with its own command line after a comma; repeatable.",
            valueName: "file[,cmdline]"))
    var module: [String] = []

    @Option(
        help: ArgumentHelp("A Linux kernel's initial RAM disk.", valueName: "file"))
    var initrd: String?

    @Option(
        help: ArgumentHelp(
            "A Linux kernel (bzImage) that a PC's firmware finds by fw_cfg, with --initrd and the "
                + "command line.", valueName: "file"))
    var firmwareKernel: String?

    @Option(
        name: .customLong("fw-cfg"),
        help: ArgumentHelp(
            "A file that a PC's guest reads by fw_cfg, under this name; repeatable.",
            valueName: "name=file"))
    var firmwareFile: [String] = []

    @Option(
        help: ArgumentHelp(
            "An Open Firmware path that a PC's firmware boots from (fw_cfg's bootorder); "
                + "repeatable, first the first.", valueName: "path"))
    var bootOrder: [String] = []

    @Option(
        help: ArgumentHelp(
            "Where the serial port prints: stdio, none, or a file.", valueName: "stdio|none|file"))
    var serial: SerialTarget = .stdio

    @Option(
        help: ArgumentHelp(
            "Where the debug consoles (ports 0xe9 and 0x402) print; with the serial port unless "
                + "given.", valueName: "stdio|none|file"))
    var debugConsole: SerialTarget?

    @Option(
        help: ArgumentHelp(
            "Feed this file to the serial port instead of the keyboard.", valueName: "file"))
    var input: String?

    @Flag(help: "End with the guest's own status (isa-debug-exit), else with vmtape's.")
    var guestStatus = false

    @Option(help: ArgumentHelp("End after this many exits.", valueName: "n"))
    var maxExits: UInt64?

    @Option(
        help: ArgumentHelp(
            "End after this long: 30, 500ms, 2m. Plain numbers are seconds.",
            valueName: "duration"))
    var timeout: Duration?

    @Option(help: ArgumentHelp("The host CPU that the guest runs on.", valueName: "n"))
    var cpu: Int?

    @Argument(
        help: ArgumentHelp(
            "The guest: a flat binary, an ELF, multiboot or Linux kernel, or firmware; may be "
                + "gzipped."))
    var image: String

    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("The guest's command line, after --.", valueName: "guest-cmdline"))
    var commandLine: [String] = []

    /// The load that these options ask for.
    func makePlan() throws(GuestError) -> LoadPlan {
        var modules: [GuestModule] = []
        for text in module {
            let parts = text.split(separator: ",", maxSplits: 1, omittingEmptySubsequences: false)
            modules.append(
                GuestModule(
                    file: try GuestFile(path: String(parts[0])),
                    commandLine: parts.count > 1 ? String(parts[1]) : ""))
        }
        var firmware = FirmwareInputs(
            kernel: try firmwareKernel.map { path throws(GuestError) in
                try GuestFile(path: path)
            }, bootOrder: bootOrder)
        for text in firmwareFile {
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2 else {
                throw GuestError(
                    .badOption, "--fw-cfg \(text)", "is no name and file: give NAME=FILE")
            }
            firmware.files.append(
                .init(name: String(parts[0]), file: try GuestFile(path: String(parts[1]))))
        }
        let options = LoadOptions(
            kind: kind?.kind, loadAddress: load?.value, entry: entry?.value,
            commandLine: commandLine.joined(separator: " "), modules: modules,
            initrd: try initrd.map { path throws(GuestError) in try GuestFile(path: path) },
            tables: machine?.machine.hasAPIC == true ? .apic : nil, firmware: firmware)
        return try LoadPlan(
            image: GuestFile(path: image), options: options,
            ram: RAMLayout(lengthInBytes: memory.bytes))
    }

    func validate() throws {
        if let maxExits, maxExits == 0 {
            throw ValidationError("--max-exits 0 would record nothing; give 1 or more.")
        }
    }
}

/// A ``Guest/GuestKind`` as an option; a type of its own, since neither protocol nor type is ours
/// to join.
struct KindOption: ExpressibleByArgument {
    let kind: GuestKind

    init?(argument: String) {
        guard let kind = GuestKind(rawValue: argument) else { return nil }
        self.kind = kind
    }

    static var allValueStrings: [String] { GuestKind.allCases.map(\.rawValue) }
}

/// A ``Devices/MachineKind`` as an option; see ``KindOption``.
struct MachineOption: ExpressibleByArgument {
    let machine: MachineKind
    init?(argument: String) {
        guard let machine = MachineKind(rawValue: argument) else { return nil }
        self.machine = machine
    }

    static var allValueStrings: [String] { MachineKind.allCases.map(\.rawValue) }
}

/// `--clock`.
struct ClockOption: ExpressibleByArgument {
    let kind: ClockKind

    init(kind: ClockKind) { self.kind = kind }

    init?(argument: String) {
        let parts = argument.split(separator: "=", maxSplits: 1)
        switch (parts.first, parts.count) {
        case ("host", 1): kind = .host
        case ("virtual", 1): kind = .virtual(nanosecondsPerExit: ClockKind.usualNanosecondsPerExit)
        case ("virtual", 2):
            guard let step = UInt64(parts[1]), (1...1_000_000_000).contains(step) else {
                return nil
            }
            kind = .virtual(nanosecondsPerExit: step)
        default: return nil
        }
    }

    var defaultValueDescription: String { kind.name }
}

/// `--stall`.
enum StallOption: String, ExpressibleByArgument, CaseIterable {
    case end
    case kick

    var policy: StallPolicy {
        switch self {
        case .end: .end
        case .kick: .kick
        }
    }
}

/// `--tsc`.
enum TSCOption: String, ExpressibleByArgument, CaseIterable {
    case rewrite
    case native
}

/// Where a guest's output goes.
enum SerialTarget: ExpressibleByArgument, Equatable {
    case stdio
    case none
    case file(String)

    init?(argument: String) {
        switch argument {
        case "": return nil
        case "stdio": self = .stdio
        case "none": self = .none
        default: self = .file(argument)
        }
    }

    var defaultValueDescription: String {
        switch self {
        case .stdio: "stdio"
        case .none: "none"
        case .file(let path): path
        }
    }
}
