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
    public private(set) var unansweredExit: Exit?
    /// The last exit that is neither a port access nor one to device memory.
    private var other = Exit.unknown(hardwareReason: 0)
    private var finder: InstructionFinder
    /// Words of rare exits, laid out as the trace takes them.
    private var words: InlineArray<16, UInt64> = InlineArray(repeating: 0)
    private let exitLimit: UInt64
    private let stop: StopRequest

    /// Makes a loop.
    ///
    /// - Parameters:
    ///   - behaviour: where RIP stands in exits of this host.
    ///   - exitLimit: how many exits to make at most.
    ///   - stop: where others ask for an end.
    public init(behaviour: HostBehaviour, exitLimit: UInt64 = .max, stop: StopRequest) {
        finder = InstructionFinder(behaviour)
        self.exitLimit = exitLimit
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
        switch try side.verdict(natural: nil) {
        case .go: break
        case .end(let ending): return .ended(ending)
        case .endOfTape: return .endOfTape
        }
        while true {
            let entered = HostThread.timestamp()
            let step: RunStep
            do throws(KVMError) { step = try cpu.run(other: &other) } catch { throw .kvm(error) }
            let returned = HostThread.timestamp()
            let goesOn: Bool
            var ending: Ending?
            switch step {
            case .io(let io):
                goesOn = try handle(
                    io, &cpu, &side, memory: memory, entered: entered, returned: returned)
            case .mmio(let mmio):
                goesOn = try handle(
                    mmio, &cpu, &side, memory: memory, entered: entered, returned: returned)
            case .other:
                if case .irqWindowOpen = other { continue }
                if case .intr = other { continue }
                goesOn = try handleOther(&cpu, &side, entered: entered, returned: returned)
                ending = Self.naturalEnding(other)
            case .interrupted:
                // A kick or a signal: not an exit, and never counted.
                _ = cpu.acknowledgeKick()
                if let reason = stop.reason, stop.isInsistent {
                    return .stopped(reason, isInMidFlight: true)
                }
                continue
            }
            guard goesOn else { return .endedByListener }
            exitCount += 1
            switch try side.verdict(natural: ending) {
            case .go: break
            case .end(let ending): return .ended(ending)
            case .endOfTape: return .endOfTape
            }
            if exitCount >= exitLimit { return .exitLimit }
            if let reason = stop.reason { return .stopped(reason, isInMidFlight: false) }
        }
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
        let rewind = unsafe finder.rewind(
            portAccess: isWrite ? .output : .input, port: io.port, size: size,
            count: Int(io.count), registers: registers, system: system, memory: memory)
        return try cpu.withIOData { (data: inout MutableRawSpan) throws(ExecutionError) in
            try unsafe data.withUnsafeMutableBytes { bytes throws(ExecutionError) in
                let sent = unsafe UnsafeRawBufferPointer(
                    start: bytes.baseAddress, count: isWrite ? bytes.count : 0)
                guard
                    try unsafe side.exit(
                        .io(
                            isWrite: isWrite, size: UInt8(size), port: io.port,
                            count: UInt32(io.count), data: sent), rewind: rewind,
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
        let rewind = unsafe finder.rewind(
            memoryAccess: mmio.isWrite, length: length, registers: registers, system: system,
            memory: memory)
        var value = mmio.isWrite ? cpu.mmioValue : 0
        guard
            try unsafe side.exit(
                .mmio(
                    address: mmio.address, length: UInt8(length), isWrite: mmio.isWrite,
                    value: value),
                rewind: rewind, registers: registers, system: system, entered: entered,
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

    @inline(never)
    private mutating func handleOther<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        switch other {
        case .rdmsr(let access):
            guard
                try unsafe side.exit(
                    .rdmsr(index: access.index, why: access.cause), rewind: 0,
                    registers: registers, system: system, entered: entered, returned: returned)
            else { return false }
            let value = try side.readMSR(access.index)
            cpu.answerMSR(value ?? 0, fault: value == nil)
            return try answerMSR(value, &side)
        case .wrmsr(let access):
            guard
                try unsafe side.exit(
                    .wrmsr(index: access.index, why: access.cause, value: access.value),
                    rewind: 0, registers: registers, system: system, entered: entered,
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
        if case .hlt = exit { unsafe rewind = finder.rewindOfHLT(system: system) } else { rewind = 0 }
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
                            .other(exit.reason, data: bytes), rewind: 0, registers: registers,
                            system: system, entered: entered, returned: returned)
                    }
                }
            }
            return try unsafe side.exit(
                detail, rewind: rewind, registers: registers, system: system, entered: entered,
                returned: returned)
        }
    }
}
