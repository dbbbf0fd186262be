internal import Guest
internal import KVM
internal import Machine

/// An interrupt or exception on its way into the guest: what its delivery reads and writes, and where
/// its handler begins.
///
/// Of 64-bit mode and real mode. In 32-bit protected mode only what it changes is seen.
struct EventDelivery {
    /// The memory that it touches.
    private(set) var pieces: [LinearPiece] = []
    /// The registers with which the handler begins.
    private(set) var registers: GeneralRegisters
    /// The handler's mode: as far as addresses go.
    private(set) var system: SystemRegisters

    /// Nil where nothing is delivered, or nobody can tell how.
    init?(
        _ events: VCPUEvents, registers: GeneralRegisters, system: SystemRegisters,
        memory: borrowing GuestMemory
    ) {
        self.init(registers: registers, system: system)
        guard let event = Self.event(events), deliver(event, memory) else { return nil }
    }

    /// An exception that a step raised, whose handler's first instruction was executed with it; nil
    /// where none leads to where the CPU stands.
    init?(
        raisedBefore rip: UInt64, registers: GeneralRegisters, system: SystemRegisters,
        memory: borrowing GuestMemory, lengthOfInstruction: (EventDelivery) -> Int?
    ) {
        for vector in Self.exceptionVectors {
            self.init(registers: registers, system: system)
            if deliver((vector, Self.pushesErrorCode.contains(vector)), memory),
                let length = lengthOfInstruction(self),
                self.registers.rip &+ UInt64(length) == rip
            {
                return
            }
        }
        return nil
    }

    private init(registers: GeneralRegisters, system: SystemRegisters) {
        self.registers = registers
        self.system = system
    }

    /// #PF first, which comes most often (Intel SDM vol. 3, table 6-1).
    private static let exceptionVectors: [UInt64] = [14] + Array(0..<14) + Array(16..<22)
    private static let pushesErrorCode: [UInt64] = [8, 10, 11, 12, 13, 14, 17, 21]

    private mutating func deliver(_ event: Event, _ memory: borrowing GuestMemory) -> Bool {
        switch system.mode {
        case .long, .compatibility: deliverInLongMode(event, memory)
        case .real: deliverInRealMode(event.vector, memory)
        case .protected16, .protected32: false
        }
    }

    private typealias Event = (vector: UInt64, hasErrorCode: Bool)

    private static func event(_ events: VCPUEvents) -> Event? {
        if events.exceptionInjected || events.exceptionPending {
            return (UInt64(events.exceptionVector), events.exceptionHasErrorCode)
        }
        if events.nmiInjected || events.nmiPending { return (2, false) }
        if events.interruptInjected { return (UInt64(events.interruptVector), false) }
        return nil
    }

    /// Intel SDM vol. 3, 6.14: gate, stack, frame.
    private mutating func deliverInLongMode(
        _ event: Event, _ memory: borrowing GuestMemory
    ) -> Bool {
        guard
            let handler = PageWalk.handler(
                of: UInt8(truncatingIfNeeded: event.vector), system: system, memory: memory)
        else { return false }
        let gate = system.idt.base &+ event.vector * 16
        read(gate, 16)
        let table = PageWalk.read(
            GuestVirtualAddress(gate &+ 4), count: 1, system: system, memory: memory)
        let stackIndex = UInt64((table.first ?? 0) & 7)
        var stack = registers[.rsp]
        if stackIndex > 0 || system.cpl > 0 {
            // RSP0, or one of the seven stacks of the TSS (8.7).
            let slot = system[.tr].base &+ (stackIndex > 0 ? 28 + 8 * stackIndex : 4)
            read(slot, 8)
            guard let top = word(slot, 8, memory) else { return false }
            stack = top
        }
        let bytes: UInt64 = event.hasErrorCode ? 48 : 40
        let bottom = (stack & ~15) &- bytes
        write(bottom, bytes)
        registers[.rsp] = bottom
        registers.rip = handler
        system[.cs] = Self.codeSegment
        var stackSegment = system[.ss]
        stackSegment.dpl = 0
        system[.ss] = stackSegment
        return true
    }

    /// A flat 64-bit one (Intel SDM vol. 3, 5.2.1).
    private static let codeSegment = Segment(type: 11, l: true, g: true)

    /// Intel SDM vol. 3, 20.1.4: the table's four bytes, and three words on the stack.
    private mutating func deliverInRealMode(
        _ vector: UInt64, _ memory: borrowing GuestMemory
    ) -> Bool {
        let entry = system.idt.base &+ vector * 4
        read(entry, 4)
        guard let target = word(entry, 4, memory) else { return false }
        let stack = (registers[.rsp] &- 6) & 0xFFFF
        write(system[.ss].base &+ stack, 6)
        registers[.rsp] = registers[.rsp] & ~0xFFFF | stack
        registers.rip = target & 0xFFFF
        var code = system[.cs]
        code.selector = UInt16(truncatingIfNeeded: target >> 16)
        code.base = UInt64(code.selector) << 4
        system[.cs] = code
        return true
    }

    private mutating func read(_ start: UInt64, _ count: UInt64) {
        pieces.append(LinearPiece(start: start, count: count, isRead: true, isWrite: false))
    }

    private mutating func write(_ start: UInt64, _ count: UInt64) {
        pieces.append(LinearPiece(start: start, count: count, isRead: false, isWrite: true))
    }

    private func word(
        _ address: UInt64, _ count: Int, _ memory: borrowing GuestMemory
    ) -> UInt64? {
        let bytes = PageWalk.read(
            GuestVirtualAddress(address), count: count, system: system, memory: memory)
        guard bytes.count == count else { return nil }
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}
