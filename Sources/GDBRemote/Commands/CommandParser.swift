/// Understands packets (GDB manual: "Packets", "General Query Packets", "Reverse Execution",
/// "Host I/O Packets"; QEMU manual: "GDB usage").
enum CommandParser {
    /// What a packet asks for.
    ///
    /// - Throws: ``CommandError`` where it is one that is known and makes no sense. What is not
    ///   known is ``Command/unknown``.
    static func parse(_ packet: [UInt8]) throws(CommandError) -> Command {
        var scanner = PacketScanner(packet[...])
        guard let letter = scanner.next() else { return .unknown }
        switch letter {
        case UInt8(ascii: "q"), UInt8(ascii: "Q"):
            return try QueryParser.parse(packet)
        case UInt8(ascii: "v"):
            return try verbose(&scanner)
        case UInt8(ascii: "m"), UInt8(ascii: "x"), UInt8(ascii: "M"), UInt8(ascii: "X"):
            return try memory(letter, &scanner)
        case UInt8(ascii: "Z"), UInt8(ascii: "z"):
            let breakpoint = try breakpoint(&scanner)
            return letter == UInt8(ascii: "Z") ? .insert(breakpoint) : .remove(breakpoint)
        case UInt8(ascii: "G"), UInt8(ascii: "p"), UInt8(ascii: "P"):
            return try registers(letter, &scanner)
        case UInt8(ascii: "c"), UInt8(ascii: "s"), UInt8(ascii: "C"), UInt8(ascii: "S"),
            UInt8(ascii: "b"):
            return try resume(letter, &scanner)
        case UInt8(ascii: "H"): return try setThread(&scanner)
        case UInt8(ascii: "T"):
            let thread = try scanner.thread()
            try scanner.expectEnd()
            return .isAlive(thread)
        // `R XX`: the number means nothing. `D;PID` names the only process there is.
        case UInt8(ascii: "R"): return .restart
        case UInt8(ascii: "D"): return .detach
        default:
            guard scanner.isAtEnd else { return .unknown }
            return simple(letter)
        }
    }

    private static func simple(_ letter: UInt8) -> Command {
        switch letter {
        case UInt8(ascii: "?"): .stopReason
        case UInt8(ascii: "!"): .enableExtendedMode
        case UInt8(ascii: "g"): .readRegisters
        case UInt8(ascii: "k"): .kill
        default: .unknown
        }
    }

    // MARK: Registers and memory

    private static func registers(
        _ letter: UInt8, _ scanner: inout PacketScanner
    ) throws(CommandError) -> Command {
        if letter == UInt8(ascii: "G") { return .writeRegisters(try hex(scanner.rest)) }
        let number = try scanner.number("register", atMost: 0xFFFF)
        if letter == UInt8(ascii: "p") {
            try scanner.expectEnd()
            return .readRegister(number)
        }
        try scanner.expect("=")
        return .writeRegister(number, try hex(scanner.rest))
    }

    private static func memory(
        _ letter: UInt8, _ scanner: inout PacketScanner
    ) throws(CommandError) -> Command {
        let address = try scanner.number("address")
        try scanner.expect(",")
        let count = try scanner.number("length", atMost: Limits.memoryTransfer)
        // The last byte may be the last of memory, and no further.
        guard count == 0 || !address.addingReportingOverflow(UInt64(count - 1)).overflow else {
            throw CommandError("the range goes beyond the end of memory")
        }
        switch letter {
        case UInt8(ascii: "m"), UInt8(ascii: "x"):
            try scanner.expectEnd()
            return .readMemory(
                address: address, count: count, isBinary: letter == UInt8(ascii: "x"))
        default:
            try scanner.expect(":")
            let bytes =
                letter == UInt8(ascii: "X") ? Array(scanner.rest) : try hex(scanner.rest)
            guard bytes.count == count else {
                throw CommandError("malformed packet: \(bytes.count) bytes for \(count)")
            }
            return .writeMemory(address: address, bytes)
        }
    }

    private static func hex(_ text: ArraySlice<UInt8>) throws(CommandError) -> [UInt8] {
        guard let bytes = HexText.bytes(text) else {
            throw CommandError("malformed packet: data is not pairs of hexadecimal digits")
        }
        return bytes
    }

    // MARK: Breakpoints

    private static func breakpoint(
        _ scanner: inout PacketScanner
    ) throws(CommandError) -> Breakpoint {
        let type = try scanner.number("breakpoint type")
        guard type <= 4, let kind = Breakpoint.Kind(rawValue: UInt8(type)) else {
            throw CommandError("there are breakpoint types 0 to 4, not \(type)")
        }
        try scanner.expect(",")
        let address = try scanner.number("address")
        try scanner.expect(",")
        let length = try scanner.number("length")
        guard scanner.isAtEnd else {
            throw CommandError("conditions are left to the debugger: set them there")
        }
        // Of a breakpoint it is the length of an instruction that would be written.
        guard kind.isWatchpoint else { return Breakpoint(kind: kind, address: address) }
        guard (1...Limits.watchedBytes).contains(length) else {
            throw CommandError("a watchpoint covers 1 to \(Limits.watchedBytes) bytes")
        }
        guard !address.addingReportingOverflow(length - 1).overflow else {
            throw CommandError("the range goes beyond the end of memory")
        }
        return Breakpoint(kind: kind, address: address, length: length)
    }

