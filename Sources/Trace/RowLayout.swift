import Machine

// The row: the canonical serialisation of one event (FORMAT.md, "Rows"). Layouts that encoder,
// parser, digests and columns share are stated here once.

/// Bits of an exit row's flag byte that the encoder owns.
enum ExitRowFlag {
    static let systemRegisters: UInt8 = 1 << 0
    static let all: UInt8 = systemRegisters | ExitFlags.defined.rawValue
}

/// Bits of an interruption row's flag byte.
enum InterruptionRowFlag {
    static let errorCode: UInt8 = 1 << 0
    static let landmark: UInt8 = 1 << 1
    static let progress: UInt8 = 1 << 2
    static let instructions: UInt8 = 1 << 3
    static let parts: UInt8 = 1 << 4
    static let stored: UInt8 = 1 << 5
    static let all: UInt8 = 0x3F
    /// In place of the number of a landmark's pages: they are not known.
    static let unknownPages = UInt16.max
}

/// Bits of an end row's flag byte.
enum EndRowFlag {
    static let guestStatus: UInt8 = 1 << 0
    static let midFlight: UInt8 = 1 << 1
    static let memory: UInt8 = 1 << 2
    static let all: UInt8 = 0x07
}

/// Tags of the changes in a completion row.
enum ChangeTag {
    static let register: UInt8 = 1
    static let systemWord: UInt8 = 2
    static let event: UInt8 = 3
    static let msr: UInt8 = 4
    static let extendedState: UInt8 = 5
    static let memory: UInt8 = 6
    static let debugWord: UInt8 = 7
    static let extendedControl: UInt8 = 8
    static let noMemory: UInt8 = 9
}

enum RowLayout {
    /// Bit 7 of the first byte: a vCPU number follows.
    static let vCPUBit: UInt8 = 0x80
    static let registerCount = GeneralRegisters.count
    static let registerMask: UInt32 = (1 << 18) - 1
    static let systemWordCount = SystemRegisters.wordCount
    static let debugWordCount = 16
    static let systemMask: UInt64 = (1 << 39) - 1
    /// General and system registers in full.
    static let stateBytes = (registerCount + systemWordCount) * 8
    static let ripIndex = 16
    static let ripBit: UInt32 = 1 << 16
    /// A reason of this value or above is written as this byte and a u32.
    static let reasonEscape: UInt32 = 255
}

/// The registers of one vCPU as the rows before say.
struct VCPUState: Equatable, Sendable {
    var registers = GeneralRegisters()
    var system = SystemRegisters()
}
