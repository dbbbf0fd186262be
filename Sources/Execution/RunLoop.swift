internal import Disassembly
public import Guest
public import KVM
internal import Machine
internal import Trace

/// How the loop came to its end.
public enum LoopOutcome: Equatable, Sendable {
    /// The world ended the run.
    case ended(Ending)
    /// The tape had no further event.
    case endOfTape
    /// The number of exits that was asked for has been made.
    case exitLimit
    /// Somebody asked for an end; in mid-flight when the guest would not exit.
    case stopped(StopReason, isInMidFlight: Bool)
    /// The listener had enough: a divergence.
    case endedByListener
}

/// The loop that drives a vCPU against a world while somebody listens: the same code for run,
/// record and replay, so that they issue the same requests in the same order.
///
/// Nothing is allocated per exit.
public struct RunLoop: ~Copyable {
    /// Exits made so far; the next one has this number.
    public private(set) var exitCount: UInt64 = 0
    /// The last exit that nobody answers: with it the guest stops.
    public internal(set) var unansweredExit: Exit?
    /// The last exit that is neither a port access nor one to device memory.
    private var other = Exit.unknown(hardwareReason: 0)
    private var finder: InstructionFinder
    /// Words of rare exits, laid out as the trace takes them.
    private var words: InlineArray<16, UInt64> = InlineArray(repeating: 0)
    /// The count of exits after the last one at which a completion raised an exception.
    var exceptionCount: UInt64 = .max
    private let exitLimit: UInt64
    private let traps: RewriteTraps
    let stop: StopRequest
    /// What interrupts in mid-flight took so far.
    public internal(set) var midFlight = MidFlightCounts()
    /// The timer runs.
    var isKickArmed = false
    /// Places refused since the last interrupt in mid-flight.
    var attempts = 0

    /// Makes a loop.
    ///
    /// - Parameters:
    ///   - behaviour: where RIP stands in exits of this host.
    ///   - exitLimit: how many exits to make at most.
    ///   - traps: which OUTs stand for another instruction.
    ///   - stop: where others ask for an end.
    public init(
        behaviour: HostBehaviour, exitLimit: UInt64 = .max, traps: RewriteTraps = RewriteTraps(),
        stop: StopRequest
    ) {
        finder = InstructionFinder(behaviour)
        self.exitLimit = exitLimit
        self.traps = traps
        self.stop = stop
    }

