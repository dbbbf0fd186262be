import Guest
import Machine
import Testing
import Trace

@testable import Execution
@testable import KVM

/// What ring 3 needs on hosts where breakpoints and steps do not reach it, without KVM.
@Suite struct Ring3Tests {
    /// 64-bit code without paging, so that addresses are physical: no CPU's state, but all that the
    /// walks look at.
    private static func system() -> SystemRegisters {
        var system = SystemRegisters()
        system[.cr0] = 1
        system[.efer] = 0x501
        system[.cs] = Segment(selector: 8, type: 0xB, l: true)
        system.idt = DescriptorTable(base: 0x2000, limit: 0xFFF)
        return system
    }

    private static func memory(_ pieces: [(UInt64, [UInt8])]) throws -> GuestMemory {
        let memory = try smallMemory()
        for (address, bytes) in pieces {
            try memory.write(GuestPhysicalAddress(address), bytes[...])
        }
        return memory
    }

    private static func words(_ words: [UInt64]) -> [UInt8] {
        var bytes: [UInt8] = []
        for word in words { bytes.append(word: word) }
        return bytes
    }

    // MARK: SYSCALL

    private static let targets = SyscallTargets(
        star: 0x0010_0008_0000_0000, lstar: 0x5000, fmask: 0x700)

    private func syscall(_ frame: [UInt64]) throws -> BrokenSyscall? {
        var registers = GeneralRegisters()
        registers[.rip] = 0x4000
        registers[.rsp] = 0x3000
        registers[.r11] = 0x10346
        registers[.rflags] = 2
        return BrokenSyscall(
            registers: registers, system: Self.system(), targets: Self.targets,
            memory: try Self.memory([(0x3000, Self.words(frame))]))
    }

