import Execution
import Guest
import Machine
import Testing
import Trace

@testable import KVM

/// Interrupts in mid-flight: where they are injected, and that a replay finds the place again.
@Suite struct MidFlightTests {
    struct Kind: Sendable {
        /// Instructions of the loop that the guest runs.
        var loop: UInt64
        /// The registers differ from one round of the loop to the next.
        var registersTell: Bool
        var hasCounter: Bool
        /// Kicks that come milliseconds late, the first ones.
        var lateKicks = 0
        /// The first instruction of the loop faults, and pushes its flags.
        var faults = false
        /// The loop is inside of another, 300 rounds each time; an instruction takes a microsecond.
        var isNested = false
        /// The first stretch with a breakpoint ends by an exit that nobody counts.
        var opensWindow = false
    }

    private static let kinds: [Kind] = [1, 2, 7, 50, 3000].flatMap { loop in
        [true, false].flatMap { tell in
            [true, false].map { Kind(loop: loop, registersTell: tell, hasCounter: $0) }
        }
    }

    private func run(
        _ kind: Kind, seed: UInt64, tape: Interruption? = nil
    ) throws -> (outcome: LoopOutcome, place: UInt64?, side: Findings, counts: MidFlightCounts) {
        let memory = try smallMemory()
        var cpu = LoopingCPU(kind, seed: seed, memory)
        var side = OneInterrupt(tape)
        if kind.isNested {
            // 0x1000: nop; nop; jnz 0x1000; jmp 0x1000
            let code: [UInt8] = [0x90, 0x90, 0x75, 0xFC, 0xEB, 0xFA]
            try memory.write(GuestPhysicalAddress(0x1000), code[...])
        }
        var behaviour = HostBehaviour()
        behaviour.breakpointRing0 = .yes
        behaviour.instructionCounter = kind.hasCounter ? .yes : .no
        var loop = RunLoop(behaviour: behaviour, stop: StopRequest())
        let outcome = try loop.run(&cpu, &side, memory: memory)
        let isArmed = cpu.isArmed
        #expect(!isArmed)
        return (outcome, cpu.injectedAt, side.findings, loop.midFlight)
    }

    @Test(arguments: kinds)
    func `the place is found again exactly`(_ kind: Kind) throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            let recorded = try run(kind, seed: seed)
            #expect(recorded.outcome == .ended(Ending(.halted)))
            let interruption = try #require(recorded.side.interruption)
            #expect((interruption.landmark?.progress != nil) == kind.hasCounter)
            #expect(recorded.place != nil)
            let replayed = try run(kind, seed: seed &* 977, tape: interruption)
            #expect(replayed.outcome == .ended(Ending(.halted)))
            #expect(replayed.place == recorded.place)
            #expect(replayed.side.interruption == interruption)
            #expect(replayed.counts.hits == replayed.counts.rejectedHits + 1)
        }
    }

    @Test(arguments: kinds)
    func `a state that never comes ends the search with a report`(_ kind: Kind) throws {
        var interruption = try #require(try run(kind, seed: 3).side.interruption)
        interruption.landmark?.state.low ^= 1
        let replayed = try run(kind, seed: 4, tape: interruption)
        #expect(replayed.outcome == .endedByListener)
        #expect(replayed.place == nil)
        let miss = try #require(replayed.side.miss)
        #expect(miss.hits >= 1)
        #expect(miss.hits == miss.rejectedHits)
        #expect(miss.lines.first?.contains("finds no place") == true)
    }

    @Test func `a guest that ran too far is put back and searched again`() throws {
        let kind = Kind(loop: 7, registersTell: false, hasCounter: true)
        for seed in 1...20 as ClosedRange<UInt64> {
            let recorded = try run(kind, seed: seed)
            let interruption = try #require(recorded.side.interruption)
            var late = kind
            // Four slices end at the breakpoint; the fifth is the first without it.
            late.lateKicks = 5
            let replayed = try run(late, seed: seed &* 977, tape: interruption)
            #expect(replayed.outcome == .ended(Ending(.halted)))
            #expect(replayed.place == recorded.place)
            #expect(replayed.counts.repairs == 1)
        }
        // Once is enough.
        let long = Kind(loop: 8000, registersTell: false, hasCounter: true, lateKicks: 9)
        var interruption = try #require(try run(kind, seed: 5).side.interruption)
        interruption.landmark?.registers[.rip] = 1
        interruption.landmark?.progress = 3000
        let replayed = try run(long, seed: 6, tape: interruption)
        #expect(replayed.counts.repairs == 1)
        #expect(replayed.side.miss != nil)
    }

    @Test(arguments: [true, false])
    func `what a step pushes on a fault does not show in the guest`(hasCounter: Bool) throws {
        var kind = Kind(loop: 7, registersTell: false, hasCounter: hasCounter)
        kind.faults = true
        for seed in 1...20 as ClosedRange<UInt64> {
            let recorded = try run(kind, seed: seed)
            let interruption = try #require(recorded.side.interruption)
            let replayed = try run(kind, seed: seed &* 977, tape: interruption)
            #expect(replayed.side.miss == nil)
            #expect(replayed.place == recorded.place)
        }
    }

    /// Where nothing counts, a replay stops at each pass of the place.
    @Test(arguments: [true, false])
    func `where nothing counts, the place is taken out of a hot loop`(hasCounter: Bool) throws {
        var kind = Kind(loop: 3, registersTell: false, hasCounter: hasCounter)
        kind.isNested = true
        for seed in 1...4 as ClosedRange<UInt64> {
            let recorded = try run(kind, seed: seed)
            let interruption = try #require(recorded.side.interruption)
            let rip = try #require(interruption.landmark?.registers.rip)
            // With a counter it is where the kick found the guest, one time or the other.
            guard !hasCounter else { continue }
            #expect(rip == LoopingCPU.endOfLoop)
            let replayed = try run(kind, seed: seed &* 977, tape: interruption)
            #expect(replayed.place == recorded.place)
            #expect(replayed.counts.steps <= 12)
        }
    }

    @Test func `an exit that nobody counts on the way to a place takes no kick away`() throws {
        var kind = Kind(loop: 3, registersTell: false, hasCounter: false)
        kind.isNested = true
        kind.opensWindow = true
        #expect(try run(kind, seed: 1).place != nil)
    }

    @Test func `a guest that exits before its landmark is left with nothing armed`() throws {
        let kind = Kind(loop: 7, registersTell: false, hasCounter: true)
        var interruption = try #require(try run(kind, seed: 3).side.interruption)
        interruption.landmark?.progress = 9010
        // Else the second search, which asks no counter, may pass where it was recorded.
        interruption.landmark?.state = .zero
        let replayed = try run(kind, seed: 4, tape: interruption)
        #expect(replayed.side.miss?.reason.contains("exits before it") == true)
    }

    @Test func `a register that never comes is named`() throws {
        let kind = Kind(loop: 7, registersTell: true, hasCounter: true)
        var interruption = try #require(try run(kind, seed: 3).side.interruption)
        interruption.landmark?.registers[.rbx] = 0x1234
        let miss = try #require(try run(kind, seed: 4, tape: interruption).side.miss)
        #expect(miss.hits == 0)
        #expect(miss.lines.contains { $0.contains("rbx recorded 0x1234, replayed 0x0") })
    }
}

