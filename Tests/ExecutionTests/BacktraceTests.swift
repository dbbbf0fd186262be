import Devices
import Guest
import KVM
import Machine
import Symbols
import TestSupport
import Testing

@testable import Execution

/// A sample guest that was run to an exit and stands there.
private struct StandingGuest: ~Copyable {
    let machine: GuestMachine
    let symbolizer: Symbolizer
    let name: String

    init(_ name: String, atExit exit: UInt64) throws {
        let host = try Host()
        let plan = try TestGuest(name).plan()
        let cpuid = try host.guestCPUID()
        var machine = try GuestMachine(hypervisor: host.hypervisor, plan: plan, cpuid: cpuid)
        let stop = StopRequest()
        var side = Attended(
            world: LiveWorld(
                devices: try DeviceSet(
                    .init(serial: .none, machine: name == "timer" ? .pc : .bare),
                    input: ConsoleInput()),
                clock: .virtual(nanosecondsPerExit: 1000), cpuidTable: cpuid, stop: stop,
                hasCompletions: true),
            listener: NoListener())
        _ = try machine.runSupervised(
            behaviour: host.probe.behaviour, exitLimit: exit + 1,
            cpu: try VCPUPlacement.choose(nil), stop: stop,
            supervision: Supervisor.Configuration(), callbacks: SessionCallbacks(), side: &side)
        let symbolizer = Symbolizer()
        try symbolizer.addGuestImage(elf: plan.image, name: name)
        self.symbolizer = symbolizer
        self.name = name
        self.machine = machine
    }

    func backtrace() -> Backtrace {
        let system = machine.currentSystemRegisters
        return Unwinder(symbolizer).backtrace(machine.currentRegisters, system) {
            PageWalk.read($0, count: $1, system: system, memory: machine.memory)
        }
    }

    func writeCore(_ path: String, originals: [CoreFile.Original] = []) throws -> CoreFile {
        try CoreFile.write(
            to: path,
            cpus: [
                .init(
                    registers: machine.currentRegisters, system: machine.currentSystemRegisters)
            ], memory: machine.memory, originals: originals, program: name,
            title: "exit of a sample")
    }
}

/// What gdb says of a core file.
private enum GDB {
    static let path = "/usr/bin/gdb"
    static var isThere: Bool { RealKVM.isThere && Files.exists(path) }
    static var comment: Comment {
        RealKVM.isThere ? "needs gdb: \(path) is not there" : RealKVM.comment
    }

    static func run(_ name: String, _ core: String, _ commands: [String]) throws -> String {
        var arguments = ["-batch", "-nx", "-iex", "set debuginfod enabled off"]
        for command in commands { arguments += ["-ex", command] }
        arguments += [Files.sample(name), core]
        let result = try ChildProcess.run(arguments, program: path)
        return result.output + result.errors
    }

    /// Program counter and stack pointer of each frame; those that are inlined have their
    /// function's, and are left out.
    static func frames(_ name: String, _ core: String) throws -> [[UInt64]] {
        let text = try run(
            name, core, ["frame apply all -q p/x $pc", "frame apply all -q p/x $sp"])
        let lines: [Substring] = text.split(separator: "\n")
        let numbers = lines.compactMap { line -> UInt64? in
            guard line.hasPrefix("$"), let x = line.lastIndex(of: "x") else { return nil }
            return UInt64(line[line.index(after: x)...], radix: 16)
        }
        var frames: [[UInt64]] = []
        for index in 0..<numbers.count / 2 {
            let frame = [numbers[index], numbers[numbers.count / 2 + index]]
            if frames.last != frame { frames.append(frame) }
        }
        return frames
    }
}

/// Backtraces and core files of real guests.
@Suite(.serialized) struct BacktraceTests {
    /// A sample and exits of it, at different depths of its stack.
    struct Position: Sendable, CustomTestStringConvertible {
        var guest: String
        var exits: [UInt64]
        var testDescription: String { guest }
    }

    static let positions = [
        Position(guest: "swift-kernel", exits: [3, 97, 150, 200]),
        Position(guest: "echo", exits: [50, 91]),
        Position(guest: "mmio", exits: [10, 555]),
        Position(guest: "ring3", exits: [50, 400]),
        Position(guest: "triple-fault", exits: [3, 50, 238]),
        Position(guest: "timer", exits: [3, 50, 332]),
    ]