    @Test(arguments: [0x15, 0x5] as [UInt64])
    func `a fault at the target from ring 3 is a SYSCALL`(error: UInt64) throws {
        let found = try #require(
            try syscall([error, 0x5000, 0x23, 0x46, 0x7FF0, 0x1B]))
        let registers = found.changes.filter {
            if case .register = $0 { true } else { false }
        }
        // The flags of before without those that the mask clears, and without RF.
        #expect(
            registers == [
                .register(.rsp, 0x7FF0), .register(.rip, 0x5000), .register(.rflags, 0x46),
            ])
        var after = Self.system()
        for change in found.changes {
            if case .systemWord(let index, let value) = change { after.words[Int(index)] = value }
        }
        #expect(after[.cs].selector == 8)
        #expect(after[.ss].selector == 16)
        #expect(after.cpl == 0)
        #expect(after[.cs].l)
    }

    @Test(
        arguments: [
            [0x4, 0x5000, 0x23, 0x46, 0x7FF0, 0x1B], [0x15, 0x5001, 0x23, 0x46, 0x7FF0, 0x1B],
            [0x15, 0x5000, 0x08, 0x46, 0x7FF0, 0x10],
        ] as [[UInt64]])
    func `another fault is none`(frame: [UInt64]) throws {
        #expect(try syscall(frame) == nil)
    }

    // MARK: The way to ring 3 and back

    @Test func `the handler of a vector is read from the table`() throws {
        // Offset 0x1234_5678_9ABC_DEF0 in three pieces, present.
        let gate: [UInt64] = [0x9ABC_8E00_0008_DEF0, 0x1234_5678]
        let memory = try Self.memory([(0x2000 + 14 * 16, Self.words(gate))])
        #expect(
            PageWalk.handler(of: 14, system: Self.system(), memory: memory)
                == 0x1234_5678_9ABC_DEF0)
        #expect(PageWalk.handler(of: 13, system: Self.system(), memory: memory) == nil)
        var short = Self.system()
        short.idt.limit = 14 * 16 + 14
        #expect(PageWalk.handler(of: 14, system: short, memory: memory) == nil)
    }

    @Test func `gates of protected mode are half as long`() throws {
        var system = Self.system()
        system[.efer] = 0
        // A 32-bit trap gate, a 16-bit interrupt gate, a task gate, one that is not present.
        let gates: [UInt64] = [
            0x1234_8F00_0008_5678, 0x1234_8600_0008_5678, 0x0000_8500_0008_0000,
            0x1234_0F00_0008_5678,
        ]
        let memory = try Self.memory([(0x2000, Self.words(gates))])
        let found = (0..<4).map { PageWalk.handler(of: $0, system: system, memory: memory) }
        #expect(found == [0x1234_5678, 0x5678, nil, nil])
        system[.cr0] = 0
        #expect(PageWalk.handler(of: 0, system: system, memory: memory) == nil)
    }

    private func returns(_ code: [UInt8], selector: UInt64) throws -> Bool {
        var registers = GeneralRegisters()
        registers[.rip] = 0x1000
        registers[.rsp] = 0x3000
        return ReturnToRing3.isNext(
            registers, system: Self.system(),
            memory: try Self.memory([
                (0x1000, code), (0x3000, Self.words([0x7000, selector, 0x202, 0x8000, 0x1B])),
            ]))
    }

    @Test func `a return to ring 3 is told from other instructions`() throws {
        #expect(try returns([0x48, 0xCF], selector: 0x23))
        #expect(try !returns([0x48, 0xCF], selector: 0x08))
        #expect(try returns([0x48, 0x0F, 0x07], selector: 0x08))
        #expect(try !returns([0x48, 0x0F, 0x05], selector: 0x23))
        #expect(try !returns([0x90], selector: 0x23))
    }

    private static func search(at progress: UInt64, mayBeInRing3: Bool = true) -> LandmarkSearch {
        var search = LandmarkSearch(
            Landmark(registers: GeneralRegisters(), state: .zero, progress: progress))
        search.mayBeInRing3 = mayBeInRing3
        return search
    }

    @Test func `ring 3 is stopped at the place only where the counter is the landmark's`() {
        var search = Self.search(at: 1000)
        #expect(
            search.next(count: 1000, isAtBreakpoint: false, isRing3: true)
                == .runInRing3(stopsThere: true))
        #expect(
            search.next(count: 900, isAtBreakpoint: false, isRing3: true)
                == .runInRing3(stopsThere: false))
        #expect(search.next(count: 1001, isAtBreakpoint: false, isRing3: true) == .giveUp)
        var ring0 = Self.search(at: 1000, mayBeInRing3: false)
        #expect(
            ring0.next(count: 1000, isAtBreakpoint: false, isRing3: true)
                == .runInRing3(stopsThere: false))
    }

    @Test func `near a place in ring 3, ring 0 is stepped`() {
        var search = Self.search(at: 1000)
        #expect(search.next(count: 900, isAtBreakpoint: false) == .step)
        var ring0 = Self.search(at: 1000, mayBeInRing3: false)
        #expect(ring0.next(count: 950, isAtBreakpoint: false) == .runToBreakpoint)
    }

    @Test func `a return counts one`() {
        var search = Self.search(at: 1000)
        #expect(search.returnToRing3(count: 999) == .runInRing3(stopsThere: true))
        #expect(search.returnToRing3(count: 998) == .runInRing3(stopsThere: false))
        #expect(search.returnToRing3(count: 1000) == .giveUp)
    }
}

/// Kicks that come together with what ring 3 raises.
@Suite struct Ring3KickTests {
    @Test(arguments: [3, 1] as [UInt8])
    func `an exception on its way comes out before a kick counts`(vector: UInt8) throws {
        var cpu = KickedCPU(raising: vector)
        let memory = try smallMemory()
        var stops = Ring3Stops()
        let stop = try stops.run(&cpu, memory, isStep: vector == 1)
        switch (vector, stop) {
        case (3, .raised(3)), (1, .stepped): break
        default: Issue.record("vector \(vector) came to \(stop)")
        }
        #expect(cpu.runs == 2)
        // The kick that was swallowed comes again.
        #expect(cpu.kick != nil)
    }

    // KVM_GET_VCPU_EVENTS leaves INT3's exception out. A session of the debugger met it: the exception
    // came out of a step, with the INT3 gone, and was waited for ever after.
    @Test func `an INT3 of ours comes out before a kick counts, though KVM tells nothing of it`()
        throws
    {
        var system = SystemRegisters()
        system[.cr0] = 0x8000_0001
        system[.cr3] = 0x1000
        system[.cr4] = 0x10
        let memory = try smallMemory()
        // Four megabytes for ring 3.
        try memory.write(GuestPhysicalAddress(0x1000), [0x87, 0, 0, 0])
        var registers = GeneralRegisters()
        registers.rip = 0x2000
        var cpu = KickedCPU(raising: 3, isTold: false, registers, system)
        var stops = Ring3Stops()
        #expect(try stops.plant(0x2000, system: system, memory: memory) == true)
        guard case .breakpoint = try stops.run(&cpu, memory) else {
            Issue.record("it does not")
            return
        }
        #expect(cpu.runs == 2)
        // Elsewhere a kick is a kick.
        var other = KickedCPU(raising: 3, isTold: false, GeneralRegisters(), system)
        guard case .kicked = try stops.run(&other, memory) else {
            Issue.record("it is not")
            return
        }
        #expect(other.runs == 1)
        try stops.unpark(&cpu, memory)
    }

