import GDBRemote
import Machine

/// A CPU that knows the instructions of ``ToyProgram``. A value, so that any moment can be kept.
struct ToyCPU {
    var registers = GeneralRegisters()
    var memory: [UInt8]
    /// The addresses of the 8 bytes that the last instruction read or wrote.
    var lastRead: UInt64?
    var lastWrite: UInt64?
    var isHalted = false

    static let memoryBase = ToyProgram.codeBase
    private static let memorySize = Int(ToyProgram.stackTop - memoryBase)

    init(startingAt start: UInt64) {
        memory = ToyProgram.code
        memory += [UInt8](repeating: 0, count: Self.memorySize - memory.count)
        registers.rip = start
        registers[.rsp] = ToyProgram.stackTop - 16
        registers.rflags = 2
    }

    func load(_ address: UInt64, _ count: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in (0..<count).reversed() {
            let at = Int(truncatingIfNeeded: address &- Self.memoryBase) &+ index
            value = value << 8 | (memory.indices.contains(at) ? UInt64(memory[at]) : 0xFF)
        }
        return value
    }

    private mutating func read(_ address: UInt64) -> UInt64 {
        lastRead = address
        return load(address, 8)
    }

    private mutating func write(_ address: UInt64, _ value: UInt64) {
        lastWrite = address
        for index in 0..<8 {
            let at = Int(truncatingIfNeeded: address &- Self.memoryBase) &+ index
            if memory.indices.contains(at) {
                memory[at] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
            }
        }
    }

    private mutating func setZero(_ value: UInt64) {
        registers.rflags = registers.rflags & ~0x40 | (value == 0 ? 0x40 : 0)
    }

    mutating func step() {
        lastRead = nil
        lastWrite = nil
        let at = registers.rip
        func relative(_ offset: UInt64, _ bits: UInt64) -> UInt64 {
            UInt64(bitPattern: Int64(bitPattern: offset << (64 - bits)) >> Int64(64 - bits))
        }
        let opcode = load(at, 1)
        switch opcode {
        case 0xB9:
            registers[.rcx] = load(at + 1, 4)
            registers.rip = at + 5
        case 0xE8:
            registers[.rsp] &-= 8
            write(registers[.rsp], at + 5)
            registers.rip = at &+ 5 &+ relative(load(at + 1, 4), 32)
        case 0xC3:
            registers.rip = read(registers[.rsp])
            registers[.rsp] &+= 8
        case 0x55:
            registers[.rsp] &-= 8
            write(registers[.rsp], registers[.rbp])
            registers.rip = at + 1
        case 0x5D:
            registers[.rbp] = read(registers[.rsp])
            registers[.rsp] &+= 8
            registers.rip = at + 1
        case 0x75:
            let taken = registers.rflags & 0x40 == 0
            registers.rip = at &+ 2 &+ (taken ? relative(load(at + 1, 1), 8) : 0)
        case 0xEB: registers.rip = at &+ 2 &+ relative(load(at + 1, 1), 8)
        case 0x90: registers.rip = at + 1
        case 0x48: stepWide(at)
        default: isHalted = true
        }
    }

    private mutating func stepWide(_ at: UInt64) {
        switch load(at + 1, 2) {
        case 0xC0FF:
            registers[.rax] &+= 1
            setZero(registers[.rax])
            registers.rip = at + 3
        case 0xC9FF:
            registers[.rcx] &-= 1
            setZero(registers[.rcx])
            registers.rip = at + 3
        case 0xE589:
            registers[.rbp] = registers[.rsp]
            registers.rip = at + 3
        case 0x048B:
            registers[.rax] = read(load(at + 4, 4))
            registers.rip = at + 8
        case 0x0489:
            write(load(at + 4, 4), registers[.rax])
            registers.rip = at + 8
        default: isHalted = true
        }
    }
}