/// What a world saw.
struct Findings {
    var interruption: Interruption?
    var miss: LandmarkMiss?
}

/// A CPU that runs a loop between an OUT and a HLT, and can be kicked, stepped and stopped.
@safe
private struct LoopingCPU: PlainCPU, ~Copyable {
    private static let end: UInt64 = 9000
    private let kind: MidFlightTests.Kind
    private var random: UInt64
    private var position: UInt64 = 0
    private var hasBegun = false
    private var kick: UInt64?
    private var debug = GuestDebug.off
    private(set) var injectedAt: UInt64?
    private let registers = UnsafeMutablePointer<GeneralRegisters>.allocate(capacity: 1)
    private let system = UnsafeMutablePointer<SystemRegisters>.allocate(capacity: 1)
    private var data: [UInt8] = [0]
    private var kept: UInt64?
    private var lateKicks: Int
    /// Where a fault pushes its frame.
    private let stack: UnsafeMutableRawPointer?
    private static let stackTop: UInt64 = 0x3000
    private static let rounds: UInt64 = 300
    private static let outer = 3 * rounds + 1
    /// What is executed once in a round of the outer loop.
    static let endOfLoop: UInt64 = 0x1004
    private var opensWindow: Bool
    var mmioValue: UInt64 = 0
    var taskPriorityClass: UInt64 = 0

    /// - Parameter memory: lives longer.
    init(_ kind: MidFlightTests.Kind, seed: UInt64, _ memory: borrowing GuestMemory) {
        self.kind = kind
        // SAFETY: the memory outlives the CPU, and the frame has 40 bytes.
        unsafe stack = memory.host(GuestPhysicalAddress(Self.stackTop - 40), count: 40)
        random = seed
        lateKicks = kind.lateKicks
        opensWindow = kind.opensWindow
        unsafe registers.initialize(to: GeneralRegisters())
        // 64-bit code.
        var long = SystemRegisters()
        long[.cr0] = 1
        long[.efer] = 0x501
        long[.cs] = Segment(selector: 8, type: 0xB, l: true)
        unsafe system.initialize(to: long)
        unsafe registers.pointee[.rsp] = Self.stackTop
        show()
    }

    deinit {
        // SAFETY: allocated with the value, freed only here.
        unsafe registers.deallocate()
        unsafe system.deallocate()
    }

    private var rip: UInt64 {
        guard kind.isNested else { return 0x1000 + position % kind.loop }
        let place = position % Self.outer
        return place == Self.outer - 1 ? Self.endOfLoop : 0x1000 + place % 3
    }

    /// Something stops it for the runner.
    var isArmed: Bool { debug != .off }

