internal import Disassembly
internal import Guest
internal import KVM
internal import Machine

/// An instruction that is about to be executed, and what decides which memory it touches.
struct Glance {
    /// Nil: nobody can tell.
    var accesses: MemoryAccesses?
    var registers: GeneralRegisters
    var system: SystemRegisters
    /// What an event touches that is delivered before it.
    var delivery: [LinearPiece] = []

    /// The linear memory that it touched, once it has been executed.
    ///
    /// - Parameter count: RCX after it: how often a REP went round.
    func pieces(countAfter count: UInt64) -> [LinearPiece] {
        guard let accesses else { return delivery }
        var rounds: UInt64 = 1
        if accesses.isRepeated {
            rounds = (registers[.rcx] &- count) & Self.mask(accesses.addressWidth)
        }
        var pieces = delivery
        guard rounds > 0 else { return pieces }
        var after = registers
        after.rip &+= UInt64(accesses.length)
        for access in accesses.pieces {
            var piece = access
            if let index = access.bitIndex { piece.moveByBits(after[index]) }
            if access.role == .table { piece.reference.displacement += Int64(after[.rax] & 0xFF) }
            let isStack = access.role == .push || access.role == .pop
            let isBackwards = after.rflags & Self.directionFlag != 0
            let isString = access.role == .string
            guard
                let linear = piece.reference.linearAddress(
                    count: piece.byteCount, isWrite: piece.isWrite,
                    addressWidth: isStack ? stackWidth : accesses.addressWidth,
                    registers: after, system: system)
            else { continue }
            let (length, overflows) = UInt64(piece.byteCount).multipliedReportingOverflow(
                by: isString ? rounds : 1)
            // More than all of RAM is all of RAM.
            let bounded = overflows ? Self.longest : min(length, Self.longest)
            let start =
                isString && isBackwards
                ? linear &- (bounded &- UInt64(piece.byteCount)) : linear
            pieces.append(
                LinearPiece(
                    start: start, count: bounded, isRead: piece.isRead, isWrite: piece.isWrite))
        }
        return pieces
    }

    private static let longest: UInt64 = 1 << 32

    /// RFLAGS.DF (Intel SDM vol. 1, 3.4.3.2).
    private static let directionFlag: UInt64 = 1 << 10

    private static func mask(_ width: Int) -> UInt64 {
        width >= 64 ? .max : (1 << UInt64(width)) - 1
    }

    /// What the stack segment says (Intel SDM vol. 1, 6.2.3).
    private var stackWidth: Int {
        switch system.mode {
        case .long: 64
        case .real: 16
        case .protected16, .protected32, .compatibility: system[.ss].db ? 32 : 16
        }
    }
}

extension MemoryAccess {
    /// Moves a bit string's operand to the one that holds the bit.
    fileprivate mutating func moveByBits(_ register: UInt64) {
        let bits = UInt64(byteCount) * 8
        let index: Int64 =
            switch byteCount {
            case 2: Int64(Int16(truncatingIfNeeded: register))
            case 4: Int64(Int32(truncatingIfNeeded: register))
            default: Int64(bitPattern: register)
            }
        guard bits > 0 else { return }
        let operands = index >> Int64(bits.trailingZeroBitCount)
        reference.displacement &+= operands &* Int64(byteCount)
    }
}

/// Linear memory that was touched.
struct LinearPiece: Equatable {
    var start: UInt64
    var count: UInt64
    var isRead: Bool
    var isWrite: Bool
}

/// What of the watched memory was touched since the last place.
struct Touches {
    /// For each watchpoint the first byte that was.
    private(set) var first: [GuestPhysicalAddress?]

    init(_ count: Int) { first = Array(repeating: nil, count: count) }

    /// Adds linear memory that was touched.
    mutating func add(
        _ piece: LinearPiece, _ watched: [Watchpoint], system: SystemRegisters,
        memory: borrowing GuestMemory
    ) {
        var at = piece.start
        var left = piece.count
        while left > 0 {
            let count = min(left, 0x1000 - at & 0xFFF)
            if let place = PageWalk.translate(
                GuestVirtualAddress(at), system: system, memory: memory)
            {
                add(place.address, count, piece, watched)
            }
            at &+= count
            left -= count
        }
    }