    // MARK: Moving

    private static func resume(
        _ letter: UInt8, _ scanner: inout PacketScanner
    ) throws(CommandError) -> Command {
        switch letter {
        case UInt8(ascii: "b"):
            guard let direction = scanner.next(), scanner.isAtEnd else { return .unknown }
            switch direction {
            case UInt8(ascii: "c"): return .resume(.reverseContinue, thread: .any)
            case UInt8(ascii: "s"): return .resume(.reverseStep, thread: .any)
            default: return .unknown
            }
        case UInt8(ascii: "C"), UInt8(ascii: "S"):
            // A guest has no signals: the number says nothing to it.
            _ = try scanner.number("signal", atMost: 0xFF)
            _ = scanner.take(";")
        default: break
        }
        guard scanner.isAtEnd else {
            throw CommandError("a run starts where the machine stands: set rip first")
        }
        let isStep = letter == UInt8(ascii: "s") || letter == UInt8(ascii: "S")
        return .resume(isStep ? .step : .continue, thread: .any)
    }

    private static func verbose(_ scanner: inout PacketScanner) throws(CommandError) -> Command {
        if scanner.take("Cont?") { return scanner.isAtEnd ? .resumeKinds : .unknown }
        if scanner.take("Cont;") { return try threadActions(&scanner) }
        if scanner.take("MustReplyEmpty") { return .mustReplyEmpty }
        if scanner.take("Kill") { return .killAndReport }
        if scanner.take("Run") { return .restartAndReport }
        if scanner.take("File:") { return .file(try file(&scanner)) }
        return .unknown
    }

    /// `vCont;ACTION[:THREAD]...`: the first step wins, since one machine has one time.
    private static func threadActions(
        _ scanner: inout PacketScanner
    ) throws(CommandError) -> Command {
        var chosen: (action: ResumeAction, thread: Command.ThreadChoice)?
        var count = 0
        repeat {
            count += 1
            guard count <= Limits.threads else { throw CommandError("too many actions") }
            let action = try threadAction(&scanner)
            let thread = scanner.take(":") ? try scanner.thread() : .any
            guard scanner.isAtEnd || scanner.take(";") else {
                throw CommandError("malformed packet: ';' is missing")
            }
            if let action, chosen == nil || (chosen?.action == .continue && action != .continue) {
                chosen = (action, thread)
            }
        } while !scanner.isAtEnd
        guard let chosen else { return .stopThreads }
        return .resume(chosen.action, thread: chosen.thread)
    }

    /// One action; nil: `t`, which stops a thread and moves none.
    private static func threadAction(
        _ scanner: inout PacketScanner
    ) throws(CommandError) -> ResumeAction? {
        switch scanner.next() {
        case UInt8(ascii: "c"): return .continue
        case UInt8(ascii: "s"): return .step
        case UInt8(ascii: "C"):
            _ = try scanner.number("signal", atMost: 0xFF)
            return .continue
        case UInt8(ascii: "S"):
            _ = try scanner.number("signal", atMost: 0xFF)
            return .step
        case UInt8(ascii: "t"): return nil
        case UInt8(ascii: "r"):
            let start = try scanner.number("start of the range")
            try scanner.expect(",")
            let end = try scanner.number("end of the range")
            // An empty range is one step.
            return start < end ? .stepWhileIn(start..<end) : .step
        default: throw CommandError("vCont knows c, C, s, S, t and r")
        }
    }

    // MARK: Threads and files

    private static func setThread(_ scanner: inout PacketScanner) throws(CommandError) -> Command {
        let use: Command.ThreadUse
        switch scanner.next() {
        case UInt8(ascii: "g"): use = .general
        case UInt8(ascii: "c"): use = .resuming
        default: return .unknown
        }
        let thread = try scanner.thread()
        try scanner.expectEnd()
        return .setThread(use, thread)
    }

    private static func file(
        _ scanner: inout PacketScanner
    ) throws(CommandError) -> Command.FileRequest {
        if scanner.take("setfs:") { return .setFileSystem }
        if scanner.take("open:") {
            let name = try hex(scanner.upTo(","))
            try scanner.expect(",")
            let flags = try scanner.number("flags")
            return .open(name: name, flags: flags)
        }
        if scanner.take("pread:") {
            let descriptor = try scanner.number("descriptor")
            try scanner.expect(",")
            // More than fits is asked for as a matter of course; less is given.
            let count = min(try scanner.number("length"), UInt64(Limits.memoryTransfer))
            try scanner.expect(",")
            let offset = try scanner.number("offset")
            try scanner.expectEnd()
            return .read(descriptor: descriptor, count: Int(count), offset: offset)
        }
        if scanner.take("fstat:") { return .status(descriptor: try scanner.number("descriptor")) }
        if scanner.take("close:") { return .close(descriptor: try scanner.number("descriptor")) }
        return .other
    }
}