    @Test func `a step that is done comes out before a kick counts, told of or not`() throws {
        var cpu = KickedCPU(raising: 1, isTold: false)
        var stops = Ring3Stops()
        guard case .stepped = try stops.run(&cpu, try smallMemory(), isStep: true) else {
            Issue.record("it does not")
            return
        }
        #expect(cpu.runs == 2)
    }

    @Test func `a kick by itself is one`() throws {
        var cpu = KickedCPU(raising: nil)
        var stops = Ring3Stops()
        guard case .kicked = try stops.run(&cpu, try smallMemory()) else {
            Issue.record("it is not")
            return
        }
        #expect(cpu.runs == 1)
    }

    @Test(.timeLimit(.minutes(2)))
    func `an interrupt does not wait for ever, however dear a stop seems`() throws {
        var cpu = KickedCPU(raising: nil)
        var side = ScriptedSide()
        var loop = RunLoop(behaviour: HostBehaviour(), exitLimit: .max, stop: StopRequest())
        // A host that was busy during a stop.
        loop.coldPlaces.stopped(in: .max)
        guard
            case .hot = try loop.findColdPlace(
                isRing3: true, &cpu, &side, memory: try smallMemory())
        else {
            Issue.record("it is put nowhere")
            return
        }
    }
}

/// A CPU that is kicked when it has raised an exception that has not come out yet.
@safe
private struct KickedCPU: PlainCPU, ~Copyable {
    private let vector: UInt8?
    private let isTold: Bool
    private(set) var runs = 0
    private(set) var kick: UInt64?
    private let registers = UnsafeMutablePointer<GeneralRegisters>.allocate(capacity: 1)
    private let system = UnsafeMutablePointer<SystemRegisters>.allocate(capacity: 1)
    var mmioValue: UInt64 = 0
    var taskPriorityClass: UInt64 = 0

    /// - Parameter isTold: whether the exception shows before it comes out.
    init(
        raising vector: UInt8?, isTold: Bool = true,
        _ registers: GeneralRegisters = GeneralRegisters(),
        _ system: SystemRegisters = SystemRegisters()
    ) {
        self.vector = vector
        self.isTold = isTold
        unsafe self.registers.initialize(to: registers)
        unsafe self.system.initialize(to: system)
    }

    deinit {
        // SAFETY: allocated with the value, freed only here.
        unsafe registers.deallocate()
        unsafe system.deallocate()
    }

    mutating func run() throws(KVMError) -> RunResult {
        runs += 1
        // SAFETY: as below.
        if runs == 1, !isTold { unsafe registers.pointee.rip &+= 1 }
        return runs == 1 || vector == nil ? .interrupted : .exit(.shutdown)
    }

    mutating func hasEventUnderWay() -> Bool { isTold && vector != nil && runs == 1 }
    mutating func raisedException() -> UInt8 { vector ?? 0 }
    mutating func armKick(nanoseconds: UInt64) { kick = nanoseconds }
    mutating func settle() -> Settlement { .settled }
    var isReadyForInterrupt: Bool { true }
    mutating func interrupt(vector: UInt8) {}
    // SAFETY (both): the allocations live as long as self.
    var registersPointer: UnsafePointer<GeneralRegisters> { unsafe UnsafePointer(registers) }
    var systemRegistersPointer: UnsafePointer<SystemRegisters> { unsafe UnsafePointer(system) }
    mutating func withIOData<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var none: [UInt8] = [0]
        var span = none.mutableSpan
        // SAFETY: the elements are bytes: any pattern is one.
        var bytes = unsafe span.mutableBytes
        return try body(&bytes)
    }
    mutating func answerMSR(_ value: UInt64, fault: Bool) {}
    func withPayload<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let none: [UInt8] = [0]
        // SAFETY: the elements are bytes.
        return try unsafe body(none.span.bytes)
    }
    mutating func acknowledgeKick() -> Bool { true }
    mutating func replaceRegistersAfterOut(_ registers: GeneralRegisters) -> Bool { false }
}
