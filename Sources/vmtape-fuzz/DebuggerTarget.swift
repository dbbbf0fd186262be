internal import GDBRemote
internal import Machine

/// A debugger's bytes. The first says what the rest is: bytes as they arrive, or packets a line
/// each, which get their frames here (libFuzzer does not guess checksums).
enum DebuggerTarget {
    static func run(_ input: [UInt8]) {
        guard let first = input.first else { return }
        var machine = CheckedMachine(
            isWritable: first & 2 != 0, architecture: first & 4 != 0 ? .x86_64 : nil)
        var conversation = Conversation()
        let interrupt = InterruptFlag()
        let rest = input.dropFirst()
        let bytes = first & 1 == 0 ? Array(rest) : framed(rest)
        // In pieces, as a connection gives them.
        for start in stride(from: 0, to: bytes.count, by: 1000) {
            let piece = bytes[start..<min(start + 1000, bytes.count)]
            check(conversation.receive(piece, &machine, until: interrupt))
        }
        conversation.close(&machine)
        require(machine.breakpoints.isEmpty, "no breakpoint outlives a session")
    }

    private static func framed(_ lines: some Collection<UInt8>) -> [UInt8] {
        var bytes: [UInt8] = []
        for line in lines.split(separator: 0x0A) {
            var body: [UInt8] = []
            for byte in line {
                if byte == 0x23 || byte == 0x24 || byte == 0x7D {
                    body += [0x7D, byte ^ 0x20]
                } else {
                    body.append(byte)
                }
            }
            let sum = body.reduce(0 as UInt8) { $0 &+ $1 }
            bytes += [0x24] + body + [0x23] + String(UInt32(sum) + 0x100, radix: 16).utf8.suffix(2)
        }
        return bytes
    }

    /// What is sent must be acknowledgements and packets with the right checksums.
    private static func check(_ output: [UInt8]) {
        var index = 0
        while index < output.count {
            if output[index] == 0x2B || output[index] == 0x2D {
                index += 1
                continue
            }
            require(output[index] == 0x24, "nothing is sent between packets")
            guard let end = output[index...].firstIndex(of: 0x23), end + 2 < output.count else {
                return require(false, "a packet has an end")
            }
            let body = output[(index + 1)..<end]
            require(!body.contains(0x24), "a packet's bytes are escaped")
            require(body.count <= Limits.packet, "a packet is as long as was said")
            let sum = body.reduce(0 as UInt8) { $0 &+ $1 }
            let digits = String(decoding: output[(end + 1)...(end + 2)], as: UTF8.self)
            require(UInt8(digits, radix: 16) == sum, "a checksum is right")
            index = end + 3
        }
    }
}

/// A machine that holds the server to what it promises a target.
private struct CheckedMachine: DebugTarget, ~Copyable {
    let isWritable: Bool
    let architecture: DebugArchitecture?
    var breakpoints: Set<Breakpoint> = []
    private var state = TargetRegisters(
        general: GeneralRegisters(), system: SystemRegisters(), kernelGSBase: 0,
        floatingPoint: FloatingPointState([UInt8](repeating: 0, count: 512)))
    private var memory = [UInt8](repeating: 0x2A, count: 4096)
    private var steps: UInt64 = 0

    let threads = [DebugThread(id: 1, name: "vCPU 0"), DebugThread(id: 2, name: "vCPU }#$*")]
    let currentThread: DebugThread.ID = 1
    let executable: DebugExecutable? = DebugExecutable(
        name: "guest", bytes: [UInt8](repeating: 0x7D, count: 100_000))

    init(isWritable: Bool, architecture: DebugArchitecture?) {
        self.isWritable = isWritable
        self.architecture = architecture
    }

    private func check(_ thread: DebugThread.ID) {
        require(thread == 1 || thread == 2, "a thread is one of those there are")
    }

    func registers(of thread: DebugThread.ID) throws(DebugError) -> TargetRegisters {
        check(thread)
        return state
    }

    mutating func setRegisters(
        _ registers: TargetRegisters, of thread: DebugThread.ID
    ) throws(DebugError) {
        check(thread)
        require(isWritable, "the past is not written to")
        state = registers
    }

    /// Physical memory starts at 0, virtual memory at the end of the address space.
    private func index(_ address: UInt64, _ count: Int, _ space: MemorySpace) -> Int? {
        require(count > 0 && count <= Limits.memoryTransfer, "a transfer is bounded")
        require(
            !address.addingReportingOverflow(UInt64(count - 1)).overflow, "memory does not wrap")
        let offset = space == .physical ? address : address &+ UInt64(memory.count)
        return offset < UInt64(memory.count) ? Int(offset) : nil
    }

    func read(
        _ address: UInt64, count: Int, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) -> [UInt8] {
        check(thread)
        guard let start = index(address, count, space) else { return [] }
        return Array(memory[start...].prefix(count))
    }

    mutating func write(
        _ bytes: [UInt8], at address: UInt64, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) {
        check(thread)
        require(isWritable, "the past is not written to")
        guard let start = index(address, bytes.count, space), start + bytes.count <= memory.count
        else { throw DebugError("nothing is there # $ } *") }
        memory.replaceSubrange(start..<start + bytes.count, with: bytes)
    }

    mutating func insert(_ breakpoint: Breakpoint) throws(DebugError) {
        let bound = breakpoint.kind.isWatchpoint ? Limits.watchedBytes : 1
        require((1...bound).contains(breakpoint.length), "a breakpoint's length is bounded")
        require(
            !breakpoint.address.addingReportingOverflow(breakpoint.length - 1).overflow,
            "a watchpoint does not wrap")
        // Odd ones do not work here.
        if breakpoint.address & 1 != 0 { throw DebugError("not there") }
        require(breakpoints.insert(breakpoint).inserted, "a breakpoint is inserted once")
        require(breakpoints.count <= Limits.breakpoints, "breakpoints are bounded")
    }

    mutating func remove(_ breakpoint: Breakpoint) throws(DebugError) {
        require(breakpoints.remove(breakpoint) != nil, "a breakpoint is removed that is there")
    }

    mutating func resume(
        _ action: ResumeAction, thread: DebugThread.ID, until interrupt: InterruptFlag
    ) throws(DebugError) -> StopEvent {
        check(thread)
        if case .stepWhileIn(let range) = action { require(!range.isEmpty, "a range has a place") }
        steps &+= 1
        let address = steps &* 0x9E37_79B9_7F4A_7C15
        switch steps % 8 {
        case 0: throw DebugError("torn")
        case 1: return StopEvent(.historyBegin, thread: thread)
        case 2: return StopEvent(.historyEnd, thread: thread, note: "}#$*\n")
        case 3: return StopEvent(.divergence("other"), thread: thread)
        case 4: return StopEvent(.watchpoint(.access, address: address), thread: thread)
        case 5: return StopEvent(.breakpoint(.hardware), thread: 2)
        default: return StopEvent(.step, thread: thread)
        }
    }

    mutating func monitor(
        _ command: MonitorCommand, until interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        switch command {
        case .exits(let range):
            require(range.map { $0.count <= 1000 } ?? true, "a list is bounded")
        case .lastWrite(let address, let length):
            require((1...Limits.watchedBytes).contains(length), "a length is bounded")
            require(!address.addingReportingOverflow(length - 1).overflow, "memory does not wrap")
        case .disassemble(_, let count): require((1...1000).contains(count), "a list is bounded")
        case .checkpoint: throw DebugError("no room for \(command)")
        default: break
        }
        return MonitorReply("\(command) }#$*\u{0}", didMove: true)
    }
}
