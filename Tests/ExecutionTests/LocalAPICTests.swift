import Devices
import Guest
import Machine
import Testing
import Trace

@testable import Execution
@testable import KVM

/// What the loop and the live world do for a local APIC: CR8, non-maskable interrupts, the deadline.
@Suite struct LocalAPICTests {
    typealias CPU = ScriptedCPU

    private struct Result {
        var outcome: LoopOutcome
        var exits: UInt64
        var taskPriorityClass: UInt64
        var nonMaskable: [Int]
        var injected: [[Int]]
        var held: [[UInt64]]
        var calls: [ScriptedSide.Call]
    }

    private func run(
        _ steps: [CPU.Step], hasLocalAPIC: Bool = true,
        prepare: (inout CPU, inout ScriptedSide) -> Void = { _, _ in }
    ) throws -> Result {
        var cpu = CPU(steps)
        var side = ScriptedSide()
        prepare(&cpu, &side)
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        loop.hasLocalAPIC = hasLocalAPIC
        let memory = try smallMemory()
        let outcome = try loop.run(&cpu, &side, memory: memory)
        return Result(
            outcome: outcome, exits: loop.exitCount, taskPriorityClass: cpu.taskPriorityClass,
            nonMaskable: cpu.nonMaskable, injected: cpu.injected.map { [Int($0.vector), $0.runs] },
            held: side.held, calls: side.calls)
    }

    private let halted = LoopOutcome.ended(Ending(.halted))

    // MARK: CR8

    @Test(
        arguments: [
            (0xFEE0_0080, 4, 0x7F, 7), (0xFEE0_0080, 8, 0xFFFF_FF30, 3),
            // Too narrow, another register, another page.
            (0xFEE0_0080, 2, 0x70, 5), (0xFEE0_00B0, 4, 0x70, 5), (0xFED0_0080, 4, 0x70, 5),
        ] as [(UInt64, UInt8, UInt64, UInt64)])
    func `a write of the task priority register is one of CR8`(
        address: UInt64, size: UInt8, value: UInt64, expected: UInt64
    ) throws {
        let result = try run([CPU.write(address, size: size, value)]) { cpu, _ in
            cpu.taskPriorityClass = 5
        }
        #expect(result.outcome == halted)
        #expect(result.taskPriorityClass == expected)
    }

    @Test func `where the APIC is off, or there is none, CR8 stays`() throws {
        let off = try run([CPU.write(0xFEE0_0080, size: 4, 0x70)]) { cpu, _ in
            cpu.apicBase = 0xFEE0_0100
        }
        #expect(off.taskPriorityClass == 0)
        let none = try run([CPU.write(0xFEE0_0080, size: 4, 0x70)], hasLocalAPIC: false)
        #expect(none.taskPriorityClass == 0)
        #expect(none.held == [])
    }

    @Test func `a read of the register, wherever the page is, leaves CR8 alone`() throws {
        let result = try run([
            CPU.read(0xFED0_0080, size: 4), CPU.write(0xFED0_0080, size: 4, 0x40),
        ]) { cpu, _ in cpu.apicBase = 0xFED0_0900 }
        #expect(result.taskPriorityClass == 4)
        #expect(result.held == [[0, 0xFED0_0900], [0, 0xFED0_0900], [4, 0xFED0_0900]])
    }

    @Test func `the world is told before each exit, and after a kick`() throws {
        let result = try run([CPU.portOut(1, [1]), .interrupted]) { cpu, _ in
            cpu.taskPriorityClass = 9
        }
        #expect(result.held == Array(repeating: [9, 0xFEE0_0900], count: 3))
    }

