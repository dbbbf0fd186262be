import Execution
import Guest
import Machine
import Testing
import Trace

@testable import KVM

/// When the loop lets an interrupt in: the order of what it does to a scripted CPU and world.
@Suite struct InterruptDeliveryTests {
    private static let interruptsOn: UInt64 = 0x202
    private static let interruptsOff: UInt64 = 0x2

    private func run(
        _ runs: [CPU.Step], settling: [Settlement] = [], interrupts: [UInt8] = [0x20],
        readiness: [Bool] = [], exitLimit: UInt64 = .max,
        prepare: (inout Side) -> Void = { _ in }
    ) throws -> (outcome: LoopOutcome, journal: [String]) {
        let journal = Journal()
        var cpu = CPU(journal, runs, settling: settling, readiness: readiness)
        var side = Side(journal, interrupts)
        prepare(&side)
        var loop = RunLoop(
            behaviour: HostBehaviour(), exitLimit: exitLimit, stop: StopRequest())
        let memory = try GuestMemory(layout: RAMLayout(lengthInBytes: 1 << 20))
        let outcome = try loop.run(&cpu, &side, memory: memory)
        return (outcome, journal.entries)
    }

    private let halted = LoopOutcome.ended(Ending(.halted))

    // MARK: Settling

    @Test func `an IN is finished before the interrupt comes`() throws {
        let result = try run([.portIn(0x3FD), .halt])
        #expect(result.outcome == halted)
        #expect(
            result.journal == [
                "run", "told of in 0x3fd", "answered", "settle", "acknowledge",
                "told of interrupt 0x20", "interrupt 0x20", "run", "told of hlt",
                "verdict on halted, can wake",
            ])
    }

    @Test func `further exits of the same instruction come before the interrupt`() throws {
        let further = Exit.mmio(
            MMIO(address: GuestPhysicalAddress(0xD000_1000), size: 3, isWrite: false))
        let result = try run(
            [.read(0xD000_0FFB, 5), .halt], settling: [.exit(further), .exit(.intr)])
        #expect(result.outcome == halted)
        #expect(
            result.journal == [
                "run", "told of read at 0xd0000ffb", "answered", "settle",
                "told of read at 0xd0001000", "answered", "settle", "settle",
                "acknowledge", "told of interrupt 0x20", "interrupt 0x20", "run", "told of hlt",
                "verdict on halted, can wake",
            ])
    }

    @Test func `an end at a further exit leaves the interrupt out`() throws {
        let further = Exit.mmio(
            MMIO(address: GuestPhysicalAddress(0xD000_1000), size: 3, isWrite: false))
        let result = try run(
            [.read(0xD000_0FFB, 5), .halt], settling: [.exit(further)], exitLimit: 2)
        #expect(result.outcome == .exitLimit)
        #expect(result.journal.last == "answered")
        #expect(!result.journal.contains("acknowledge"))
    }

    @Test func `a request that the further exit withdrew is not acknowledged`() throws {
        let further = Exit.mmio(
            MMIO(address: GuestPhysicalAddress(0xD000_1000), size: 3, isWrite: true))
        let result = try run([.read(0xD000_0FFB, 5), .halt], settling: [.exit(further)]) {
            $0.writesWithdraw = true
        }
        #expect(result.outcome == halted)
        #expect(!result.journal.contains("acknowledge"))
        #expect(!result.journal.contains { $0.hasPrefix("interrupt") })
    }

    // MARK: Held back

    @Test func `IF = 0 holds the interrupt back until an exit where it is 1`() throws {
        let result = try run([
            .portIn(0x60, flags: Self.interruptsOff), .portIn(0x61, flags: Self.interruptsOff),
            .portOut(0x80), .halt,
        ])
        #expect(result.outcome == halted)
        #expect(
            result.journal == [
                "run", "told of in 0x60", "answered",
                "run", "told of in 0x61", "answered",
                "run", "told of out 0x80", "settle", "acknowledge",
                "told of interrupt 0x20", "interrupt 0x20", "run", "told of hlt",
                "verdict on halted, can wake",
            ])
    }

    @Test func `a CPU that is not ready holds the interrupt back until it is`() throws {
        let result = try run(
            [.portOut(0x80), .portOut(0x81), .halt], readiness: [false, true])
        #expect(
            result.journal == [
                "run", "told of out 0x80", "settle",
                "run", "told of out 0x81", "settle", "acknowledge",
                "told of interrupt 0x20", "interrupt 0x20", "run", "told of hlt",
                "verdict on halted, can wake",
            ])
    }

    @Test func `kicks and windows are no exits, and nothing is done at them`() throws {
        let result = try run([.kick, .window, .halt])
        #expect(
            result.journal == [
                "run", "kick withdrawn", "run", "run", "told of hlt",
                "verdict on halted, can wake",
            ])
    }

    @Test func `nothing is settled where no interrupt waits`() throws {
        let result = try run([.portIn(0x60), .portOut(0x80), .halt], interrupts: [])
        #expect(!result.journal.contains("settle"))
    }

    // MARK: HLT, several, and ends

    @Test func `a HLT that was waited out takes the interrupt`() throws {
        let result = try run([.halt, .halt]) { $0.waits = 1 }
        #expect(result.outcome == halted)
        #expect(
            result.journal == [
                "run", "told of hlt", "verdict on halted, can wake", "settle", "acknowledge",
                "told of interrupt 0x20", "interrupt 0x20", "run", "told of hlt",
                "verdict on halted, can wake",
            ])
    }

    @Test func `a HLT with IF = 0 is told as one that nothing wakes`() throws {
        let result = try run([.haltForGood])
        #expect(result.outcome == halted)
        #expect(result.journal == ["run", "told of hlt", "verdict on halted"])
    }

    @Test func `one interrupt an exit, in the world's order`() throws {
        let result = try run(
            [.portOut(0x80), .portOut(0x81), .halt], interrupts: [0x24, 0x20])
        #expect(
            result.journal.filter { $0.hasPrefix("interrupt") || $0.hasPrefix("told") } == [
                "told of out 0x80", "told of interrupt 0x24", "interrupt 0x24",
                "told of out 0x81", "told of interrupt 0x20", "interrupt 0x20", "told of hlt",
            ])
    }

    @Test func `a listener that refuses the interrupt ends the run before it`() throws {
        let result = try run([.portOut(0x80), .halt]) { $0.refusesInterrupts = true }
        #expect(result.outcome == .endedByListener)
        #expect(result.journal.last == "told of interrupt 0x20")
    }

    @Test func `the last exit of a limit takes no interrupt`() throws {
        let result = try run([.portOut(0x80), .halt], exitLimit: 1)
        #expect(result.outcome == .exitLimit)
        #expect(result.journal == ["run", "told of out 0x80"])
    }
}

