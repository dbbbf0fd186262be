import Machine
import Synchronization

/// The devices of a machine and the buses they are on.
///
/// Ports go through a table of 64 Ki entries, memory through sorted ranges; both give a slot, and
/// a switch over slots is all the dispatch there is. No access allocates.
///
/// What no device claims reads as all ones, swallows writes, and is counted in ``unclaimed``.
@safe
public struct DeviceSet: ~Copyable {
    /// How the devices are connected to the host.
    public struct Configuration: Equatable, Sendable {
        /// Where the serial port's output goes.
        public var serial: ConsoleOutput.Target
        /// Where the debug consoles' output goes; nil: with the serial port's, in order.
        public var debugConsole: ConsoleOutput.Target?
        /// Where the serial port is visible in memory too, if anywhere: 8 bytes.
        public var serialMemoryBase: UInt64?
        /// Which machine the devices make up.
        public var machine: MachineKind
        /// What is particular to a PC; not looked at where ``machine`` is another.
        public var pc: PCConfiguration

        /// Makes a configuration; the defaults drop all output.
        public init(
            serial: ConsoleOutput.Target = .none, debugConsole: ConsoleOutput.Target? = nil,
            serialMemoryBase: UInt64? = nil, machine: MachineKind = .bare,
            pc: PCConfiguration = PCConfiguration()
        ) {
            self.serial = serial
            self.debugConsole = debugConsole
            self.serialMemoryBase = serialMemoryBase
            self.machine = machine
            self.pc = pc
        }
    }

    /// Who answers at a port or an address.
    enum Slot: UInt8 {
        case unclaimed, serial, debugConsole, debugExit, resetControl, keyboardController
        // A PC's.
        case interruptController, interruptLevels, timer, systemControlA, systemControlB, clock
        case keyboardData, keyboardCommand, powerManagement, powerCommand, pciAddress, pciData
        case firmwareSelector, firmwareData, firmwareAddress, latch
    }

    /// The ports that devices claim.
    static let ports: [(first: UInt16, count: UInt16, slot: Slot)] = [
        (0x64, 1, .keyboardController),
        (0xE9, 1, .debugConsole),
        (0xF4, 1, .debugExit),
        (0x3F8, 8, .serial),
        (0x402, 1, .debugConsole),
        (0xCF9, 1, .resetControl),
    ]
    /// The ports that a PC's devices claim beside those, or in their place.
    private static let pcPorts: [(first: UInt16, count: UInt16, slot: Slot)] = [
        (0x00, 16, .latch),
        (0x20, 2, .interruptController),
        (0x40, 4, .timer),
        (0x60, 1, .keyboardData),
        (0x61, 1, .systemControlB),
        (0x64, 1, .keyboardCommand),
        (0x70, 2, .clock),
        (0x80, 16, .latch),
        (0x92, 1, .systemControlA),
        (0xA0, 2, .interruptController),
        (0xB2, 2, .powerCommand),
        (0xC0, 32, .latch),
        (0x4D0, 2, .interruptLevels),
        (0x510, 1, .firmwareSelector),
        (0x511, 1, .firmwareData),
        (0x514, 8, .firmwareAddress),
        (0xCF8, 1, .pciAddress),
        (0xCFC, 4, .pciData),
    ]
    /// The ports of some slots, as a description gives them: `port 0x60 0x64`.
    static func claims(of slots: Slot...) -> String {
        (ports + pcPorts).filter { slots.contains($0.slot) }.reduce("port") {
            $0 + " " + DeviceDescription.range(UInt64($1.first), count: UInt64($1.count))
        }
    }

    static let serialBase: UInt16 = 0x3F8
    static let serialIRQ: UInt8 = 4
    private static let portCount = 1 << 16

    /// Counts of what no device claims.
    public internal(set) var unclaimed = UnclaimedAccesses()
    /// The devices, in a fixed order, for a trace's header.
    public let descriptions: [DeviceDescription]
    /// What a trace keeps of the configuration: ``Configuration/properties``.
    public let properties: [(key: String, value: String)]

    /// Keeps this value at one address: asked for something it is lent then, where a large value
    /// without would be copied for each question.
    private let pin = Atomic<Bool>(false)
    private let portTable: UnsafeMutablePointer<Slot>
    let memoryRanges: AddressRanges
    /// Which machine the devices make up.
    public let machine: MachineKind
    /// A PC's devices, allocated.
    private let pcStorage: UnsafeMutablePointer<PC>
    /// Where the PC's power management registers are.
    private var powerManagementBase: UInt16?
    var serial = UART16550()
    var serialOutput: ConsoleOutput
    var debugOutput: ConsoleOutput
    let debugGoesToSerial: Bool
    var input: ConsoleInput
    /// The bit of the reset control register that keeps its value: hard or soft.
    var resetType: UInt8 = 0

