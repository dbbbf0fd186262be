import Glibc
import Machine
import TestSupport
import Testing

@testable import GDBRemote

/// Real gdb against the toy machine.
@Suite(.enabled(if: GDB.isThere, "gdb is not installed"))
struct RealDebuggerTests {
    /// What gdb prints.
    private func session(
        _ commands: [String], at endpoint: Endpoint = .tcp(host: nil, port: 0),
        extended: Bool = false, ending: SessionEnding = .detached,
        machine: @escaping @Sendable () -> ToyMachine = { ToyMachine() }
    ) throws -> String {
        let server = try ServingThread(at: endpoint, machine: machine)
        let text = try GDB.run(commands, at: server.address, extended: extended)
        #expect(try server.endings() == [ending])
        return text
    }

    /// What ``tell`` printed.
    private func values(_ text: String) -> [String] {
        text.split(separator: "\n").filter { $0.hasPrefix("value ") }
            .map { String($0.dropFirst(6)) }
    }

    private let tell = "printf \"value %lx %ld\\n\", $rip, *(long *)&counter"

    // MARK: Moving

    @Test func goesForwardAndBack() throws {
        let text = try session([
            "break *0x400020", "continue", tell, "continue", tell, "reverse-continue", tell,
            "reverse-continue", tell, "reverse-continue", tell, "delete", "continue", tell,
            "stepi", tell, "reverse-stepi", tell,
        ])
        #expect(
            values(text) == [
                "400020 0", "400020 1", "400020 0", "400000 0", "400000 0", "400017 5",
                "400017 5", "40000f 5",
            ])
        #expect(text.occurrences(of: "No more reverse-execution history.") == 4)
        #expect(text.contains("hit Breakpoint 1, 0x0000000000400020 in bump ()"))
    }

    @Test func comesBackToTheSameRegisters() throws {
        let show = "info registers"
        let text = try session(
            ["stepi 25", "echo [first]\\n", show, "echo [moved]\\n"]
                + ["reverse-stepi 20", "stepi 20", "echo [second]\\n", show, "echo [end]\\n"])
        func between(_ start: String, _ end: String) throws -> Substring {
            let from = try #require(text.firstRange(of: start)).upperBound
            return text[from..<(try #require(text.firstRange(of: end)).lowerBound)]
        }
        let first = try between("[first]", "[moved]")
        #expect(first.count > 500)
        #expect(try between("[second]", "[end]") == first)
    }

    @Test func findsWatchedMemoryForwardAndBack() throws {
        let text = try session([
            "watch *(long *)&counter", "continue", tell, "continue", tell, "reverse-continue",
            tell, "delete", "rwatch *(long *)&counter", "continue", tell, "delete",
            "awatch *(long *)0x500008", "continue", tell, "delete", "continue",
            "watch *(long *)&counter", "reverse-continue", tell,
        ])
        #expect(
            values(text) == [
                // After the store; before it where time runs back; after the load.
                "400037 1", "400037 2", "40002f 1", "40002c 2", "400017 5", "40002f 4",
            ])
        #expect(text.contains("Old value = 2\nNew value = 1\n"))
        #expect(text.contains("Old value = 5\nNew value = 4\n"))
    }

    @Test func hasMoreThanFourBreakpoints() throws {
        let addresses: [UInt64] = [0x400021, 0x400024, 0x40002C, 0x40002F, 0x400037, 0x400038]
        let set = addresses.map { "hbreak *0x\(String($0, radix: 16))" }
        let text = try session(set + ["continue", tell].repeated(6) + ["x/6xb 0x400020"])
        #expect(
            values(text) == [
                "400021 0", "400024 0", "40002c 0", "40002f 0", "400037 1", "400038 1",
            ])
        #expect(text.contains("0x55\t0x48\t0x89\t0xe5\t0x48\t0x8b"), "memory as it is")
    }

    @Test func stepsOverLinesAndOutOfFunctions() throws {
        let text = try session(["break bump", "continue", "finish", tell, "reverse-finish", tell])
        #expect(text.contains("in bump ()"))
        // Back out of `loop`, which was entered from _start.
        #expect(values(text).first == "40000a 1")
    }

    @Test func interruptsARun() throws {
        let running = InterruptFlag()
        let server = try ServingThread(machine: {
            var machine = ToyMachine(spins: true)
            machine.running = running
            return machine
        })
        let gdb = try ChildProcess(
            GDB.arguments(["echo [running]\\n", "continue", tell], at: server.address),
            program: GDB.path ?? "gdb")
        try gdb.output.read(untilText: "[running]")
        // From then on it does nothing but wait.
        while !running.isRaised { sched_yield() }
        gdb.kill(SIGINT)
        try gdb.output.read { _ in false }
        #expect(gdb.output.text.contains("received signal SIGINT"))
        #expect(values(gdb.output.text) == ["400040 0"])
        #expect(gdb.wait() == .status(0))
        #expect(try server.endings() == [.detached])
    }

    @Test func runsAgainFromTheBeginning() throws {
        let text = try session(
            ["stepi 9", "starti", tell, "break bump", "run", tell, "kill"], extended: true,
            ending: .killed)
        #expect(values(text) == ["400000 0", "400024 0"])
    }

    @Test func comesBackAfterDetaching() throws {
        let server = try ServingThread(sessions: 3)
        for (step, expected) in [(5, "40002c 0"), (3, "400038 1")] {
            let text = try GDB.run(["stepi \(step)", tell, "detach"], at: server.address)
            #expect(values(text) == [expected])
        }
        // A debugger that is killed says nothing.
        let gdb = try ChildProcess(
            GDB.arguments(["break bump", tell, "shell kill -9 $PPID"], at: server.address),
            program: GDB.path ?? "gdb")
        _ = gdb.wait()
        #expect(try server.endings() == [.detached, .detached, .disconnected])
        #expect(server.positions == [5, 8, 8])
        #expect(server.breakpointCounts == [0, 0, 0])
    }

    // MARK: Looking

    @Test func readsSymbolsOverTheConnection() throws {
        let text = try session(["info symbol 0x400024", "info files", "x/i 0x40000f"])
        #expect(text.contains("bump + 4 in section .text"))
        #expect(text.contains("`target:/toy', file type elf64-x86-64"))
    }

    @Test func showsRegistersOfEveryGroup() throws {
        let text = try session([
            "info registers", "info registers system", "print $xmm1.uint128", "info float",
            "print $st0", "print $mxcsr", "print/x $cr3", "print $efer",
        ]) {
            var machine = ToyMachine()
            var system = SystemRegisters()
            system[.cs] = Segment(selector: 0x10, l: true)
            system[.gs] = Segment(base: 0xFFFF_8000_0000_1000, selector: 0x18)
            system[.cr0] = 0x8001_0011
            system[.cr3] = 0x7_5000
            system[.cr4] = 0x20
            system[.efer] = 0xD01
            system.idt = DescriptorTable(base: 0x6000, limit: 0xFFF)
            machine.system = system
            machine.kernelGSBase = 0x1234
            var area = [UInt8](repeating: 0, count: 512)
            area[0] = 0x7F
            area[1] = 3
            area[4] = 1
            area[24] = 0x80
            area[25] = 0x1F
            // ST0 is 1.0, XMM1 is 7.
            area[32 + 7] = 0x80
            area[32 + 8] = 0xFF
            area[32 + 9] = 0x3F
            area[176] = 7
            machine.floatingPoint = FloatingPointState(area)
            return machine
        }
        let lines = text.split(separator: "\n")
        func value(_ name: String) -> [Substring] {
            lines.first { $0.hasPrefix(name + " ") }?.split(separator: " ").dropFirst().map { $0 }
                ?? []
        }
        #expect(value("cs") == ["0x10", "16"])
        #expect(value("gs_base").first == "0xffff800000001000")
        #expect(value("k_gs_base").first == "0x1234")
        #expect(value("cr0").dropFirst() == ["[", "PE", "ET", "WP", "PG", "]"])
        #expect(value("cr4").dropFirst() == ["[", "PAE", "]"])
        #expect(value("idt_limit").first == "0xfff")
        #expect(value("ip").first == "0x400000")
        #expect(text.contains("$1 = 7\n"))
        #expect(text.contains("=>R7: Empty") == false)
        #expect(text.contains("Control Word:        0x037f"))
        #expect(text.contains("$2 = 1\n"))
        #expect(text.contains("$3 = [ IM DM ZM OM UM PM ]"))
        #expect(text.contains("$4 = 0x75000\n"))
        #expect(text.contains("$5 = [ SCE LME LMA NXE ]"))
        #expect(!text.contains("unavailable"))
    }

    @Test func findsCodeOfACPUInRealMode() throws {
        let text = try session([
            "x/i $pc", "break *0x400005", "stepi", "print/x $ip", "print/x $cs_base",
        ]) {
            var machine = ToyMachine()
            var system = SystemRegisters()
            system[.cs] = Segment(base: 0x10_0000, selector: 0x4000)
            machine.system = system
            machine.moves(by: 0x10_0000)
            machine.architecture = .x86_64
            return machine
        }
        #expect(text.contains("=> 0x400000 <_start>:\tmov    $0x5,%ecx"))
        #expect(text.contains("$1 = 0x300005"))
        #expect(text.contains("$2 = 0x100000"))
    }

    @Test func takesA32BitGuestForOne() throws {
        let text = try session([
            "show architecture", "break bump", "continue", "info registers", "x/i 0x400000",
            "stepi", "reverse-continue", "reverse-continue",
        ]) {
            var machine = ToyMachine()
            machine.executable = DebugExecutable(name: "toy32", bytes: ToyProgram.elf32)
            return machine
        }
        #expect(text.contains("(currently \"i386\")"))
        #expect(text.contains("hit Breakpoint 1, 0x00400020 in bump ()"))
        #expect(text.contains("eip            0x400020            0x400020 <bump>"))
        #expect(text.contains("esp            0x500fe8            0x500fe8"))
        #expect(text.contains("0x400000 <_start>:\tmov    $0x5,%ecx"))
        #expect(!text.contains("rax"))
    }

    @Test func showsA16BitGuestsInstructions() throws {
        let text = try session([
            "x/2i $pc", "set architecture i386", "x/i $pc", "stepi", "print $eip",
        ]) {
            var machine = ToyMachine()
            machine.executable = nil
            machine.system = SystemRegisters()
            return machine
        }
        #expect(text.contains("=> 0x400000:\tmov    $0x5,%cx\n   0x400003:\tadd"))
        #expect(text.contains("=> 0x400000:\tmov    $0x5,%ecx\n"), "as 32-bit code")
        #expect(text.contains("= (void (*)()) 0x400005"))
        #expect(!text.contains("OS ABI"))
    }

    @Test func looksAtPhysicalMemory() throws {
        let text = try session([
            "maintenance packet Qqemu.PhyMemMode:1", "x/2xb 0",
            "maintenance packet Qqemu.PhyMemMode:0", "x/2xb 0x400000", "x/2xb 0",
        ])
        #expect(text.contains("0x0:\t0xb9\t0x05"))
        #expect(text.contains("0x400000 <_start>:\t0xb9\t0x05"))
        #expect(text.contains("Cannot access memory at address 0x0"))
    }

    // MARK: Writing and the monitor

    @Test func saysWhyNothingCanBeWritten() throws {
        let text = try session([
            "set $rax = 5", "print $rax", "set *(int *)0x500000 = 5", "monitor when",
        ])
        #expect(
            text.contains(
                "Could not write register \"rax\"; remote failure reply "
                    + "'E.the recording is read-only: vmtape replay --live-from changes what happens'"
            ))
        #expect(text.contains("$1 = 0\n"))
        #expect(text.contains("Cannot access memory at address 0x500000"))
        #expect(text.contains("The write to 0x500000 was refused: the recording is read-only"))
    }

    @Test func saysWhyAWatchpointIsRefused() throws {
        let text = try session(["watch *(long *)&counter", "continue", "delete", "monitor when"]) {
            var machine = ToyMachine()
            machine.refusal = DebugError("not mapped here")
            return machine
        }
        #expect(text.contains("Could not insert hardware watchpoint 1."))
        #expect(text.contains("The watchpoint at 0x500000: not mapped here"))
    }

    @Test func writesWhereItMay() throws {
        let text = try session([
            "set $rcx = 1", "set *(long *)&counter = 100", "set $rip = 0x400007",
            "print $rcx", "print *(long *)&counter", "print $rip",
        ]) {
            var machine = ToyMachine()
            machine.isWritable = true
            return machine
        }
        #expect(text.contains("$1 = 1\n$2 = 100\n"))
        #expect(text.contains("0x400007 <loop+2>"))
        #expect(!text.contains("Could not write"))
    }

    @Test func noticesThatAMonitorCommandMoved() throws {
        let directory = try TemporaryDirectory()
        let script = directory.file("setup.gdb")
        try Files.write(script, Array(DebugServer.gdbCommands.joined(separator: "\n").utf8))
        let text = try session([
            "source \(script)", "stepi", tell, "monitor goto begin+10", tell,
            "monitor goto begin+2", tell, "break bump", "monitor goto end", tell,
            "reverse-continue", tell, "monitor goto begin", "continue", tell,
            "monitor goto nowhere",
        ])
        #expect(
            values(text) == [
                "400005 0", "40000d 1", "400020 0", "400017 5", "400024 4", "400024 0",
            ])
        #expect(text.contains("'nowhere' is no position"))
        #expect(!text.contains("maintenance flush"), "no advice where it is not needed")
    }

    @Test func advisesWhereItsMemoryIsOld() throws {
        let text = try session([
            tell, "monitor goto begin+10", tell, "maintenance flush register-cache",
            "maintenance flush dcache", tell,
        ])
        #expect(values(text) == ["400000 0", "400000 1", "40000d 1"])
        #expect(text.contains("maintenance flush register-cache"))
    }

    // MARK: Ways to connect

    @Test func connectsToAPath() throws {
        let directory = try TemporaryDirectory()
        let text = try session([tell], at: .unix(path: directory.file("socket")))
        #expect(values(text) == ["400000 0"])
    }

    @Test func connectsOverIPv6() throws {
        guard let server = try? ServingThread(at: .tcp(host: "::1", port: 0)) else {
            try Test.cancel("this host has no ::1")
        }
        #expect(server.address.hasPrefix("[::1]:"))
        let text = try GDB.run([tell], at: server.address)
        #expect(values(text) == ["400000 0"])
    }

    @Test func connectsThroughAPipe() throws {
        let directory = try TemporaryDirectory()
        let (inward, outward) = (directory.file("in"), directory.file("out"))
        // SAFETY: Swift passes NUL-terminated strings; each has both ends, so that none waits.
        try #require(unsafe mkfifo(inward, 0o600) == 0 && mkfifo(outward, 0o600) == 0)
        let input = unsafe open(inward, O_RDWR | O_CLOEXEC)
        let output = unsafe open(outward, O_RDWR | O_CLOEXEC)
        let server = try ServingThread(DebugServer(input: input, output: output))
        let bridge = "| { cat <&3 >\(inward) 3<&- & } 3<&0; exec cat <\(outward)"
        let gdb = try ChildProcess(
            GDB.arguments(["stepi 2", tell], at: bridge), program: GDB.path ?? "gdb")
        #expect(try server.endings() == [.detached])
        close(input)
        close(output)
        try gdb.output.read { _ in false }
        #expect(values(gdb.output.text) == ["400020 0"])
        #expect(gdb.wait() == .status(0))
    }

    @Test func tellsASecondDebugger() throws {
        let server = try ServingThread()
        let client = try Client(server.address)
        client.say("qC")
        try client.expect("$QC1")
        let text = try GDB.run(["info registers rip"], at: server.address)
        #expect(text.contains("another debugger is attached to this machine"))
        client.say("D")
        #expect(try server.endings() == [.detached])
    }
}

extension String {
    /// How often a text occurs.
    func occurrences(of text: String) -> Int { ranges(of: text).count }
}

extension Array {
    /// Its elements so many times over.
    func repeated(_ count: Int) -> [Element] { (0..<count).flatMap { _ in self } }
}
