public import Machine

/// Finds the functions on a guest's stack.
///
/// For each frame, in this order: call frame information, where an image has it for the address;
/// else what the code itself says (a function that has just begun, its prologue, the way to its RET
/// or IRET); else the chain of frame pointers; else what looks like an interrupt frame or a return
/// address on the stack, which is a guess and said to be one. Nothing is believed that the
/// guest's memory contradicts: a return address stands after a call, interrupted code can be
/// decoded, frames go up the stack.
public struct Unwinder {
    private let symbolizer: Symbolizer
    /// The most frames that a backtrace has.
    public let limit: Int

    /// Frames beyond this are of no use to anybody.
    public static let defaultLimit = 4096

    /// How many words above the stack pointer are searched for an interrupt frame: handlers save at
    /// most all general registers, segments and an error code.
    private static let searchedWords: UInt64 = 40

    /// Makes an unwinder that names frames by what the symbolizer knows.
    public init(_ symbolizer: Symbolizer, limit: Int = Self.defaultLimit) {
        self.symbolizer = symbolizer
        self.limit = max(1, limit)
    }

    /// The functions on the stack.
    ///
    /// - Parameters:
    ///   - registers: where the CPU stands. RIP is that of the instruction that runs next or,
    ///     at an exit, of the one that caused it.
    ///   - system: mode, segments and the descriptor table.
    ///   - memory: reads up to so many bytes from a linear address on, fewer where the rest is not
    ///     mapped. Rewritten instructions should be given as they were.
    public func backtrace(
        _ registers: GeneralRegisters, _ system: SystemRegisters,
        memory: (_ address: GuestVirtualAddress, _ count: Int) -> [UInt8]
    ) -> Backtrace {
        var place = Place(
            registers: UnwindRegisters(registers), context: UnwindContext(system),
            source: .registers, isExact: true)
        var frames: [StackFrame] = []
        var seen: Set<[UInt64]> = []
        while true {
            frames.append(frame(frames.count, place))
            if frames.count == limit { return Backtrace(frames: frames, end: .limit) }
            let rip = place.registers[.rip] ?? 0
            seen.insert([rip, place.registers[.rsp] ?? 0])
            if place.context.width == .bits16 {
                return Backtrace(frames: frames, end: .sixteenBit)
            }
            switch step(place, system.gdt, memory) {
            case .end(let end): return Backtrace(frames: frames, end: end)
            case .caller(let caller):
                frames[frames.count - 1].canonicalFrameAddress = caller.canonicalFrameAddress
                guard let rip = caller.registers[.rip], rip != 0 else {
                    return Backtrace(frames: frames, end: .outermost)
                }
                guard !seen.contains([rip, caller.registers[.rsp] ?? 0]) else {
                    return Backtrace(frames: frames, end: .loop)
                }
                place = caller
            }
        }
    }

    /// Where the walk stands.
    private struct Place {
        var registers: UnwindRegisters
        var context: UnwindContext
        var source: StackFrame.Source
        var isExact: Bool
        /// Of the frame that this was found from.
        var canonicalFrameAddress: UInt64?

        /// The linear address of the instruction that runs next.
        var address: UInt64 { context.code(registers[.rip] ?? 0) }
        /// The linear address whose rules and name are this frame's. A call can be a function's
        /// last instruction, and what it returns to is another function's then.
        var lookup: UInt64 { isExact ? address : context.truncated(address &- 1) }
    }

    private enum Step {
        case caller(Place)
        case end(Backtrace.End)
    }

    private func frame(_ number: Int, _ place: Place) -> StackFrame {
        var name = symbolizer.symbolize(GuestVirtualAddress(place.lookup))
        if !place.isExact { name?.offset &+= 1 }
        return StackFrame(
            number: number, address: GuestVirtualAddress(place.address),
            lookupAddress: GuestVirtualAddress(place.lookup), canonicalFrameAddress: nil,
            registers: place.registers.values, knownRegisters: place.registers.known, name: name,
            source: place.source, isExact: place.isExact)
    }

    private func step(
        _ place: Place, _ descriptors: DescriptorTable, _ memory: UnwindMemory
    ) -> Step {
        if let found = symbolizer.callFrame(at: place.lookup),
            (found.information.machine == .amd64) == (place.context.width == .bits64)
        {
            return step(place, found, memory)
        }
        let evidence = StackEvidence(context: place.context, descriptors: descriptors)
        return stepByCode(place, evidence, memory)
    }

