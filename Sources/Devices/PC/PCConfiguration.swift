/// Which machine the devices make up; the raw value is what the option says.
public enum MachineKind: String, CaseIterable, Sendable {
    /// A serial port, debug consoles and ways to end: no interrupts, no time.
    case bare
    /// A PC: what ``bare`` has, and interrupt controllers, timers, clock, keyboard, PCI, ACPI
    /// registers and fw_cfg.
    case pc
    /// A ``pc`` with a local APIC and an I/O APIC.
    case pcAPIC = "pc-apic"

    /// Whether it has what a PC has.
    public var isPC: Bool { self != .bare }
    /// Whether it has a local APIC and an I/O APIC.
    public var hasAPIC: Bool { self == .pcAPIC }
}

/// What makes one PC differ from another. All of it is input to the guest: two runs are alike
/// only with equal configurations.
public struct PCConfiguration: Equatable, Sendable {
    /// A file that firmware reads by fw_cfg.
    public struct File: Equatable, Sendable {
        /// Its name, 55 bytes of UTF-8 at most; longer ones are cut.
        public var name: String
        /// Its content.
        public var bytes: [UInt8]

        /// Makes a file.
        public init(name: String, bytes: [UInt8]) {
            self.name = name
            self.bytes = bytes
        }
    }

    /// RAM from address 0 up, in bytes.
    public var memoryBelow4GiB: UInt64
    /// RAM from 4 GiB up, in bytes.
    public var memoryAbove4GiB: UInt64
    /// What the real-time clock shows at the start, in seconds since 1970, no time zone.
    public var startDate: UInt64 = 0
    /// Whether the ACPI timer has 32 bits; else 24.
    public var has32BitTimer = false
    /// ASCII text that is typed on the keyboard, US layout.
    public var keys: [UInt8] = []
    /// When the first key is pressed, in nanoseconds since the machine started.
    public var firstKeyNanoseconds: UInt64 = 1_000_000_000
    /// The time from one key to the next, in nanoseconds.
    public var keyIntervalNanoseconds: UInt64 = 50_000_000
    /// Whether fw_cfg offers its DMA interface: the caller then serves
    /// ``DeviceOutcome/directMemory``.
    public var offersFirmwareDMA = false
    /// A Linux bzImage for firmware that boots one from fw_cfg; empty: none.
    public var kernel: [UInt8] = []
    /// The kernel's initial RAM disk; empty: none.
    public var initrd: [UInt8] = []
    /// The kernel's command line.
    public var commandLine = ""
    /// Open Firmware paths of what to boot from, first the first.
    public var bootOrder: [String] = []
    /// More files for fw_cfg; at most 250.
    public var files: [File] = []

    /// Whether firmware is handed more than what the machine says of itself.
    var hasFirmwareInputs: Bool {
        !(kernel.isEmpty && initrd.isEmpty && commandLine.isEmpty && bootOrder.isEmpty
            && files.isEmpty)
    }

    /// A PC with RAM in bytes below and from 4 GiB on, and nothing else set.
    public init(memoryBelow4GiB: UInt64 = 64 << 20, memoryAbove4GiB: UInt64 = 0) {
        self.memoryBelow4GiB = memoryBelow4GiB
        self.memoryAbove4GiB = memoryAbove4GiB
    }
}
