internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Glibc
internal import Guest
internal import KVM
internal import Machine
internal import Symbols
internal import Trace

/// `replay --at`: stands at a position of the run, and shows the machine there.
struct StateOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Stand at a position: N just after exit N, N+K another K instructions on, begin, "
                + "begin+K, end, or P% of the exits. Shows the position and what is asked for below.",
            valueName: "position"))
    var at: Destination?

    @Flag(help: "With --at: all registers.")
    var regs = false

    @Option(
        help: ArgumentHelp(
            "With --at: memory at a virtual address (p:ADDR: a physical one), so many bytes; "
                + "repeatable.", valueName: "addr,len"))
    var memory: [MemoryRange] = []

    @Option(
        help: ArgumentHelp(
            "With --at: instructions: so many (next: 16) from an address (next: the one that runs "
                + "next).", valueName: "next|addr[,n]"))
    var disassemble: CodeRange?

    @Flag(help: "With --at: the functions on the stack.")
    var backtrace = false

    @Option(
        help: ArgumentHelp(
            "With --at: write the machine as an ELF core file, for gdb or crash.",
            valueName: "file"))
    var core: String?

    @Flag(help: "With --core and --record: replace an existing file.")
    var overwrite = false

    @Option(
        help: ArgumentHelp(
            "Let a debugger move through the run: gdb's target remote ADDRESS. Loopback unless a "
                + "host is given; port 0 takes any that is free. Starts at --at, else at the beginning.",
            valueName: "[host:]port|unix:path|stdio"))
    var gdb: String?

    @OptionGroup var keyframes: KeyframeOptions

    /// The run is travelled, and not only replayed.
    var isWanted: Bool { at != nil || gdb != nil }

    /// How the run is travelled.
    func travel(isForced: Bool, cpu: Int?) -> TravelOptions {
        var options = TravelOptions()
        options.keyframeBytes = Int(clamping: keyframes.memory.bytes)
        options.isForced = isForced
        options.cpu = cpu
        return options
    }
}

/// `ADDR,LEN` or `p:ADDR,LEN`.
struct MemoryRange: ExpressibleByArgument, Equatable {
    var address: UInt64
    var count: UInt64
    var isPhysical: Bool

    /// More at once is what --core is for.
    private static let limit: UInt64 = 1 << 24

    init?(argument: String) {
        isPhysical = argument.hasPrefix("p:")
        let parts = argument.dropFirst(isPhysical ? 2 : 0).split(
            separator: ",", omittingEmptySubsequences: false)
        guard parts.count == 2, let address = Number.parse(parts[0]),
            let count = Number.parse(parts[1]), (1...Self.limit).contains(count),
            !address.addingReportingOverflow(count - 1).overflow
        else { return nil }
        self.address = address
        self.count = count
    }
}

/// `next`, `ADDR` or `ADDR,COUNT`.
struct CodeRange: ExpressibleByArgument, Equatable {
    /// Nil: the instruction that runs next.
    var address: UInt64?
    var count = 16

    init?(argument: String) {
        let parts = argument.split(separator: ",", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count) else { return nil }
        if parts[0] != "next" {
            guard let address = Number.parse(parts[0]) else { return nil }
            self.address = address
        }
        if parts.count == 2 {
            guard let count = Number.parse(parts[1]), (1...65_536).contains(count) else {
                return nil
            }
            self.count = Int(count)
        }
    }
}

/// Goes to a position and shows what is asked for.
struct ReplayAt {
    let options: StateOptions
    let isJSON: Bool
    let isQuiet: Bool

    func run(_ run: inout RecordedRun) throws {
        let store = KeyframeStore(options.keyframes, run.reader, isQuiet: isQuiet)
        try store?.load(into: &run.machine)
        try Self.go(options.at ?? .position(.begin), &run, isQuiet: isQuiet)
        store?.save(&run.machine)
        let terminal = Terminal(STDOUT_FILENO)
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        if isJSON {
            writeJSON(run, stream)
        } else {
            let style = TextStyle(width: terminal.width, hasColour: terminal.hasColour)
            writeText(run, stream, style)
        }
        try stream.finish()
        if let path = options.core { try writeCore(path, &run) }
    }

