import Execution
import Machine
import Trace

@testable import KVM

/// A CPU that does what a script says, without KVM: for tests of what drives CPUs.
@safe
struct ScriptedCPU: PlainCPU, ~Copyable {
    /// What one run does.
    enum Step: Sendable {
        /// It exits; the bytes are what is on the run page.
        case exit(
            Exit, data: [UInt8] = [], value: UInt64 = 0, registers: GeneralRegisters? = nil,
            system: SystemRegisters? = nil)
        /// It is interrupted.
        case interrupted
        /// KVM_RUN fails.
        case failure(KVMError)
        /// Something else happens first, in the middle of the run; then the next step.
        case then(@Sendable () -> Void)
    }

    /// What a run found that an exit before it was answered with.
    enum Answer: Equatable {
        case io([UInt8])
        case mmio(UInt64)
        case msr(UInt64, fault: Bool)
    }

    private var steps: ArraySlice<Step>
    private let registers = UnsafeMutablePointer<GeneralRegisters>.allocate(capacity: 1)
    private let system = UnsafeMutablePointer<SystemRegisters>.allocate(capacity: 1)
    private let page = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 8)
    private var dataCount = 0
    private var value: UInt64 = 0
    private var pending: Exit?
    private var msrAnswer: Answer?
    /// How the exits were answered, in their order.
    private(set) var answers: [Answer] = []
    /// How often the CPU ran.
    private(set) var runCount = 0
    /// Kicks that are yet to be acknowledged.
    var kicks = 0
    /// How often somebody asked for one.
    private(set) var acknowledgements = 0

    /// - Parameter steps: what it does; after them it halts.
    init(
        _ steps: [Step], registers: GeneralRegisters = GeneralRegisters(),
        system: SystemRegisters = SystemRegisters()
    ) {
        self.steps = steps[...]
        unsafe self.registers.initialize(to: registers)
        unsafe self.system.initialize(to: system)
    }

    deinit {
        // SAFETY: allocated by the initialisers above, freed only here.
        unsafe registers.deallocate()
        unsafe system.deallocate()
        unsafe page.deallocate()
    }

    // SAFETY (whole type): the three allocations live as long as self, and `dataCount` is at most
    // the page's size.
    mutating func run() throws(KVMError) -> RunResult {
        runCount += 1
        isSettled = false
        takeAnswer()
        while let step = steps.popFirst() {
            switch step {
            case .interrupted: return .interrupted
            case .failure(let error): throw error
            case .then(let action): action()
            case .exit(let exit, let data, let value, let registers, let system):
                unsafe page.copyBytes(from: data)
                dataCount = data.count
                if case .io(let io) = exit { dataCount = io.byteCount }
                self.value = value
                if let registers { unsafe self.registers.pointee = registers }
                if let system { unsafe self.system.pointee = system }
                pending = exit
                return .exit(exit)
            }
        }
        return .exit(.hlt)
    }

    /// Notes what the exit before was answered with, as KVM would take it in.
    private mutating func takeAnswer() {
        switch pending {
        case .io(let io) where io.direction == .input:
            answers.append(.io(unsafe Array(page[..<dataCount])))
        case .mmio(let mmio) where !mmio.isWrite: answers.append(.mmio(value))
        case .rdmsr, .wrmsr: if let msrAnswer { answers.append(msrAnswer) }
        default: break
        }
        pending = nil
        msrAnswer = nil
    }

    var registersPointer: UnsafePointer<GeneralRegisters> { unsafe UnsafePointer(registers) }

    var systemRegistersPointer: UnsafePointer<SystemRegisters> { unsafe UnsafePointer(system) }

    mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: page[..<dataCount])
        var span = unsafe MutableRawSpan(_unsafeBytes: bytes)
        return try body(&span)
    }

    var mmioValue: UInt64 {
        get { value }
        set { value = newValue }
    }

    mutating func answerMSR(_ value: UInt64, fault: Bool) {
        msrAnswer = .msr(value, fault: fault)
    }

    func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: page[..<dataCount])
        return try body(unsafe RawSpan(_unsafeBytes: bytes))
    }

    mutating func acknowledgeKick() -> Bool {
        acknowledgements += 1
        defer { kicks = 0 }
        return kicks > 0
    }

    // MARK: Interrupts

    /// Further exits that settling comes to, before it is settled.
    var settlingSteps: [Exit] = []
    /// Whether it would take an interrupt once it is settled.
    var isReadyForInterrupt = true
    /// Vectors that were injected, with the number of runs before each.
    private(set) var injected: [(vector: UInt8, runs: Int)] = []
    /// Whether it was settled since the last run.
    private(set) var isSettled = false

    mutating func settle() throws(KVMError) -> Settlement {
        takeAnswer()
        guard settlingSteps.isEmpty else {
            let exit = settlingSteps.removeFirst()
            pending = exit
            return .exit(exit)
        }
        isSettled = true
        return .settled
    }

    mutating func interrupt(vector: UInt8) throws(KVMError) {
        precondition(isSettled && isReadyForInterrupt)
        injected.append((vector, runCount))
    }

    /// CR8 and IA32_APIC_BASE on the run page.
    var taskPriorityClass: UInt64 = 0
    var apicBase: UInt64 = 0xFEE0_0900
    /// How often the CPU had run when each NMI was queued.
    private(set) var nonMaskable: [Int] = []

    /// An NMI is being served, for so many questions.
    var nonMaskableBusy = 0

    mutating func takesNonMaskableInterrupt() throws(KVMError) -> Bool {
        precondition(isSettled)
        defer { nonMaskableBusy = max(0, nonMaskableBusy - 1) }
        return nonMaskableBusy == 0
    }

    mutating func nonMaskableInterrupt() throws(KVMError) {
        precondition(isSettled)
        nonMaskable.append(runCount)
    }

    /// What completions find beside registers.
    var extended = ExtendedState(mxcsr: 0x1F80, mxcsrMask: 0xFFFF, x87Status: 0, xcr0: 7)
    /// What completions changed, with the number of runs before each.
    private(set) var applied: [(changes: [Change], runs: Int)] = []

    mutating func extendedState() throws(KVMError) -> ExtendedState {
        precondition(isSettled)
        return extended
    }

    mutating func apply(_ changes: [Change]) throws(KVMError) {
        precondition(isSettled)
        applied.append((changes, runCount))
        for case .register(let register, let value) in changes {
            unsafe registers.pointee[register] = value
        }
    }

    mutating func replaceRegistersAfterOut(
        _ registers: GeneralRegisters
    ) throws(KVMError) -> Bool {
        unsafe self.registers.pointee = registers
        return true
    }

    // MARK: Exits

    static func portIn(_ port: UInt16, size: UInt8 = 1, count: UInt32 = 1) -> Step {
        .exit(
            .io(PortIO(direction: .input, size: size, port: port, count: count, dataOffset: 0)),
            data: [UInt8](repeating: 0xAA, count: Int(size) * Int(count)))
    }

    static func portOut(
        _ port: UInt16, _ data: [UInt8], size: UInt8 = 1, registers: GeneralRegisters? = nil,
        system: SystemRegisters? = nil
    ) -> Step {
        .exit(
            .io(
                PortIO(
                    direction: .output, size: size, port: port,
                    count: UInt32(data.count / Int(size)), dataOffset: 0)),
            data: data, registers: registers, system: system)
    }

    static func read(_ address: UInt64, size: UInt8) -> Step {
        .exit(
            .mmio(MMIO(address: GuestPhysicalAddress(address), size: size, isWrite: false)),
            value: 0xAAAA_AAAA_AAAA_AAAA)
    }

    static func write(_ address: UInt64, size: UInt8, _ value: UInt64) -> Step {
        .exit(
            .mmio(MMIO(address: GuestPhysicalAddress(address), size: size, isWrite: true)),
            value: value)
    }

    static func rdmsr(_ index: UInt32) -> Step {
        .exit(.rdmsr(MSRAccess(index: index, cause: 4, value: 0)))
    }

    static func wrmsr(_ index: UInt32, _ value: UInt64) -> Step {
        .exit(.wrmsr(MSRAccess(index: index, cause: 4, value: value)))
    }
}

/// Registers that tell one exit from another.
func registers(_ number: UInt64, rip: UInt64 = 0x1000) -> GeneralRegisters {
    var registers = GeneralRegisters()
    registers[.rax] = number
    registers[.rip] = rip
    registers[.rflags] = 2
    return registers
}