    private mutating func add(
        _ start: GuestPhysicalAddress, _ count: UInt64, _ piece: LinearPiece,
        _ watched: [Watchpoint]
    ) {
        for (index, watchpoint) in watched.enumerated() where first[index] == nil {
            let isWanted =
                switch watchpoint.kind {
                case .change: false
                case .read: piece.isRead
                case .access: true
                }
            let low = max(start.rawValue, watchpoint.address.rawValue)
            let high = min(
                start.rawValue &+ count, watchpoint.address.rawValue + UInt64(watchpoint.count))
            if isWanted, low < high { first[index] = GuestPhysicalAddress(low) }
        }
    }

    /// Nothing was.
    mutating func clear() { for index in first.indices { first[index] = nil } }
}

extension TimeMachine {
    /// What the next instruction will touch; nothing is pending.
    mutating func glance() throws(ExecutionError) -> Glance {
        let registers = machine.currentRegisters
        let system = machine.currentSystemRegisters
        if standing == .afterKick || standing == .atExit {
            let events = try kvm { () throws(KVMError) in try machine.cpu.eventsUnderWay() }
            if let events,
                let entry = EventDelivery(
                    events, registers: registers, system: system, memory: machine.memory)
            {
                var glance = look(entry.registers, entry.system)
                glance.delivery = entry.pieces
                return glance
            }
        }
        return look(registers, system)
    }

    /// What was executed in the place of an instruction that raised an exception: the delivery, and
    /// the handler's first instruction. Nil where nobody can tell.
    func glance(atExceptionAfter before: Glance) -> Glance? {
        // SAFETY: the page's registers do not change before the next run.
        let rip = unsafe machine.cpu.registersPointer.pointee.rip
        let entry = EventDelivery(
            raisedBefore: rip, registers: before.registers, system: before.system,
            memory: machine.memory
        ) { look($0.registers, $0.system).accesses?.length }
        guard let entry else { return nil }
        var glance = look(entry.registers, entry.system)
        glance.delivery = entry.pieces
        return glance
    }

    private func look(_ registers: GeneralRegisters, _ system: SystemRegisters) -> Glance {
        let address = PageWalk.linearRIP(registers.rip, system: system)
        let code = PageWalk.read(
            address, count: Disassembler.maximumLength, system: system, memory: machine.memory)
        return Glance(
            accesses: Disassembler(for: system).decodeAccesses(code), registers: registers,
            system: system)
    }

    /// Whether a step executed the instruction that was next, and did not raise a fault instead: that
    /// counts, and so does the first of its handler.
    mutating func isExecuted(
        _ glance: Glance, since count: UInt64, isAlone: Bool
    ) throws(ExecutionError) -> Bool {
        guard hasCounter, isAlone, let accesses = glance.accesses, !accesses.isRepeated else {
            return true
        }
        return try ticks() &- count == 1
    }

    /// Notes what of the watched bytes an instruction touched.
    func note(_ glance: Glance, _ journey: inout Journey) {
        // SAFETY: the page's registers do not change before the next run.
        let count = unsafe machine.cpu.registersPointer.pointee[.rcx]
        for piece in glance.pieces(countAfter: count) {
            journey.touches.add(
                piece, journey.course.watched, system: glance.system, memory: machine.memory)
        }
    }

    /// The first of the watchpoints that was touched since the last place.
    mutating func touch(_ journey: inout Journey) throws(ExecutionError) -> Arrival? {
        guard !journey.course.watched.isEmpty else { return nil }
        for (index, watchpoint) in journey.course.watched.enumerated() {
            let now = bytes(of: watchpoint)
            let old = journey.contents[index]
            journey.contents[index] = now
            var address = watchpoint.kind == .change ? nil : journey.touches.first[index]
            if address == nil, watchpoint.kind != .read, now != old {
                let offset = zip(old, now).enumerated().first { $1.0 != $1.1 }?.offset ?? 0
                address = GuestPhysicalAddress(watchpoint.address.rawValue &+ UInt64(offset))
            }
            guard let address else { continue }
            journey.touchedAfter = journey.placeBefore
            let isAtExit = loop.exitCount > journey.placeBefore.position.exitCount
            return .touch(
                WatchHit(
                    watchpoint: watchpoint, address: address, old: old, new: now,
                    exit: isAtExit ? loop.exitCount - 1 : nil))
        }
        journey.touches.clear()
        journey.placeBefore = Place(position: try here(), way: way)
        return nil
    }
}