    /// Moves the machine; a position that the run never comes to is told.
    static func go(
        _ destination: Destination, _ run: inout RecordedRun, isQuiet: Bool
    ) throws(CommandFailure) {
        let status = StatusLine(isWanted: !isQuiet)
        defer { status.clear() }
        let progress = run.machine.progress
        let start = HostThread.monotonicNanoseconds()
        func look() -> Bool {
            let milliseconds = (HostThread.monotonicNanoseconds() &- start) / 1_000_000
            status.update(milliseconds: milliseconds) {
                "going to \(destination): exit \(RunText.grouped(progress.exitCount))"
            }
            return false
        }
        let wanted = destination.position(inRunOf: run.reader.exitCount)
        let stop: TravelStop
        do throws(ExecutionError) {
            if let wanted {
                stop = try run.machine.seek(to: wanted, isInterrupted: look)
            } else {
                stop = try run.machine.seekEnd(isInterrupted: look)
            }
        } catch { throw CommandFailure.couldNot(error) }
        status.clear()
        if case .diverged(let divergence) = stop {
            throw CommandFailure(status: Status.no, divergenceLine(divergence, run.reader))
        }
        guard let wanted, run.machine.position != wanted else { return }
        if case .historyEnd = stop, run.machine.position < wanted {
            throw CommandFailure(
                status: Status.couldNot,
                "\(run.reader.path): the run has no position \(wanted): it ends at "
                    + "\(run.machine.position)")
        }
        Message.note(
            "the machine cannot stand at \(wanted); the next place where it can is "
                + "\(run.machine.position)")
    }

    private func writeText(
        _ run: borrowing RecordedRun, _ stream: OutputStream, _ style: TextStyle
    ) {
        stream.write("position \(run.whereabouts())\n")
        if options.regs {
            var text = RegisterText(stream, style: style, names: run.names)
            text.write(run.machine.registers, run.machine.systemRegisters)
        }
        for range in options.memory {
            var text = MemoryText(stream, style: style)
            text.write(range.address, count: range.count) { Self.read($0, $1, range, run) }
        }
        if let code = options.disassemble {
            var text = DisassemblyText(stream, style: style, names: run.names)
            text.write(
                run.disassembly(code.address.map { GuestVirtualAddress($0) }, count: code.count),
                current: run.machine.instructionAddress)
        }
        if options.backtrace {
            var text = BacktraceText(stream, style: style)
            text.write(run.backtrace())
        }
    }

    private func writeJSON(_ run: borrowing RecordedRun, _ stream: OutputStream) {
        var json = JSONWriter(stream)
        json.beginObject()
        json.key("schema")
        json.value("vmtape.state/1")
        json.key("file")
        json.value(run.reader.path)
        json.key("position")
        json.value(run.machine.position.description)
        json.key("exits")
        json.value(run.machine.position.exitCount)
        json.key("instructions")
        json.value(run.machine.position.instructions)
        json.key("end")
        json.value(run.machine.ending != nil)
        if options.regs {
            json.key("registers")
            RegisterJSON.write(
                run.machine.registers, run.machine.systemRegisters, names: run.names, to: &json)
        }
        if !options.memory.isEmpty {
            json.key("memory")
            json.beginArray()
            for range in options.memory {
                json.beginObject()
                json.key("space")
                json.value(range.isPhysical ? "physical" : "virtual")
                json.key("pieces")
                MemoryJSON.write(range.address, count: range.count, to: &json) {
                    Self.read($0, $1, range, run)
                }
                json.endObject()
            }
            json.endArray()
        }
        if let code = options.disassemble {
            json.key("instructions_at")
            run.disassembly(code.address.map { GuestVirtualAddress($0) }, count: code.count)
                .write(to: &json, names: run.names)
        }
        if options.backtrace {
            json.key("backtrace")
            run.backtrace().write(to: &json)
        }
        json.endObject()
        stream.write("\n")
    }

    private static func read(
        _ address: UInt64, _ count: Int, _ range: MemoryRange, _ run: borrowing RecordedRun
    ) -> [UInt8] {
        range.isPhysical
            ? run.machine.memory(at: GuestPhysicalAddress(address), count: count)
            : run.machine.memory(at: GuestVirtualAddress(address), count: count)
    }

    private func writeCore(_ path: String, _ run: inout RecordedRun) throws {
        let image = run.reader.header.images.first?.name.split(separator: "/").last
        let core = try attempt { () throws(ExecutionError) in
            try run.machine.writeCore(
                to: path, program: image.map(String.init),
                title: "\(run.reader.path) at \(run.machine.position)",
                isReplacing: options.overwrite)
        }
        Message.line(
            "vmtape: wrote \(path): \(RunText.grouped(core.pageCount)) pages that are not zero, "
                + "\(core.stretchCount) mapped stretches")
        if !core.hasAllMappings {
            Message.note("\(path): the page tables map more than a core file can hold")
        }
    }
}