    /// Connects the devices.
    ///
    /// Throws ``DeviceError/Kind/cannotOpen`` where an output file cannot be opened.
    public init(
        _ configuration: Configuration, input: consuming ConsoleInput = ConsoleInput()
    ) throws(DeviceError) {
        let serialOutput = try ConsoleOutput(configuration.serial)
        let debugOutput = try ConsoleOutput(configuration.debugConsole ?? .none)
        self.serialOutput = serialOutput
        self.debugOutput = debugOutput
        debugGoesToSerial = configuration.debugConsole == nil
        self.input = input
        var ranges = AddressRanges()
        if let base = configuration.serialMemoryBase {
            ranges.insert(base: base, length: 8, slot: .serial)
        }
        memoryRanges = ranges
        machine = configuration.machine
        unsafe pcStorage = UnsafeMutablePointer.allocate(capacity: 1)
        unsafe pcStorage.initialize(
            to: PC(configuration.pc, hasAPIC: configuration.machine.hasAPIC))
        descriptions = Self.descriptions(of: configuration)
        properties = configuration.properties
        // SAFETY: allocated for portCount entries, all initialised; freed in deinit only.
        unsafe portTable = UnsafeMutablePointer.allocate(capacity: Self.portCount)
        unsafe portTable.initialize(repeating: .unclaimed, count: Self.portCount)
        for claim in Self.ports + (machine.isPC ? Self.pcPorts : []) {
            for port in claim.first..<claim.first + claim.count {
                unsafe portTable[Int(port)] = claim.slot
            }
        }
        placePowerManagement()
    }

    deinit {
        unsafe portTable.deallocate()
        unsafe pcStorage.deinitialize(count: 1)
        unsafe pcStorage.deallocate()
    }

    /// A PC's devices; nothing reaches them where the machine is another.
    var pc: PC {
        // SAFETY: initialised in init, and freed in deinit only; access goes by the rules of a
        // stored property, since reading borrows this value and changing needs it alone.
        _read { yield unsafe pcStorage.pointee }
        _modify { yield unsafe &pcStorage.pointee }
    }

    /// Puts the power management registers where the guest's PCI set-up wants them. Ports that
    /// other devices claim stay theirs.
    mutating func placePowerManagement() {
        let wanted = machine.isPC ? pc.pci.powerManagementBase : nil
        guard wanted != powerManagementBase else { return }
        if let old = powerManagementBase { replace(.powerManagement, by: .unclaimed, at: old) }
        if let wanted { replace(.unclaimed, by: .powerManagement, at: wanted) }
        powerManagementBase = wanted
    }

    private mutating func replace(_ old: Slot, by new: Slot, at base: UInt16) {
        for offset in 0..<PowerManagement.portCount {
            let port = Int(base &+ offset)
            // SAFETY: the table has an entry for every 16-bit number.
            if unsafe portTable[port] == old { unsafe portTable[port] = new }
        }
    }

    /// Who answers at a port.
    func slot(_ port: UInt16) -> Slot {
        // SAFETY: the table has an entry for every 16-bit number.
        unsafe portTable[Int(port)]
    }

    /// Whether output waits to be written: part of a line, while the guest is busy.
    public var holdsOutput: Bool { serialOutput.isHolding || debugOutput.isHolding }

    /// Writes out what the devices' outputs hold. To be called when the guest halts or ends, and
    /// now and then while ``holdsOutput``.
    public mutating func flush() {
        serialOutput.flush()
        debugOutput.flush()
    }

    /// The first failure to write output, nil while all is well.
    public var outputFailure: DeviceError? { serialOutput.failure ?? debugOutput.failure }

    /// How many bytes the guest has sent to its consoles.
    public var outputByteCount: UInt64 { serialOutput.byteCount &+ debugOutput.byteCount }

    /// What the serial port sent to ``ConsoleOutput/Target/memory`` since the last call.
    public mutating func takeSerialBytes() -> [UInt8] { serialOutput.takeBytes() }

    /// What the debug consoles sent to a ``ConsoleOutput/Target/memory`` of their own.
    public mutating func takeDebugBytes() -> [UInt8] { debugOutput.takeBytes() }

    /// Whether the host has sent all it will, and the guest has taken it but for what is in the
    /// serial port's FIFO.
    public var isInputExhausted: Bool { input.isExhausted }

    /// The interrupt lines that are active, a bit for each, by number.
    public mutating func interruptLines() -> UInt32 {
        serial.interruptLine(&input) ? 1 << UInt32(Self.serialIRQ) : 0
    }
}