    /// Executes one instruction.
    private mutating func move() {
        if kind.isNested {
            let start = HostThread.ownNanoseconds()
            while HostThread.ownNanoseconds() &- start < 1000 {}
        }
        if kind.faults, position % kind.loop == 0 {
            let flags: UInt64 = debug.singleStep ? 0x302 : 0x202
            let frame = [0x1000, 8, flags, Self.stackTop, 0]
            for (index, word) in frame.enumerated() {
                unsafe stack?.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self)
            }
        }
        position += 1
    }

    // SAFETY (whole type): both allocations live as long as self.
    private func show() {
        unsafe registers.pointee[.rip] = rip
        unsafe registers.pointee[.rax] = kind.registersTell ? position / kind.loop : 0
        unsafe registers.pointee[.rflags] = 0x202 | (debug.singleStep ? 1 << 16 : 0)
    }

    mutating func run() throws(KVMError) -> RunResult {
        defer { show() }
        guard hasBegun else {
            hasBegun = true
            return .exit(
                .io(PortIO(direction: .output, size: 1, port: 0x80, count: 1, dataOffset: 0)))
        }
        let stop = DebugStop(exception: 1, pc: GuestVirtualAddress(0), dr6: 0, dr7: 0)
        if debug.singleStep {
            guard position < Self.end else { return .exit(.hlt) }
            move()
            return .exit(.debug(stop))
        }
        if opensWindow, !debug.breakpoints.isEmpty {
            opensWindow = false
            return .exit(.irqWindowOpen)
        }
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        // 500 to 1011 ns an instruction, and a kick that comes up to 60 us late.
        let speed = 500 + random >> 55
        var budget = kick.map { ($0 + (random >> 40) % 60_000) / speed } ?? .max
        let isLate = kick != nil && lateKicks > 0
        if isLate {
            lateKicks -= 1
            budget = .max
        }
        kick = nil
        while position < Self.end {
            let rip = rip
            if debug.breakpoints.contains(where: { $0.address.rawValue == rip }) {
                return .exit(.debug(stop))
            }
            // As late as a kick can be without an exit before it.
            guard budget > 0, !isLate || position < Self.end - 1 else { return .interrupted }
            if budget < .max { budget -= 1 }
            move()
        }
        return .exit(.hlt)
    }

    mutating func armKick(nanoseconds: UInt64) { kick = nanoseconds == 0 ? nil : nanoseconds }
    mutating func progress() -> UInt64? {
        // An instruction that faults counts, and so does the handler's first.
        let faults = kind.faults ? (position + kind.loop - 1) / kind.loop : 0
        return kind.hasCounter ? position + faults : nil
    }
    mutating func isQuiet() -> Bool { true }
    mutating func keepPlace(_ memory: borrowing GuestMemory) { kept = position }
    mutating func returnToPlace(_ memory: borrowing GuestMemory) -> Bool {
        guard let kept else { return false }
        position = kept
        debug = .off
        show()
        return true
    }
    mutating func stateDigest() -> Digest128 { Digest128(low: position) }
    func privilegedState(debugStatus: UInt64?) -> PrivilegedState { PrivilegedState(bytes: []) }
    mutating func stateDigest(
        _ privileged: PrivilegedState, interruptTableLimit: UInt16?
    ) -> Digest128 { stateDigest() }
    mutating func setGuestDebug(_ debug: GuestDebug) {
        self.debug = debug
        show()
    }
    mutating func restoreFlags(_ flags: UInt64) {}
    mutating func settle() -> Settlement { .settled }
    var isReadyForInterrupt: Bool { true }
    mutating func interrupt(vector: UInt8) { injectedAt = position }
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

    mutating func acknowledgeKick() -> Bool { true }
    mutating func replaceRegistersAfterOut(_ registers: GeneralRegisters) -> Bool { false }
}

/// A world in which one interrupt is overdue at the first kick, or stands on a tape.
private struct OneInterrupt: QuietWorld, PlainListener, ~Copyable {
    var findings = Findings()
    private let tape: Interruption?
    private var isTaken = false

    init(_ tape: Interruption?) { self.tape = tape }

    mutating func hasInterrupt() -> Bool { tape != nil && !isTaken }
    mutating func kickDelay() -> UInt64? { tape == nil && !isTaken ? 2_000_000 : nil }
    mutating func hasOverdueInterrupt() -> Bool { !isTaken }
    mutating func landmark() -> Landmark? { isTaken ? nil : tape?.landmark }
    mutating func missed(_ miss: LandmarkMiss) { findings.miss = miss }

    mutating func acknowledgeInterrupt() -> UInt8 {
        isTaken = true
        return 0x20
    }

    mutating func interruption(_ interruption: Interruption) -> Bool {
        findings.interruption = interruption
        return true
    }

    mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) -> Bool { true }

    mutating func answer(_ form: AnswerForm, _ bytes: UnsafeRawBufferPointer) -> Bool { true }
    mutating func portOut(_ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer) {}
    mutating func portIn(_ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer) {}
    mutating func memoryWrite(_ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer) {}
    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) {}
    mutating func readMSR(_ index: UInt32) -> UInt64? { nil }
    mutating func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }

    mutating func verdict(natural: Ending?, canWake: Bool) -> Verdict {
        natural.map { .end($0) } ?? .go
    }
}
