/// The local vector table (Intel SDM vol. 3, 12.5.1): what becomes of each local interrupt.
struct LocalVectorTable: Sendable {
    /// The entries; raw values are the registers' offsets.
    enum Entry: UInt16, Sendable {
        case correctedMachineCheck = 0x2F0
        case timer = 0x320
        case thermal = 0x330
        case performance = 0x340
        case line0 = 0x350
        case line1 = 0x360
        case error = 0x370

        /// The bits that a guest can set.
        fileprivate var writable: UInt32 {
            switch self {
            case .timer: 0x0007_00FF
            case .error: 0x0001_00FF
            case .line0, .line1: 0x0001_A7FF
            case .correctedMachineCheck, .thermal, .performance: 0x0001_07FF
            }
        }

        fileprivate var index: Int {
            self == .correctedMachineCheck ? 0 : Int(rawValue - 0x310) >> 4
        }
    }

    static let masked: UInt32 = 1 << 16
    static let levelTriggered: UInt32 = 1 << 15
    static let remoteRequest: UInt32 = 1 << 14
    static let activeLow: UInt32 = 1 << 13

    private var values: InlineArray<7, UInt32> = InlineArray(repeating: Self.masked)

    /// A register as it reads.
    subscript(entry: Entry) -> UInt32 { values[entry.index] }

    /// A guest's write.
    mutating func write(_ entry: Entry, _ value: UInt32, isEnabled: Bool) {
        var value = value & entry.writable | values[entry.index] & Self.remoteRequest
        if value & Self.levelTriggered == 0 { value &= ~Self.remoteRequest }
        // Masks stay set as long as software has disabled the APIC.
        if !isEnabled { value |= Self.masked }
        values[entry.index] = value
    }

    /// A level's interrupt was taken: it asks for no other before that one's end.
    mutating func beginRequest(_ entry: Entry) { values[entry.index] |= Self.remoteRequest }

    /// A level's interrupt has ended.
    mutating func endRequest(_ entry: Entry) { values[entry.index] &= ~Self.remoteRequest }

    /// What software's disabling the APIC does.
    mutating func maskAll() {
        for index in values.indices { values[index] |= Self.masked }
    }

    /// What firmware does with the line of the 8259 pair: virtual wire mode.
    mutating func connectVirtualWire() { values[Entry.line0.index] = 0x700 }

    /// Whether an entry lets anything through.
    func isOpen(_ entry: Entry) -> Bool { self[entry] & Self.masked == 0 }

    /// How an entry delivers.
    func delivery(_ entry: Entry) -> APICDelivery {
        switch entry {
        case .timer, .error: .fixed
        default: APICDelivery(bits: self[entry])
        }
    }

    /// An entry's vector.
    func vector(_ entry: Entry) -> UInt8 { UInt8(truncatingIfNeeded: self[entry]) }
}