    /// gdb follows call frame information as we do, and guesses where there is none; it is
    /// compared as far as the former goes.
    @Test(.enabled(if: GDB.isThere, GDB.comment), arguments: positions)
    func backtracesAreThoseOfGDB(_ position: Position) throws {
        for exit in position.exits {
            let directory = try TemporaryDirectory()
            let guest = try StandingGuest(position.guest, atExit: exit)
            let backtrace = guest.backtrace()
            let core = directory.file("core")
            _ = try guest.writeCore(core)
            let sure = backtrace.frames.dropFirst().prefix { $0.source == .callFrameInformation }
            let ours = backtrace.frames.prefix(1 + sure.count).map {
                [$0.registers.rip, $0.registers[.rsp]]
            }
            let theirs = try GDB.frames(position.guest, core)
            #expect(theirs.starts(with: ours), "\(position.guest) at exit \(exit): \(backtrace)")
            #expect(ours.count >= 2)
        }
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment), arguments: positions)
    func backtracesReachTheFirstFunction(_ position: Position) throws {
        for exit in position.exits {
            let backtrace = try StandingGuest(position.guest, atExit: exit).backtrace()
            #expect(backtrace.isComplete)
            let first = backtrace.frames.last?.name?.function
            #expect(first == "_start" || position.guest == "ring3" && first == "user_main")
        }
    }

    @Test(.enabled(if: RealKVM.isThere, RealKVM.comment))
    func interruptedCodeIsFoundBehindAnAssemblyHandler() throws {
        let functions = { (backtrace: Backtrace) in backtrace.frames.map { $0.name?.function } }
        // Before it prints time stamps: how many digits the host's have depends on how long it is up.
        let timer = try StandingGuest("timer", atExit: 20).backtrace()
        #expect(
            functions(timer) == [
                "interrupt", "interrupt_arrived", "interrupt_common", "kernel_main", "_start",
            ])
        #expect(timer.frames.map(\.isExact) == [true, false, false, true, false])
        #expect(timer.frames[3].source == .interruptReturn)
        // The interrupted function's registers are what the handler saved.
        #expect(timer.frames[3][.rflags].map { $0 & 0x200 } == 0x200)
        let fault = try StandingGuest("triple-fault", atExit: 3).backtrace()
        #expect(
            functions(fault) == [
                "uart_write_byte", "uart_write", "exception", "exception_common", "work",
                "kernel_main", "_start",
            ])
    }

    @Test(.enabled(if: GDB.isThere, GDB.comment))
    func gdbReadsRegistersMemoryAndSourceFromACore() throws {
        let directory = try TemporaryDirectory()
        let guest = try StandingGuest("mmio", atExit: 10)
        let path = directory.file("core")
        let core = try guest.writeCore(path)
        #expect(core.hasPhysicalMemory && core.hasAllMappings)
        #expect(Files.mode(path) == 0o600)
        #expect(!Files.exists(path + ".partial"))
        let registers = guest.machine.currentRegisters
        let top = try guest.machine.memory.read(
            PageWalk.translate(
                GuestVirtualAddress(registers[.rsp]),
                system: guest.machine.currentSystemRegisters,
                memory: guest.machine.memory)?.address ?? GuestPhysicalAddress(0), count: 8)
        var word: UInt64 = 0
        for byte in top.reversed() { word = word << 8 | UInt64(byte) }
        let text = try GDB.run(
            "mmio", path,
            [
                "p/x $rip", "p/x $rsp", "p/x $cs", "x/gx $rsp", "bt", "x/s kernel_main - 0",
                "x/8bx 0x4000000000100000", "info inferiors",
            ])
        #expect(text.contains("= 0x\(String(registers.rip, radix: 16))\n"))
        #expect(text.contains("= 0x\(String(registers[.rsp], radix: 16))\n"))
        let zeros = String(repeating: "0", count: 16 - hex(word).count)
        #expect(text.contains("0x\(zeros)\(hex(word))"))
        #expect(text.contains("kernel_main"))
        #expect(text.contains("mmio.c:"))
        #expect(text.contains("0x4000000000100000:"))
        #expect(!text.contains("Cannot access memory"))
        #expect(!text.contains("warning"))
        #expect(text.contains("exit of a sample"))
    }

    /// A 32-bit guest gives an ELF32 core. It is loaded, and not run: nothing here needs KVM.
    @Test(.enabled(if: Files.exists(GDB.path), "needs gdb: \(GDB.path) is not there"))
    func gdbReadsACoreOfThirtyTwoBits() throws {
        let directory = try TemporaryDirectory()
        let image = "\(Files.repository)/Tests/SymbolsTests/Fixtures/kernel32.elf"
        let plan = try LoadPlan(
            image: GuestFile(path: image), ram: RAMLayout(lengthInBytes: 4 << 20))
        let memory = try GuestMemory(layout: plan.ram)
        try plan.apply(to: memory)
        let symbolizer = Symbolizer()
        try symbolizer.addGuestImage(elf: plan.image, name: image)
        let write = try #require(symbolizer.addresses(ofSymbol: "uart_write").first)
        // As if _start had called it: at its first instruction, the return address on the stack.
        var registers = plan.registers
        registers.rip = write.rawValue
        registers[.rsp] = 0x20_0000
        let start = try #require(symbolizer.addresses(ofSymbol: "_start").first)
        try memory.write(
            GuestPhysicalAddress(0x20_0000),
            [UInt8(truncatingIfNeeded: start.rawValue) + 7, 0, 0x10, 0])
        let backtrace = Unwinder(symbolizer).backtrace(registers, plan.systemRegisters) {
            PageWalk.read($0, count: $1, system: plan.systemRegisters, memory: memory)
        }
        // Both have other names too, the last of which in the file wins.
        #expect(
            backtrace.frames.prefix(2).map { $0.name?.function } == [
                "console_write", "entry_local",
            ])
        let path = directory.file("core")
        let core = try CoreFile.write(
            to: path, cpus: [.init(registers: registers, system: plan.systemRegisters)],
            memory: memory, program: "kernel32.elf", title: "32 bits")
        #expect(!core.hasPhysicalMemory)
        let result = try ChildProcess.run(
            ["-batch", "-nx", "-ex", "bt", "-ex", "x/i $pc", "-ex", "x/wx $esp", image, path],
            program: GDB.path)
        #expect(result.output.contains("uart_write (text="))
        #expect(result.output.contains("0x00100007"))
        #expect(!(result.output + result.errors).contains("warning"))
    }

    /// SSE registers from the FXSAVE note, and AVX ones where the guest has them enabled.
    @Test(
        .enabled(if: Files.exists(GDB.path), "needs gdb: \(GDB.path) is not there"),
        arguments: [3, 7] as [UInt64])
    func gdbReadsVectorRegisters(_ xcr0: UInt64) throws {
        let directory = try TemporaryDirectory()
        let plan = try LoadPlan(
            image: GuestFile(path: Files.sample("add")), ram: RAMLayout(lengthInBytes: 4 << 20))
        let memory = try GuestMemory(layout: plan.ram)
        try plan.apply(to: memory)
        // XMM1 at 160 + 16; its upper half in AVX's part, at 576 + 16; both in use (XSTATE_BV).
        var area = [UInt8](repeating: 0, count: 4096)
        for index in 0..<16 {
            area[176 + index] = UInt8(0x10 + index)
            area[592 + index] = UInt8(0x20 + index)
        }
        area[512] = 7
        area[24] = 0x80
        area[25] = 0x1F
        let cpuid = [
            CPUIDEntry(
                function: 0xD, index: 2, isIndexSignificant: true, eax: 256, ebx: 576, ecx: 0,
                edx: 0)
        ]
        let path = directory.file("core")
        let extended = CoreExtendedState.area(area, xcr0: xcr0, cpuid: cpuid)
        #expect(extended.count == (xcr0 == 7 ? 832 : 0))
        _ = try CoreFile.write(
            to: path,
            cpus: [
                .init(
                    registers: plan.registers, system: plan.systemRegisters,
                    floatingPoint: Array(area.prefix(512)), extended: extended)
            ], memory: memory, program: "add", title: "vectors")
        let text = try GDB.run("add", path, ["p/x $xmm1.uint128", "p/x $ymm1.v2_int128[1]"])
        #expect(text.contains("0x1f1e1d1c1b1a19181716151413121110"), "\(text)")
        #expect(text.contains("0x2f2e2d2c2b2a29282726252423222120") == (xcr0 == 7), "\(text)")
        #expect(!text.contains("warning"), "\(text)")
    }

    private func hex(_ number: UInt64) -> String { String(number, radix: 16) }
}