    // MARK: call frame information

    private func step(
        _ place: Place, _ found: Symbolizer.CallFrame, _ memory: UnwindMemory
    ) -> Step {
        let information = found.information
        let machine = information.machine
        let context = place.context
        let word = UInt64(machine.wordSize)
        var unreadable: UInt64?
        var expression = CallFrameExpression(
            machine: machine, bias: found.bias, registers: place.registers)
        func evaluate(_ range: Range<Int>, _ initial: UInt64?) -> UInt64? {
            expression.value(of: range, in: information.bytes, initial: initial) {
                readNumber(context.stack($0), UInt64($1), memory)
            }
        }
        let canonical: UInt64?
        switch information.rules.canonicalAddress {
        case .register(let number, let offset):
            canonical = place.registers[machine.registers[number]].map {
                context.truncated($0 &+ UInt64(bitPattern: offset))
            }
        case .expression(let range): canonical = evaluate(range, nil)
        case .unknown: canonical = nil
        }
        guard let canonical else { return .end(.lost) }
        func load(_ offset: UInt64?) -> UInt64? {
            guard let offset else { return nil }
            let at = context.stack(context.truncated(offset))
            let value = readNumber(at, word, memory)
            if value == nil { unreadable = unreadable ?? at }
            return value
        }
        func value(_ number: Int) -> UInt64? {
            switch information.rules.registers[number] {
            case .undefined: nil
            case .sameValue: place.registers[machine.registers[number]]
            case .offset(let offset): load(canonical &+ UInt64(bitPattern: offset))
            case .valueOffset(let offset):
                context.truncated(canonical &+ UInt64(bitPattern: offset))
            case .register(let other):
                other < machine.registers.count ? place.registers[machine.registers[other]] : nil
            case .expression(let range): load(evaluate(range, canonical))
            case .valueExpression(let range): evaluate(range, canonical)
            }
        }
        var caller = UnwindRegisters()
        for (number, register) in machine.registers.enumerated() where register != .rip {
            caller[register] = value(number)
        }
        unreadable = nil
        caller[.rip] = value(information.returnAddress)
        if caller[.rip] == nil {
            if information.rules.registers[information.returnAddress] == .undefined {
                return .end(.outermost)
            }
            return .end(unreadable.map { .unreadable(GuestVirtualAddress($0)) } ?? .lost)
        }
        return .caller(
            Place(
                registers: caller, context: context, source: .callFrameInformation,
                isExact: information.isSignalFrame, canonicalFrameAddress: canonical))
    }

    // MARK: without call frame information

    private func stepByCode(
        _ place: Place, _ evidence: StackEvidence, _ memory: UnwindMemory
    ) -> Step {
        let context = evidence.context
        let word = context.wordSize
        guard let rsp = place.registers[.rsp] else { return .end(.lost) }
        let start = symbolizer.functionStart(of: place.lookup)
        // What a prologue has done so far says where the return address is.
        switch Prologue(at: place.address, from: start, context, memory) {
        case .nothing:
            if let caller = ret(place, at: rsp, .functionEntry, evidence, memory) {
                return .caller(caller)
            }
            // Handlers begin below an interrupt frame, or below an error code.
            for offset in [rsp, rsp &+ word] {
                if let frame = evidence.interruptFrame(at: offset, memory) {
                    return .caller(interrupted(place, frame, .interruptReturn))
                }
            }
        case .pushed:
            if var caller = ret(place, at: rsp &+ word, .functionEntry, evidence, memory) {
                caller.registers[.rbp] = readNumber(context.stack(rsp), word, memory)
                return .caller(caller)
            }
        case .complete:
            if let caller = chained(place, evidence, memory) { return .caller(caller) }
        case .unknown: break
        }
        if let out = CodeWalk(evidence).wayOut(from: place.registers, memory) {
            let isInterrupt = out.source == .interruptReturn
            return .caller(
                Place(
                    registers: out.registers, context: out.context, source: out.source,
                    isExact: isInterrupt, canonicalFrameAddress: out.registers[.rsp]))
        }
        if place.registers[.rbp] == 0 { return .end(.outermost) }
        if let caller = chained(place, evidence, memory) { return .caller(caller) }
        for index in 0..<Self.searchedWords {
            let offset = context.truncated(rsp &+ index * word)
            if let frame = evidence.interruptFrame(at: offset, memory) {
                return .caller(interrupted(place, frame, .interruptGuess))
            }
        }
        if let caller = ret(place, at: rsp, .stackGuess, evidence, memory) {
            return .caller(caller)
        }
        let top = context.stack(rsp)
        return .end(
            readNumber(top, word, memory) == nil
                ? .unreadable(GuestVirtualAddress(top)) : .lost)
    }