/// What was done, by whomever, in order.
private final class Journal {
    var entries: [String] = []

    func note(_ entry: String) { entries.append(entry) }

    func note(_ what: String, _ number: some BinaryInteger) {
        entries.append("\(what) 0x" + String(number, radix: 16))
    }
}

/// A CPU that exits as it is told and writes down what is done to it.
@safe
private struct CPU: PlainCPU, ~Copyable {
    enum Step {
        case exit(Exit, flags: UInt64)
        case interrupted

        static func portIn(_ port: UInt16, flags: UInt64 = 0x202) -> Step {
            .exit(
                .io(PortIO(direction: .input, size: 1, port: port, count: 1, dataOffset: 0)),
                flags: flags)
        }

        static func portOut(_ port: UInt16) -> Step {
            .exit(
                .io(PortIO(direction: .output, size: 1, port: port, count: 1, dataOffset: 0)),
                flags: 0x202)
        }

        static func read(_ address: UInt64, _ size: UInt8) -> Step {
            .exit(
                .mmio(MMIO(address: GuestPhysicalAddress(address), size: size, isWrite: false)),
                flags: 0x202)
        }

        static let halt = Step.exit(.hlt, flags: 0x202)
        static let haltForGood = Step.exit(.hlt, flags: 0x2)
        static let kick = Step.interrupted
        static let window = Step.exit(.irqWindowOpen, flags: 0x202)
    }

    private let journal: Journal
    private var runs: ArraySlice<Step>
    private var settling: ArraySlice<Settlement>
    private var readiness: ArraySlice<Bool>
    private var hasRun = false
    private let registers = UnsafeMutablePointer<GeneralRegisters>.allocate(capacity: 1)
    private let system = UnsafeMutablePointer<SystemRegisters>.allocate(capacity: 1)
    private var data: [UInt8] = [0]
    var mmioValue: UInt64 = 0
    var taskPriorityClass: UInt64 = 0