    @Test func `an exit because CR8 was lowered is recorded, and needs no answer`() throws {
        let result = try run([.exit(.setTPR, data: [1, 2, 3])])
        #expect(result.outcome == halted)
        #expect(result.exits == 2)
        #expect(
            result.calls.prefix(3) == [
                .verdict(nil), .exit(.other(.setTPR, data: []), rewind: 0, rax: 0), .verdict(nil),
            ])
    }

    // MARK: Non-maskable interrupts

    @Test func `an NMI comes with interrupts off, and before those that wait`() throws {
        var on = registers(2)
        on[.rflags] = 0x202
        let result = try run([
            CPU.portOut(1, [1], registers: registers(1)),
            CPU.portOut(1, [2], registers: on),
        ]) { cpu, side in
            cpu.isReadyForInterrupt = true
            side.nonMaskable = 1
            side.interrupts = [0x40]
        }
        #expect(result.nonMaskable == [1])
        #expect(result.injected == [[0x40, 2]])
        let told = result.calls.compactMap { call -> UInt8? in
            if case .interruption(let vector) = call { vector } else { nil }
        }
        #expect(told == [2, 0x40])
    }

    @Test func `an NMI waits for an exit at which the CPU takes it`() throws {
        let result = try run([CPU.portOut(1, [1]), CPU.portOut(1, [2]), CPU.portOut(1, [3])]) {
            cpu, side in
            cpu.nonMaskableBusy = 2
            side.nonMaskable = 1
        }
        #expect(result.nonMaskable == [3])
    }

    @Test func `what an exit left pending is finished before an NMI`() throws {
        let result = try run([CPU.read(0xD000_0FFC, size: 8)]) { cpu, side in
            cpu.settlingSteps = [
                .mmio(MMIO(address: GuestPhysicalAddress(0xD000_1000), size: 4, isWrite: false))
            ]
            side.nonMaskable = 1
        }
        #expect(result.exits == 3)
        #expect(result.nonMaskable == [1])
    }

    // MARK: The live world

    /// A world whose CPUID shows the deadline or not, its APIC enabled, its timer in deadline mode.
    private static func world(
        _ machine: MachineKind = .pcAPIC, showsDeadline: Bool = true
    ) throws -> LiveWorld {
        let leaf = CPUIDEntry(
            function: 1, index: 0, isIndexSignificant: false, eax: 0, ebx: 0,
            ecx: showsDeadline ? 1 << 24 : 0, edx: 0)
        var world = LiveWorld(
            devices: try DeviceSet(.init(machine: machine)),
            clock: .virtual(nanosecondsPerExit: 1000), cpuidTable: [leaf])
        try write(&world, 0xF0, 0x1FF)
        try write(&world, 0x320, 0x4_0041)
        return world
    }

    private static func write(
        _ world: inout LiveWorld, _ register: UInt64, _ value: UInt32
    ) throws {
        // SAFETY: the buffer is the local number.
        try unsafe withUnsafeBytes(of: value.littleEndian) {
            try unsafe world.memoryWrite(
                GuestPhysicalAddress(0xFEE0_0000 + register), bytes: $0)
        }
    }

    private static let deadline: UInt32 = 0x6E0

    @Test func `the deadline is the counter's, and wakes a HLT`() throws {
        var world = try Self.world()
        #expect(try world.readMSR(Self.deadline) == 0)
        #expect(try world.writeMSR(Self.deadline, 50_000) == true)
        #expect(try world.readMSR(Self.deadline) == 50_000)
        #expect(try world.verdict(natural: Ending(.halted), canWake: true) == .go)
        #expect(try world.acknowledgeInterrupt() == 0x41)
        #expect(try world.readMSR(Self.deadline) == 0)
        let now = try world.timeStamp()
        #expect(now >= 50_000 && now < 60_000)
    }

    @Test func `a counter that is written takes the deadline along`() throws {
        var world = try Self.world()
        #expect(try world.writeMSR(Self.deadline, 1_000_000) == true)
        #expect(try world.hasInterrupt() == false)
        // The counter is set beyond it.
        #expect(try world.writeMSR(0x10, 2_000_000) == true)
        #expect(try world.hasInterrupt() == true)
        #expect(try world.acknowledgeInterrupt() == 0x41)
    }

    @Test(
        arguments: [(MachineKind.pcAPIC, false), (.pc, true), (.bare, true)]
            as [(MachineKind, Bool)])
    func `what CPUID does not show is not there`(machine: MachineKind, showsDeadline: Bool) throws {
        var world = try Self.world(machine, showsDeadline: showsDeadline)
        let isThere = showsDeadline && machine.hasAPIC
        #expect(try (world.readMSR(Self.deadline) != nil) == isThere)
        #expect(try world.writeMSR(Self.deadline, 5) == isThere)
    }

    @Test func `CPUID shows the APIC as its base says`() throws {
        let leaf = CPUIDEntry(
            function: 1, index: 0, isIndexSignificant: false, eax: 0, ebx: 0, ecx: 0,
            edx: 0xFFFF_FFFF)
        var world = LiveWorld(
            devices: try DeviceSet(.init(machine: .pcAPIC)), cpuidTable: [leaf])
        var system = SystemRegisters()
        system[.apicBase] = 0xFEE0_0900
        #expect(try world.cpuid(function: 1, index: 0, system: system).words[3] == 0xFFFF_FFFF)
        system[.apicBase] = 0xFEE0_0100
        #expect(try world.cpuid(function: 1, index: 0, system: system).words[3] == 0xFFFF_FDFF)
    }
}
