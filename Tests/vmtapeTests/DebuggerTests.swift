import Glibc
import TestSupport
import Testing

/// `vmtape gdb` and `replay --gdb` with the real gdb, on recorded sample guests.
@Suite(
    .enabled(if: RealKVM.isThere, RealKVM.comment), .enabled(if: RealGDB.isThere, RealGDB.comment))
struct DebuggerTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.file("t.vmtape")
    }

    /// Records a sample guest, the same in every run.
    private func record(_ guest: String, _ options: [String] = [], _ words: String...) throws {
        let result = try ChildProcess.run(
            ["record", "-q", "-o", path, "--serial", "none"] + options + [Files.sample(guest)]
                + words)
        #expect(Files.exists(path), "\(result.errors)")
    }

    private func gdb(
        _ commands: [String], at position: String = "end"
    ) throws -> DebuggerSession {
        try DebuggerSession(path, commands, at: position)
    }

    private static func mark(_ word: String) -> String { DebuggerSession.mark(word) }

    // MARK: Forwards and back

    @Test func `breakpoints, backtraces with lines, and the way back to the hit before`() throws {
        try record("swift-kernel")
        let write = "break *0x100020"
        let session = try gdb(
            [
                write, Self.mark("first"), "continue", "bt", "monitor when",
                Self.mark("second"), "continue", "monitor when", Self.mark("third"), "continue",
                Self.mark("back"), "reverse-continue", "monitor when", Self.mark("again"),
                "reverse-continue", "monitor when", Self.mark("begin"), "reverse-continue",
                "monitor when", Self.mark("end"), "delete", "continue", "monitor when",
            ], at: "begin")
        let first = session.part("first")
        #expect(first.contains("Breakpoint 1"), "\(session.output)\(session.errors)")
        #expect(!session.output.contains("warning"), "\(session.output)")
        #expect(first.contains("Console.swift:"))
        #expect(first.contains("Kernel.swift:"))
        #expect(first.contains("start.S:12"))
        #expect(session.position("first") != nil)
        #expect(session.position("back") == session.position("second"))
        #expect(session.position("again") == session.position("first"))
        #expect(session.part("begin").contains("No more reverse-execution history"))
        #expect(session.position("begin")?.hasPrefix("position begin,") == true)
        #expect(session.part("end").contains("No more reverse-execution history"))
        #expect(session.position("end")?.hasSuffix("the end of the run") == true)
    }

    @Test(arguments: [("swift-kernel", [] as [String], "120"), ("timer", timer, "300+5")])
    func `twenty steps back and forth come to the same registers`(
        _ guest: String, _ options: [String], _ position: String
    ) throws {
        try record(guest, options)
        let twenty = Array(repeating: "reverse-stepi", count: 20)
        let session = try gdb(
            [Self.mark("before"), "info registers", "monitor when", Self.mark("way")] + twenty
                + [Self.mark("between"), "monitor when", Self.mark("forth"), "stepi 20"]
                + [Self.mark("after"), "info registers", "monitor when"], at: position)
        let before = session.part("before")
        #expect(before.contains("rip"), "\(session.output)\(session.errors)")
        #expect(before.contains("cr3"))
        #expect(session.part("after") == before)
        #expect(session.part("between") != "")
        #expect(!before.contains(session.part("between")))
    }

    @Test func `names come from the trace where the image is gone, or another`() throws {
        let image = directory.file("kernel")
        try Files.write(image, try #require(Files.read(Files.sample("swift-kernel"))))
        #expect(
            try ChildProcess.run(["record", "-q", "-o", path, "--serial", "none", image]).ending
                == .status(0))
        for content in [nil, Files.read(Files.sample("add"))] {
            Files.remove(image)
            if let content { try Files.write(image, content) }
            let session = try gdb(["bt 1"])
            #expect(session.output.contains("halt () at"), "\(session.output)")
        }
    }

    private static let timer = ["--machine", "pc", "--clock", "virtual"]

    @Test func `a handler of interrupts is found, and what it interrupted`() throws {
        try record("timer", Self.timer)
        let session = try gdb(
            ["break interrupt_arrived", Self.mark("hit"), "continue", "bt", "finish"]
                + [Self.mark("next"), "continue", "bt 1", Self.mark("back"), "reverse-continue"]
                + ["bt 1", "info line"], at: "begin")
        #expect(session.part("hit").contains("interrupt_arrived"), "\(session.output)")
        #expect(session.part("hit").contains("interrupt_common"))
        #expect(session.part("next").contains("interrupt_arrived"))
        #expect(session.part("back").contains("interrupt_arrived"))
    }

    @Test func `from the crash back to the store that caused it`() throws {
        try record("triple-fault")
        // Gate 14 of the interrupt table, which an event log runs over.
        let session = try gdb([
            "p $rip", Self.mark("cause"), "watch *(unsigned long *)0x1211f0", "reverse-continue",
            "bt", "info line", Self.mark("writer"), "monitor goto end",
            "monitor last-write 0x1211f0,8",
        ])
        let cause = session.part("cause")
        #expect(cause.contains("record_event"), "\(session.output)\(session.errors)")
        #expect(cause.contains("triple-fault.c:35"))
        #expect(cause.contains("kernel_main"))
        #expect(session.part("writer").contains("record_event"))
        #expect(session.part("writer").contains(" -> "))
    }

    @Test func `reads are watched for in both directions`() throws {
        try record("triple-fault")
        // Gate 14 of the interrupt table: read when the fault is delivered, written before.
        let session = try gdb(
            [
                "monitor console off", "rwatch *(unsigned long *)0x1211f0", Self.mark("read"),
                "continue", Self.mark("next"), "continue", Self.mark("back"),
                "reverse-continue", "reverse-continue", "delete",
                "awatch *(unsigned long *)0x1211f0", Self.mark("forth"),
                "monitor goto begin", "continue", "bt", Self.mark("again"), "continue", "bt",
                Self.mark("both"), "reverse-continue", "bt",
            ], at: "begin")
        let read = "Hardware read watchpoint 1: *(unsigned long *)0x1211f0\n\nValue = "
        for part in ["read", "next", "back"] {
            #expect(session.part(part).contains(read), "\(session.output)\(session.errors)")
        }
        #expect(session.part("read").contains("page_fault_entry"))
        let access = "Hardware access (read/write) watchpoint 2: "
        for part in ["forth", "again", "both"] { #expect(session.part(part).contains(access)) }
        #expect(session.part("forth").contains("set_gate"), "\(session.output)")
        #expect(session.part("again").contains("set_gate"))
    }

    @Test func `a program in ring 3 is debugged like any other`() throws {
        try record("ring3")
        // Behind the long computation, which is one stretch of ring 3.
        let session = try gdb(
            [
                "monitor console off", "break *longest_collatz", "break user.c:58",
                Self.mark("first"), "continue", "bt", "p $cs & 3", Self.mark("second"), "continue",
                "bt", Self.mark("steps"), "stepi", "stepi", "info registers", Self.mark("back"),
                "reverse-stepi", "reverse-stepi", Self.mark("forth"), "stepi", "stepi",
                "info registers", Self.mark("again"), "reverse-continue", "reverse-continue", "bt",
                Self.mark("begin"), "reverse-continue", "monitor when",
            ], at: "begin")
        #expect(
            session.part("first").contains("Breakpoint 1, longest_collatz"), "\(session.output)")
        #expect(session.part("first").contains("user_main"))
        #expect(session.part("first").contains("= 3\n"))
        #expect(session.part("second").contains("Breakpoint 2, user_main"), "\(session.output)")
        let registers = session.part("steps").split(separator: "\n").suffix(20)
        #expect(Array(registers) == Array(session.part("forth").split(separator: "\n").suffix(20)))
        #expect(session.part("again").contains("Breakpoint 1, longest_collatz"))
        #expect(session.part("begin").contains("position begin"), "\(session.output)")
    }

    @Test func `breakpoints deep in a long stretch of ring 3 are come to both ways`() throws {
        try record("preempted-ring3", ["--machine", "pc"], "--", "60")
        // Once a round of the program, hundreds of thousands of instructions apart.
        func stop(_ word: String, _ command: String) -> [String] {
            [Self.mark(word), command, "info registers"]
        }
        var commands = ["monitor console off", "break compute"]
        for number in 1...6 { commands += stop("on \(number)", "continue") }
        commands += ["reverse-stepi", "reverse-stepi", Self.mark("when"), "monitor when", "stepi"]
        commands += stop("again 6", "stepi")
        for number in (1...5).reversed() { commands += stop("back \(number)", "reverse-continue") }
        commands += ["stepi"] + stop("step", "stepi") + ["stepi"]
        commands += stop("step back", "reverse-stepi") + stop("again 2", "continue")
        let session = try gdb(commands, at: "20")
        func registers(_ word: String) -> [String] {
            session.part(word).split(separator: "\n").map(String.init).filter {
                $0.hasPrefix("r") || $0.hasPrefix("eflags")
            }
        }
        for number in 1...5 {
            #expect(session.part("on \(number)").contains("Breakpoint 1, compute"))
            #expect(registers("on \(number)").count >= 16, "\(session.output)")
            #expect(registers("on \(number)") == registers("back \(number)"))
            #expect(registers("on \(number)") != registers("on \(number + 1)"))
        }
        #expect(registers("again 6") == registers("on 6"), "\(session.output)")
        #expect(session.part("when").contains("position 20+"), "\(session.output)")
        #expect(registers("step") == registers("step back"))
        #expect(registers("again 2") == registers("on 2"), "\(session.output)")
    }

    @Test func `what the guest prints is shown once, on the way forward`() throws {
        try record("swift-kernel")
        let session = try gdb(
            [
                Self.mark("forth"), "continue", Self.mark("back"), "reverse-continue",
                Self.mark("again"), "continue", Self.mark("off"), "monitor goto begin",
                "monitor console off",
            ], at: "begin")
        #expect(session.part("forth").contains("Swift"), "\(session.output)\(session.errors)")
        #expect(!session.part("back").contains("Swift"))
        #expect(!session.part("again").contains("Swift"))
    }

    @Test(arguments: ["bc", "c"])
    func `a long way is interrupted in either direction`(_ move: String) throws {
        try record("slow", [], "--", "4", "20000")
        let server = try ChildProcess(
            ["replay", path, "--gdb", "stdio", "--at", move == "bc" ? "end" : "begin", "-q"],
            input: .pipe)
        func frame(_ packet: String) -> String {
            let sum = packet.utf8.reduce(UInt8(0)) { $0 &+ $1 }
            let digits = String(sum, radix: 16)
            return "$\(packet)#\(digits.count < 2 ? "0" : "")\(digits)"
        }
        // The stack is read all the time, and not this byte of it: everything is stepped.
        server.write(frame("QStartNoAckMode") + "+")
        server.write(frame("Z3,100000,1"))
        try server.output.read(untilText: "$OK#9a$OK#9a")
        server.write(frame(move))
        server.write("\u{3}")
        try server.output.read(untilText: "$T02")
        server.write(frame("k"))
        #expect(server.wait() == .status(0))
    }

    @Test func `more than four breakpoints, and none of them in memory`() throws {
        try record("swift-kernel")
        let places = [0x10_0020, 0x10_0036, 0x10_0079, 0x10_00b4, 0x10_0536, 0x10_05f3, 0x10_0818]
        let breaks = places.map { "break *0x" + String($0, radix: 16) }
        let session = try gdb(
            breaks + [Self.mark("before"), "x/8xb 0x100818"]
                + [Self.mark("one"), "continue", Self.mark("two"), "continue"]
                + [Self.mark("after"), "x/8xb 0x100818"], at: "begin")
        #expect(session.part("one").contains("Breakpoint 7"), "\(session.output)\(session.errors)")
        // The first line is printed.
        #expect(session.part("two").contains("Breakpoint 2"))
        #expect(!session.part("after").isEmpty)
        #expect(session.part("after") == session.part("before"))
    }

    // MARK: What cannot be changed, and monitor

    @Test func `the past cannot be written`() throws {
        try record("swift-kernel")
        let session = try gdb([
            Self.mark("register"), "p $rax", "set var $rax = 0x1234567", "p $rax",
            Self.mark("memory"), "x/1xg 0x100020", "set var *(char *)0x100020 = 0",
            "x/1xg 0x100020",
        ])
        #expect(!session.output.contains("0x1234567"))
        let memory = session.part("memory").split(separator: "\n").filter {
            $0.hasPrefix("0x100020")
        }
        #expect(Set(memory).count == 1, "\(session.output)\(session.errors)")
        #expect(session.output.contains("read-only"), "\(session.output)")
    }

    @Test func `monitor goes to exits, lists them, and explains itself`() throws {
        try record("swift-kernel")
        let session = try gdb([
            Self.mark("help"), "monitor help", Self.mark("io"), "monitor goto begin",
            "monitor next io 0x3f8", "monitor next io 0x3f8", "monitor prev io 0x3f8",
            Self.mark("exits"), "monitor exits 0..3", Self.mark("exit"), "monitor exit 2",
            Self.mark("info"), "monitor info", Self.mark("kept"), "monitor checkpoint",
            Self.mark("bad"), "monitor goto nowhere", "monitor exit 99999",
        ])
        #expect(session.part("help").contains("last-write"))
        let places = session.part("io").split(separator: "\n").filter { $0.hasPrefix("position") }
        try #require(places.count == 4, "\(session.output)\(session.errors)")
        #expect(places[1] == places[3])
        #expect(places[1] != places[2])
        #expect(
            session.part("exits").split(separator: "\n").filter { $0.contains("0x3f") }.count == 4)
        #expect(session.part("exit").contains("rax"))
        #expect(session.part("info").contains("231 exits"))
        #expect(session.part("kept").contains("kept "))
        #expect(session.part("bad").contains("99999"))
    }

    // MARK: Coming and going

    @Test func `another debugger finds the machine where the first left it`() throws {
        try record("swift-kernel")
        let socket = directory.file("gdb")
        let server = try ChildProcess(["replay", path, "--gdb", "unix:\(socket)"])
        try server.errors.read(untilText: "target remote \(socket)")
        func attach(_ commands: [String]) throws -> ChildProcess.Result {
            try ChildProcess.run(
                ["-nx", "-batch", "-ex", "target remote \(socket)"]
                    + commands.flatMap { ["-ex", $0] }, program: RealGDB.path)
        }
        let first = try attach(["monitor goto 77", "detach"])
        #expect(first.errors.contains("position 77,"), "\(first.output)")
        let second = try attach(["monitor when", "kill"])
        #expect(second.errors.contains("position 77,"), "\(second.output)")
        #expect(server.wait() == .status(0))
    }

    @Test func `an editor's way through gdb's machine interface`() throws {
        try record("swift-kernel")
        // What cpptools and Native Debug send for the configuration in README, in that order.
        let server = "| \(ChildProcess.vmtape) replay \(path) --gdb stdio --at end -q"
        let gdb = try ChildProcess(
            ["-nx", "-q", "--interpreter=mi2"], program: RealGDB.path, input: .pipe)
        gdb.write(
            """
            -gdb-set mi-async off
            -target-select remote \(server)
            -break-insert *0x100818
            -exec-continue --reverse
            -stack-list-frames
            -exec-step-instruction
            -exec-step-instruction --reverse
            -data-list-register-values x 16
            -gdb-exit

            """)
        gdb.closeInput()
        try gdb.output.read { $0.isAtEnd }
        let output = gdb.output.text
        #expect(gdb.wait() == .status(0))
        #expect(output.contains("reason=\"breakpoint-hit\""), "\(output)")
        #expect(output.contains("Kernel.swift"))
        #expect(output.contains("value=\"0x100818\""))
    }
}
