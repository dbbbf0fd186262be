internal import Machine

/// General registers, some of which are not known: what a call destroyed cannot be had back.
struct UnwindRegisters {
    private(set) var values = GeneralRegisters()
    /// A bit for each register that is known, by ``Machine/Register``'s raw value.
    private(set) var known: UInt32 = 0

    /// None is known.
    init() {}

    /// All are known.
    init(_ values: GeneralRegisters) {
        self.values = values
        known = 1 << UInt32(GeneralRegisters.count) - 1
    }

    subscript(register: Register) -> UInt64? {
        get { known & 1 << UInt32(register.rawValue) != 0 ? values[register] : nil }
        set {
            values[register] = newValue ?? 0
            if newValue != nil {
                known |= 1 << UInt32(register.rawValue)
            } else {
                known &= ~(1 << UInt32(register.rawValue))
            }
        }
    }
}

/// How code at one place of the stack runs: how wide it is, and where its segments begin.
struct UnwindContext {
    enum Width {
        case bits16, bits32, bits64
    }

    var width: Width
    /// Where CS begins.
    var codeBase: UInt64
    /// Where SS begins.
    var stackBase: UInt64
    /// CS.
    var codeSelector: UInt16

    init(_ system: SystemRegisters) {
        let code = system[.cs]
        codeSelector = code.selector
        switch system.mode {
        case .long: width = .bits64
        case .real, .protected16: width = .bits16
        case .protected32: width = .bits32
        case .compatibility: width = code.db ? .bits32 : .bits16
        }
        codeBase = width == .bits64 ? 0 : code.base
        stackBase = width == .bits64 ? 0 : system[.ss].base
    }

    var wordSize: UInt64 { width == .bits64 ? 8 : 4 }

    /// The linear address of an instruction.
    func code(_ offset: UInt64) -> UInt64 {
        width == .bits64 ? offset : (codeBase &+ offset) & 0xFFFF_FFFF
    }

    /// The linear address of something on the stack.
    func stack(_ offset: UInt64) -> UInt64 {
        width == .bits64 ? offset : (stackBase &+ offset) & 0xFFFF_FFFF
    }

    /// A number as this code computes addresses.
    func truncated(_ number: UInt64) -> UInt64 {
        width == .bits64 ? number : number & 0xFFFF_FFFF
    }

    /// Whether an address can be one: in 64-bit code the upper bits are all alike (48 or 57 of
    /// them count; the wider form lets more through).
    func isCanonical(_ address: UInt64) -> Bool {
        if width != .bits64 { return address >> 32 == 0 }
        let upper = Int64(bitPattern: address) >> 56
        return upper == 0 || upper == -1
    }
}

/// Reads guest memory: up to so many bytes from a linear address on, fewer where it is not mapped.
typealias UnwindMemory = (_ address: GuestVirtualAddress, _ count: Int) -> [UInt8]

/// A little-endian number of 1 to 8 bytes from memory; nil where not all of it is mapped.
func readNumber(_ address: UInt64, _ size: UInt64, _ memory: UnwindMemory) -> UInt64? {
    let bytes = memory(GuestVirtualAddress(address), Int(size))
    guard UInt64(bytes.count) == size else { return nil }
    var value: UInt64 = 0
    for (index, byte) in bytes.enumerated() { value |= UInt64(byte) << UInt64(index * 8) }
    return value
}