    /// - Parameters:
    ///   - settling: what settling comes to, one after the other; then it is settled.
    ///   - readiness: what it says when settled, time after time; then it is ready.
    init(
        _ journal: Journal, _ runs: [Step], settling: [Settlement], readiness: [Bool]
    ) {
        self.journal = journal
        self.runs = runs[...]
        self.settling = settling[...]
        self.readiness = readiness[...]
        unsafe registers.initialize(to: GeneralRegisters())
        unsafe system.initialize(to: SystemRegisters())
    }

    deinit {
        // SAFETY: allocated with the value, freed only here.
        unsafe registers.deallocate()
        unsafe system.deallocate()
    }

    // SAFETY (whole type): both allocations live as long as self.
    mutating func run() throws(KVMError) -> RunResult {
        journal.note("run")
        // An exit later it may be ready.
        if hasRun { _ = readiness.popFirst() }
        hasRun = true
        switch runs.popFirst() {
        case .exit(let exit, let flags):
            unsafe registers.pointee[.rflags] = flags
            return .exit(exit)
        case .interrupted: return .interrupted
        case nil: return .exit(.hlt)
        }
    }

    mutating func settle() throws(KVMError) -> Settlement {
        journal.note("settle")
        if let step = settling.popFirst() { return step }
        isReadyForInterrupt = readiness.popFirst() ?? true
        return .settled
    }

    private(set) var isReadyForInterrupt = true

    mutating func interrupt(vector: UInt8) throws(KVMError) { journal.note("interrupt", vector) }

    var registersPointer: UnsafePointer<GeneralRegisters> { unsafe UnsafePointer(registers) }
    var systemRegistersPointer: UnsafePointer<SystemRegisters> { unsafe UnsafePointer(system) }

    mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var span = data.mutableSpan
        // SAFETY: the elements are bytes: any pattern is one.
        var bytes = unsafe span.mutableBytes
        return try body(&bytes)
    }

    mutating func answerMSR(_ value: UInt64, fault: Bool) {}

    func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: the elements are bytes.
        try unsafe body(data.span.bytes)
    }

    mutating func acknowledgeKick() -> Bool {
        journal.note("kick withdrawn")
        return true
    }

    mutating func replaceRegistersAfterOut(
        _ registers: GeneralRegisters
    ) throws(KVMError) -> Bool { false }
}

/// A world in which interrupts wait from the start, and a listener.
private struct Side: PlainWorld, PlainListener, ~Copyable {
    private let journal: Journal
    private var interrupts: [UInt8]
    /// How many HLTs are waited out.
    var waits = 0
    /// A write to device memory takes the interrupts back.
    var writesWithdraw = false
    var refusesInterrupts = false

    init(_ journal: Journal, _ interrupts: [UInt8]) {
        self.journal = journal
        self.interrupts = interrupts
    }

    mutating func hasInterrupt() throws(ExecutionError) -> Bool { !interrupts.isEmpty }

    mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 {
        journal.note("acknowledge")
        return interrupts.removeFirst()
    }

    mutating func verdict(
        natural: Ending?, canWake: Bool
    ) throws(ExecutionError) -> Verdict {
        guard let natural else { return .go }
        let reason = natural.reason == .halted ? "halted" : "\(natural.reason)"
        journal.note("verdict on \(reason)" + (canWake ? ", can wake" : ""))
        guard waits > 0 else { return .end(natural) }
        waits -= 1
        return .go
    }

    // SAFETY (the rest of the type): nothing of the pointers is kept.
    mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool {
        switch unsafe detail {
        case .io(let isWrite, _, let port, _, _):
            journal.note(isWrite ? "told of out" : "told of in", port)
        case .mmio(let address, _, let isWrite, _):
            journal.note(isWrite ? "told of write at" : "told of read at", address.rawValue)
        default: journal.note("told of \(unsafe detail.reason.name)")
        }
        return true
    }

    mutating func answer(
        _ form: AnswerForm, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        journal.note("answered")
        return true
    }

    mutating func interruption(
        _ interruption: Interruption
    ) throws(ExecutionError) -> Bool {
        journal.note("told of interrupt", interruption.vector)
        return !refusesInterrupts
    }

    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {}

    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {}

    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        if writesWithdraw { interrupts = [] }
    }

    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {}

    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? { nil }

    mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool { false }

    mutating func timeStamp() throws(ExecutionError) -> UInt64 { 0 }

    mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer { CPUIDAnswer(eax: 0, ebx: 0, ecx: 0, edx: 0) }
}