    /// Runs until something ends it.
    ///
    /// - Parameter side: what stands on the other side of the cut: answers, and listens.
    public mutating func run<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        guard exitLimit > 0 else { return .exitLimit }
        // A tape may end before the first exit: a guest that never exits was cut off, or the
        // recorder was killed. Such a guest must not be entered, for it would not come back.
        if let outcome = try outcome(&side, natural: nil, canWake: false, memory: memory) {
            return outcome
        }
        while true {
            let entered = HostThread.timestamp()
            let step: RunStep
            do throws(KVMError) { step = try cpu.run(other: &other) } catch { throw .kvm(error) }
            let returned = HostThread.timestamp()
            if case .interrupted = step {
                // A kick or a signal: not an exit, and never counted.
                _ = cpu.acknowledgeKick()
                if let reason = stop.reason, stop.isInsistent {
                    return .stopped(reason, isInMidFlight: true)
                }
                if isKickArmed, let outcome = try takeKick(&cpu, &side, memory: memory) {
                    return outcome
                }
                continue
            }
            if case .other = step, Self.isUncounted(other) { continue }
            if let outcome = try take(
                step, &cpu, &side, memory: memory, entered: entered, returned: returned)
            {
                return outcome
            }
            if try side.hasInterrupt(), let outcome = try deliver(&cpu, &side, memory: memory) {
                return outcome
            }
            if !isKickArmed, let delay = try side.kickDelay() {
                try armKick(&cpu, nanoseconds: delay)
            }
        }
    }

    /// Everything that one exit asks for; nil: the guest runs on.
    @inline(__always)
    private mutating func take<CPU, Side>(
        _ step: RunStep, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        var goesOn: Bool
        var natural: Ending?
        switch step {
        case .io(let io):
            goesOn = try handle(
                io, &cpu, &side, memory: memory, entered: entered, returned: returned)
        case .mmio(let mmio):
            goesOn = try handle(
                mmio, &cpu, &side, memory: memory, entered: entered, returned: returned)
        case .other:
            goesOn = try handleOther(&cpu, &side, entered: entered, returned: returned)
            natural = Self.naturalEnding(other)
            if goesOn, natural?.reason == .internalError,
                let completed = try complete(other, &cpu, &side, memory: memory)
            {
                natural = nil
                goesOn = completed == .completed
            }
        case .interrupted: return nil
        }
        guard goesOn else { return .endedByListener }
        exitCount += 1
        // SAFETY: the page's registers do not change before the next run.
        let canWake = unsafe cpu.registersPointer.pointee.rflags & Self.interruptFlag != 0
        if let outcome = try outcome(&side, natural: natural, canWake: canWake, memory: memory) {
            return outcome
        }
        if exitCount >= exitLimit { return .exitLimit }
        if let reason = stop.reason { return .stopped(reason, isInMidFlight: false) }
        return nil
    }

    /// What the world says of going on; nil: the guest does.
    @inline(__always)
    func outcome<Side: World & RunListener & ~Copyable>(
        _ side: inout Side, natural: Ending?, canWake: Bool, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome? {
        switch try side.verdict(natural: natural, canWake: canWake) {
        case .go: return nil
        case .end(let ending): return .ended(ending)
        case .endOfTape: return .endOfTape
        case .transfer: return try transfer(&side, memory: memory)
        }
    }

    /// Makes what devices write to RAM, and tells of it; nil: the guest runs on.
    @inline(never)
    private func transfer<Side: World & RunListener & ~Copyable>(
        _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome? {
        while true {
            for write in try side.deviceWrites(memory) {
                guard try side.deviceWrite(write) else { return .endedByListener }
                do throws(GuestError) {
                    try memory.write(write.address, write.bytes[...])
                } catch { throw .guest(error) }
            }
            switch try side.verdict(natural: nil, canWake: false) {
            case .go: return nil
            case .end(let ending): return .ended(ending)
            case .endOfTape: return .endOfTape
            case .transfer: continue
            }
        }
    }

    /// Exits that neither the guest nor its set-up caused: where they come varies, so they are never
    /// numbered, and nothing is done at them.
    @inline(__always)
    static func isUncounted(_ exit: Exit) -> Bool {
        switch exit {
        case .irqWindowOpen, .intr: true
        default: false
        }
    }

    /// RFLAGS.IF (Intel SDM vol. 1, 3.4.3.3).
    static let interruptFlag: UInt64 = 1 << 9

    /// Gives the CPU the interrupt that waits, if it can take it at this exit; else it waits on.
    ///
    /// What the exit left pending is finished first (DESIGN 4), since an interrupt before that
    /// would come in the middle of an instruction. That may take further exits, which are
    /// ordinary ones, and the same without an interrupt.
    @inline(never)
    private mutating func deliver<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if let landmark = try side.landmark() {
            return try reach(landmark, &cpu, &side, memory: memory)
        }
        // An exception that is on its way is delivered first; the interrupt comes at a later exit.
        guard exitCount != exceptionCount else { return nil }
        // SAFETY: the page's registers do not change before the next run.
        guard unsafe cpu.registersPointer.pointee.rflags & Self.interruptFlag != 0 else {
            return nil
        }
        settling: while true {
            let entered = HostThread.timestamp()
            let settlement: Settlement
            do throws(KVMError) { settlement = try cpu.settle() } catch { throw .kvm(error) }
            guard case .exit(let exit) = settlement else { break settling }
            if Self.isUncounted(exit) { continue }
            if let outcome = try take(
                RunStep(exit, other: &other), &cpu, &side, memory: memory, entered: entered,
                returned: HostThread.timestamp())
            {
                return outcome
            }
        }
        guard cpu.isReadyForInterrupt, try side.hasInterrupt() else { return nil }
        let vector = try side.acknowledgeInterrupt()
        guard try side.interruption(Interruption(.external, vector: vector)) else {
            return .endedByListener
        }
        do throws(KVMError) { try cpu.interrupt(vector: vector) } catch { throw .kvm(error) }
        // An interrupt in mid-flight may follow before the next exit.
        if let landmark = try side.landmark() {
            return try reach(landmark, &cpu, &side, memory: memory)
        }
        // A tape may end here: the guest never exited again, or the recorder was killed.
        return try outcome(&side, natural: nil, canWake: false, memory: memory)
    }

    /// How an exit ends a run where nothing can wake or rescue the CPU; nil if it can be answered.
    private static func naturalEnding(_ exit: Exit) -> Ending? {
        switch exit {
        case .io, .mmio, .rdmsr, .wrmsr: nil
        case .hlt: Ending(.halted)
        case .shutdown: Ending(.shutdown)
        case .internalError: Ending(.internalError)
        case .failEntry: Ending(.failEntry)
        case .systemEvent(let event):
            switch event.type {
            case 1: Ending(.powerOff)
            case 2: Ending(.reset)
            default: Ending(.unhandledExit)
            }
        default: Ending(.unhandledExit)
        }
    }

    // Each tells the listener of the exit, has the world answer it, and tells the listener the
    // answer; false where the listener had enough.
    //
    // SAFETY (all of them): the pointers are into the run page, which the CPU owns and KVM changes
    // only in the next run; the calls below end before that.

    @inline(__always)
    private mutating func handle<CPU, Side>(
        _ io: PortIO, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        let isWrite = io.direction == .output
        let size = Int(io.size)
        let mayBeTrap = isWrite && traps.mayBe(io)
        var rewind: UInt8 = 0
        if Side.isListening || mayBeTrap {
            if !Side.isListening { try refresh(&cpu) }
            rewind = unsafe finder.rewind(
                portAccess: isWrite ? .output : .input, port: io.port, size: size,
                count: Int(io.count), registers: registers, system: system, memory: memory)
        }
        if mayBeTrap,
            let trapped = unsafe traps.instruction(
                at: registers.pointee.rip &- UInt64(rewind), io, system: system.pointee,
                memory: memory)
        {
            return try unsafe complete(
                trapped, io, &cpu, &side, rewind: rewind, registers: registers, system: system,
                entered: entered, returned: returned)
        }
        return try cpu.withIOData { (data: inout MutableRawSpan) throws(ExecutionError) in
            try unsafe data.withUnsafeMutableBytes { bytes throws(ExecutionError) in
                let sent = unsafe UnsafeRawBufferPointer(
                    start: bytes.baseAddress, count: isWrite ? bytes.count : 0)
                guard
                    try unsafe side.exit(
                        .io(
                            isWrite: isWrite, size: UInt8(size), port: io.port,
                            count: UInt32(io.count), data: sent), flags: [], rewind: rewind,
                        registers: registers, system: system, entered: entered,
                        returned: returned)
                else { return false }
                if isWrite {
                    try unsafe side.portOut(io.port, size: size, bytes: sent)
                    return true
                }
                try unsafe side.portIn(io.port, size: size, into: bytes)
                return try unsafe side.answer(.io, UnsafeRawBufferPointer(bytes))
            }
        }
    }

    @inline(__always)
    private mutating func handle<CPU, Side>(
        _ mmio: MMIO, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        let length = Int(mmio.size)
        let rewind =
            Side.isListening
            ? unsafe finder.rewind(
                memoryAccess: mmio.isWrite, length: length, registers: registers, system: system,
                memory: memory) : 0
        var value = mmio.isWrite ? cpu.mmioValue : 0
        guard
            try unsafe side.exit(
                .mmio(
                    address: mmio.address, length: UInt8(length), isWrite: mmio.isWrite,
                    value: value),
                flags: [], rewind: rewind, registers: registers, system: system, entered: entered,
                returned: returned)
        else { return false }
        let isAnswered = try unsafe withUnsafeMutableBytes(of: &value) {
            bytes throws(ExecutionError) -> Bool in
            let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[..<length])
            if mmio.isWrite {
                try unsafe side.memoryWrite(mmio.address, bytes: UnsafeRawBufferPointer(bytes))
                return true
            }
            try unsafe side.memoryRead(mmio.address, into: bytes)
            return try unsafe side.answer(.mmio, UnsafeRawBufferPointer(bytes))
        }
        if !mmio.isWrite { cpu.mmioValue = value }
        return isAnswered
    }

    /// Puts system registers on the page in a run that nobody listens to, where an exit needs them.
    @inline(never)
    private func refresh<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) {
        try kvm { () throws(KVMError) in try cpu.refreshSystemRegisters() }
    }

    @inline(never)
    private mutating func handleOther<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if !Side.isListening { try refresh(&cpu) }
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        switch other {
        case .rdmsr(let access):
            guard
                try unsafe side.exit(
                    .rdmsr(index: access.index, why: access.cause), flags: [], rewind: 0,
                    registers: registers, system: system, entered: entered, returned: returned)
            else { return false }
            let value = try side.readMSR(access.index)
            cpu.answerMSR(value ?? 0, fault: value == nil)
            return try answerMSR(value, &side)
        case .wrmsr(let access):
            guard
                try unsafe side.exit(
                    .wrmsr(index: access.index, why: access.cause, value: access.value),
                    flags: [], rewind: 0, registers: registers, system: system, entered: entered,
                    returned: returned)
            else { return false }
            let isTaken = try side.writeMSR(access.index, access.value)
            cpu.answerMSR(0, fault: !isTaken)
            return try answerMSR(isTaken ? 0 : nil, &side)
        default:
            unansweredExit = other
            return try unsafe reportUnanswered(
                other, cpu, &side, registers: registers, system: system, entered: entered,
                returned: returned)
        }
    }

    /// An instruction that was rewritten to an OUT: its answer goes where it would have put it.
    private mutating func complete<CPU, Side>(
        _ trapped: RewriteTraps.Instruction, _ io: PortIO, _ cpu: inout CPU, _ side: inout Side,
        rewind: UInt8, registers: UnsafePointer<GeneralRegisters>,
        system: UnsafePointer<SystemRegisters>, entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // SAFETY (whole function): see `handle`; buffers are local values or the run page's.
        let isTaken = try cpu.withIOData { (data: inout MutableRawSpan) throws(ExecutionError) in
            try unsafe data.withUnsafeMutableBytes { bytes throws(ExecutionError) in
                try unsafe side.exit(
                    .io(
                        isWrite: true, size: 1, port: io.port, count: 1,
                        data: UnsafeRawBufferPointer(bytes)),
                    flags: .rewrittenInstruction, rewind: rewind, registers: registers,
                    system: system, entered: entered, returned: returned)
            }
        }
        guard isTaken else { return false }
        var after = unsafe registers.pointee
        let isAnswered: Bool
        switch trapped {
        case .timeStamp:
            var value = try side.timeStamp()
            after[.rax] = value & 0xFFFF_FFFF
            after[.rdx] = value >> 32
            isAnswered = try unsafe withUnsafeBytes(of: &value) { bytes throws(ExecutionError) in
                try unsafe side.answer(.timeStamp, bytes)
            }
        case .cpuid:
            var answer = try unsafe side.cpuid(
                function: UInt32(truncatingIfNeeded: after[.rax]),
                index: UInt32(truncatingIfNeeded: after[.rcx]), system: system.pointee)
            for (index, register) in [Register.rax, .rbx, .rcx, .rdx].enumerated() {
                after[register] = UInt64(answer.words[index])
            }
            isAnswered = try unsafe withUnsafeBytes(of: &answer.words) {
                bytes throws(ExecutionError) in
                try unsafe side.answer(.cpuid, bytes)
            }
        }
        guard isAnswered else { return false }
        do throws(KVMError) {
            let isReplaced = try cpu.replaceRegistersAfterOut(after)
            precondition(isReplaced, "a rewritten instruction is an OUT of count 1")
        } catch { throw .kvm(error) }
        return true
    }

    /// The trace's form of an MSR answer: one byte of fault, then the value.
    private func answerMSR<Side: RunListener & ~Copyable>(
        _ value: UInt64?, _ side: inout Side
    ) throws(ExecutionError) -> Bool {
        var bytes: InlineArray<9, UInt8> = InlineArray(repeating: 0)
        bytes[0] = value == nil ? 1 : 0
        for index in 0..<8 {
            bytes[index + 1] = UInt8(truncatingIfNeeded: (value ?? 0) >> UInt64(index * 8))
        }
        return try unsafe withUnsafeBytes(of: &bytes) { bytes throws(ExecutionError) in
            // SAFETY: the buffer is the local array, alive through the call.
            try unsafe side.answer(.msr, bytes)
        }
    }

    /// Reasons whose payload KVM documents and vmtape decodes: an exit of one of them that could not
    /// be decoded is no exit of an unknown kind, and cannot be recorded as one.
    private static func hasPayloadOfItsOwn(_ reason: ExitReason) -> Bool {
        switch reason {
        case .io, .mmio, .rdmsr, .wrmsr, .hypercall, .internalError, .failEntry, .systemEvent,
            .exception, .debug:
            true
        default: false
        }
    }

    /// Exits that nobody answers: the guest stops, or the run ends with them.
    @inline(never)
    private mutating func reportUnanswered<CPU, Side>(
        _ exit: Exit, _ cpu: borrowing CPU, _ side: inout Side,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: RunListener & ~Copyable {
        let rewind: UInt8
        if case .hlt = exit {
            unsafe rewind = finder.rewindOfHLT(system: system)
        } else {
            rewind = 0
        }
        var wordCount = 0
        switch exit {
        case .internalError(let error):
            words = error.data
            wordCount = error.count
            // The last word of these two is the host CPU that the guest ran on: observed, and
            // not part of what must be equal (arch/x86/kvm: last_vmentry_cpu).
            if error.suberror == 3 || error.suberror == 4, wordCount > 0 {
                words[wordCount - 1] = 0
            }
        case .systemEvent(let event):
            words = event.data
            wordCount = event.count
        case .hypercall(let call):
            for index in 0..<6 { words[index] = call.arguments[index] }
            wordCount = 6
        case .other(let reason) where Self.hasPayloadOfItsOwn(reason):
            throw .kvm(.malformed("KVM_EXIT \(reason.name) with a payload that is none"))
        default: break
        }
        return try unsafe withUnsafeBytes(of: &words) { words throws(ExecutionError) -> Bool in
            // SAFETY: the buffer is the loop's own array, and `wordCount` is at most 16.
            let data = unsafe UnsafeRawBufferPointer(rebasing: words[..<(wordCount * 8)])
            let detail: ExitDetail<UnsafeRawBufferPointer>
            switch exit {
            case .internalError(let error):
                unsafe detail = .internalError(suberror: error.suberror, data: data)
            case .systemEvent(let event):
                unsafe detail = .systemEvent(type: event.type, data: data)
            case .failEntry(let hardwareReason, _):
                // The CPU number is the host's, and observed.
                unsafe detail = .failEntry(hardwareReason: hardwareReason, cpu: 0)
            case .exception(let vector, let errorCode):
                unsafe detail = .exception(vector: vector, errorCode: errorCode)
            case .debug(let stop):
                unsafe detail = .debug(
                    exception: stop.exception, pc: stop.pc.rawValue, dr6: stop.dr6, dr7: stop.dr7)
            case .hypercall(let call):
                unsafe detail = .hypercall(
                    number: call.number, isLongMode: call.isLongMode, arguments: data)
            case .hlt, .shutdown:
                unsafe detail = .plain(exit.reason)
            default:
                return try cpu.withPayload { payload throws(ExecutionError) in
                    try unsafe payload.withUnsafeBytes { bytes throws(ExecutionError) in
                        try unsafe side.exit(
                            .other(exit.reason, data: bytes), flags: [], rewind: 0,
                            registers: registers,
                            system: system, entered: entered, returned: returned)
                    }
                }
            }
            return try unsafe side.exit(
                detail, flags: [], rewind: rewind, registers: registers, system: system,
                entered: entered,
                returned: returned)
        }
    }
}