    /// The caller, where its return address is at an offset in the stack.
    private func ret(
        _ place: Place, at offset: UInt64, _ source: StackFrame.Source,
        _ evidence: StackEvidence, _ memory: UnwindMemory
    ) -> Place? {
        let context = evidence.context
        let offset = context.truncated(offset)
        guard let to = readNumber(context.stack(offset), context.wordSize, memory),
            evidence.isReturnAddress(to, memory)
        else { return nil }
        var registers = place.registers
        registers[.rip] = to
        registers[.rsp] = context.truncated(offset &+ context.wordSize)
        registers[.rflags] = nil
        // What a function may change on its way is not known any more, but where it has not begun.
        if source != .functionEntry || !place.isExact {
            for register in Register.allCases where ![.rip, .rsp, .rbp].contains(register) {
                registers[register] = nil
            }
        }
        return Place(
            registers: registers, context: context, source: source, isExact: false,
            canonicalFrameAddress: registers[.rsp])
    }

    /// The caller by the frame pointer: [rbp] is the caller's, the return address stands above it.
    private func chained(
        _ place: Place, _ evidence: StackEvidence, _ memory: UnwindMemory
    ) -> Place? {
        let context = evidence.context
        let word = context.wordSize
        guard let rbp = place.registers[.rbp], let rsp = place.registers[.rsp], rbp >= rsp,
            rbp % word == 0, context.isCanonical(rbp),
            var caller = ret(place, at: rbp &+ word, .framePointer, evidence, memory)
        else { return nil }
        caller.registers[.rbp] = readNumber(context.stack(rbp), word, memory)
        return caller
    }

    private func interrupted(
        _ place: Place, _ frame: InterruptFrame, _ source: StackFrame.Source
    ) -> Place {
        var registers = frame.restored(UnwindRegisters())
        // A handler's frame pointer is mostly still that of what it interrupted.
        registers[.rbp] = place.registers[.rbp]
        if source == .interruptReturn {
            registers = frame.restored(place.registers)
        }
        return Place(
            registers: registers, context: frame.context, source: source, isExact: true,
            canonicalFrameAddress: frame.rsp)
    }
}

/// How far a function has come with `push rbp; mov rbp, rsp`.
private enum Prologue {
    /// It has not begun, or is about to return: the return address is on top of the stack.
    case nothing
    /// RBP is on top of the stack, the return address above it.
    case pushed
    /// RBP points to the caller's.
    case complete
    /// The function does not begin so, or nobody knows where it begins.
    case unknown

    init(
        at address: UInt64, from start: UInt64?, _ context: UnwindContext, _ memory: UnwindMemory
    ) {
        self = .unknown
        if let next = memory(GuestVirtualAddress(address), 1).first, next == 0xC3 || next == 0xC2 {
            self = .nothing
            return
        }
        guard let start, address >= start else { return }
        if address == start {
            self = .nothing
            return
        }
        var code = memory(GuestVirtualAddress(start), 8)[...]
        // endbr64, endbr32
        if code.starts(with: [0xF3, 0x0F, 0x1E]) { code = code.dropFirst(4) }
        guard code.first == 0x55 else { return }
        let pushAt = start &+ UInt64(code.startIndex)
        code = code.dropFirst()
        if context.width == .bits64 {
            guard code.first == 0x48 else { return }
            code = code.dropFirst()
        }
        // mov rbp, rsp has two encodings.
        guard code.starts(with: [0x89, 0xE5]) || code.starts(with: [0x8B, 0xEC]) else { return }
        let moveEnd = pushAt &+ (context.width == .bits64 ? 4 : 3)
        if address <= pushAt {
            self = .nothing
        } else if address < moveEnd {
            self = .pushed
        } else {
            self = .complete
        }
    }
}
