import Execution
import Guest
import Machine
import Trace

/// A world and listener that answer from a script and write down all they are told.
struct ScriptedSide: PlainWorld, PlainListener, ~Copyable {
    /// One call, in the order of the calls.
    enum Call: Equatable {
        case exit(ExitDetail<[UInt8]>, rewind: UInt8, rax: UInt64)
        case answer(AnswerForm, [UInt8])
        case portOut(UInt16, size: Int, [UInt8])
        case portIn(UInt16, size: Int, count: Int)
        case memoryWrite(UInt64, [UInt8])
        case memoryRead(UInt64, count: Int)
        case readMSR(UInt32)
        case writeMSR(UInt32, UInt64)
        case verdict(Ending?)
        case completion([Change])
        case acknowledge
        case interruption(UInt8)
    }

    var calls: [Call] = []
    /// Lets instructions be completed.
    var hasCompletions = false
    /// What completions change, whatever would be right.
    var recordedChanges: [Change]?
    /// Refuses completions as a listener.
    var refusesCompletions = false
    /// Bytes given to reads, one after the other and over again.
    var input: [UInt8] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
    private var inputPosition = 0
    /// What MSRs hold; those that are not here fault.
    var msrs: [UInt32: UInt64] = [:]
    /// Vectors of interrupts that wait, the next one first.
    var interrupts: [UInt8] = []
    /// How many non-maskable interrupts wait.
    var nonMaskable = 0
    /// What it was told of CR8 and IA32_APIC_BASE, in order.
    var held: [[UInt64]] = []
    /// The exit with this number is refused by the listener.
    var refusedExit: Int?
    /// The answer with this number is refused by the listener.
    var refusedAnswer: Int?
    /// Ends the run as the exit itself would.
    var followsNature = true
    /// Ends the run after so many verdicts.
    var verdictAfter: (count: Int, verdict: Verdict)?
    /// Called with the number of exits so far, at each verdict.
    var atVerdict: (Int) -> Void = { _ in }
    /// Both stamps of each exit, in order.
    var stamps: [UInt64] = []
    private(set) var exitCount = 0
    private var answerCount = 0

    init() {}

    private mutating func nextInput() -> UInt8 {
        defer { inputPosition += 1 }
        return input[inputPosition % input.count]
    }

    // SAFETY (whole type): buffers and pointers are read or filled during the call only.
    mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        unsafe calls.append(
            .exit(copy(detail), rewind: rewind, rax: registers.pointee[.rax]))
        stamps += [entered, returned]
        defer { exitCount += 1 }
        return refusedExit != exitCount
    }

    mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        unsafe calls.append(.answer(form, Array(bytes)))
        defer { answerCount += 1 }
        return refusedAnswer != answerCount
    }

    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        unsafe calls.append(.portOut(port, size: size, Array(bytes)))
    }

    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        calls.append(.portIn(port, size: size, count: bytes.count))
        for index in 0..<bytes.count { unsafe bytes[index] = nextInput() }
    }

    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        unsafe calls.append(.memoryWrite(address.rawValue, Array(bytes)))
    }

    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        calls.append(.memoryRead(address.rawValue, count: bytes.count))
        for index in 0..<bytes.count { unsafe bytes[index] = nextInput() }
    }

    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? {
        calls.append(.readMSR(index))
        return msrs[index]
    }

    mutating func writeMSR(_ index: UInt32, _ value: UInt64) throws(ExecutionError) -> Bool {
        calls.append(.writeMSR(index, value))
        return msrs[index] != nil
    }

    mutating func timeStamp() throws(ExecutionError) -> UInt64 { 0x1122_3344_5566_7788 }

    mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer {
        CPUIDAnswer(eax: function, ebx: index, ecx: 3, edx: 4)
    }

    mutating func completesInstruction() throws(ExecutionError) -> Bool { hasCompletions }

    mutating func changesToMake(_ carriedOut: [Change]?) throws(ExecutionError) -> [Change]? {
        recordedChanges ?? carriedOut
    }

    mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool {
        calls.append(.completion(changes))
        return !refusesCompletions
    }

    mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) { held.append([taskPriorityClass, apicBase]) }

    mutating func hasInterrupt() throws(ExecutionError) -> Bool {
        !interrupts.isEmpty || nonMaskable > 0
    }

    mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool { nonMaskable > 0 }

    mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) { nonMaskable -= 1 }

    mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        calls.append(.acknowledge)
        return interrupts.removeFirst()
    }

    mutating func interruption(_ interruption: Interruption) throws(ExecutionError) -> Bool {
        calls.append(.interruption(interruption.vector))
        return true
    }

    mutating func verdict(natural: Ending?, canWake: Bool) throws(ExecutionError) -> Verdict {
        calls.append(.verdict(natural))
        atVerdict(exitCount)
        if let verdictAfter, exitCount >= verdictAfter.count { return verdictAfter.verdict }
        guard followsNature, let natural else { return .go }
        return .end(natural)
    }
}

/// A detail whose bytes outlive the call.
func copy(_ detail: ExitDetail<UnsafeRawBufferPointer>) -> ExitDetail<[UInt8]> {
    // SAFETY: the caller's buffer is alive.
    switch unsafe detail {
    case .io(let isWrite, let size, let port, let count, let data):
        .io(isWrite: isWrite, size: size, port: port, count: count, data: unsafe Array(data))
    case .mmio(let address, let length, let isWrite, let value):
        .mmio(address: address, length: length, isWrite: isWrite, value: value)
    case .rdmsr(let index, let why): .rdmsr(index: index, why: why)
    case .wrmsr(let index, let why, let value): .wrmsr(index: index, why: why, value: value)
    case .hypercall(let number, let isLongMode, let arguments):
        .hypercall(
            number: number, isLongMode: isLongMode, arguments: unsafe Array(arguments))
    case .internalError(let suberror, let data):
        .internalError(suberror: suberror, data: unsafe Array(data))
    case .failEntry(let reason, let cpu): .failEntry(hardwareReason: reason, cpu: cpu)
    case .systemEvent(let type, let data): .systemEvent(type: type, data: unsafe Array(data))
    case .exception(let vector, let code): .exception(vector: vector, errorCode: code)
    case .debug(let exception, let pc, let dr6, let dr7):
        .debug(exception: exception, pc: pc, dr6: dr6, dr7: dr7)
    case .other(let reason, let data): .other(reason, data: unsafe Array(data))
    }
}

/// 64 KiB of guest RAM.
func smallMemory(_ bytes: UInt64 = 64 << 10) throws -> GuestMemory {
    try GuestMemory(layout: RAMLayout(lengthInBytes: bytes))
}
