internal import Machine

/// One debugger's conversation with a target: what it says comes in as events, what it is told
/// goes out as bytes. Knows nothing of descriptors and threads.
struct Session {
    /// What is to be done after an event.
    enum Next: Equatable {
        /// Nothing: more input is needed.
        case wait
        /// Something that may take long: ``perform(_:_:until:)``, with somebody watching for ^C.
        case work(Work)
        /// The conversation is over.
        case end(SessionEnding)
    }

    /// What may take long.
    enum Work: Equatable {
        case resume(ResumeAction, DebugThread.ID)
        case monitor(MonitorCommand)
        /// To the beginning; the debugger waits for a stop reply only where `reports`.
        case restart(reports: Bool)
    }

    /// Bytes to send. Whoever sends them empties it.
    var output: [UInt8] = []

    private var acknowledges = true
    /// What was sent last, for a debugger that refuses it.
    private var lastFrame: [UInt8] = []
    private var refusals = 0
    private static let refusalLimit = 32

    /// Whether the debugger shows the text of `E.text` in answer to everything.
    var showsErrorText = false
    var abilities = StopReply.Abilities()
    var showsHints = true
    var showsConsole = true
    /// The target's, from the first packet on.
    private(set) var layout = RegisterLayout.x86_64
    private var hasLayout = false
    var hasWarnedOfLongMode = false
    var space = MemorySpace.virtual
    var generalThread = Command.ThreadChoice.any
    var resumingThread = Command.ThreadChoice.any
    /// In extended mode a debugger stays when it has killed the machine, to run it again.
    var isExtended = false
    var isKilled = false
    private(set) var breakpoints: Set<Breakpoint> = []
    /// Lines for the console, which a debugger listens to only at times.
    private var unshown: [String] = []
    private static let unshownLimit = 4

    // MARK: Input

    /// Takes what arrived.
    mutating func take<Target: DebugTarget & ~Copyable>(
        _ event: Deframer.Event, _ target: inout Target
    ) -> Next {
        switch event {
        case .packet(let packet):
            refusals = 0
            if acknowledges { output.append(UInt8(ascii: "+")) }
            chooseLayout(&target)
            do throws(CommandError) {
                return answer(try CommandParser.parse(packet), &target)
            } catch {
                fail(DebugError(error.message))
            }
        case .broken(let damage): refuse(damage)
        case .acknowledgement: refusals = 0
        case .refusal:
            guard acknowledges else { return .wait }
            refusals += 1
            if refusals > Self.refusalLimit { return .end(.failed(.refusesEverything)) }
            output += lastFrame
        // It arrived when nothing was running any more.
        case .interrupt: break
        }
        return .wait
    }

    private mutating func chooseLayout<Target: DebugTarget & ~Copyable>(_ target: inout Target) {
        guard !hasLayout else { return }
        hasLayout = true
        let known = target.architecture ?? target.executable?.architecture
        let mode = try? target.registers(of: target.currentThread).system?.mode
        layout = RegisterLayout.of(known ?? mode.map { DebugArchitecture($0) } ?? .x86_64)
    }

    private mutating func refuse(_ damage: Deframer.Damage) {
        switch damage {
        case .checksum, .coding:
            if acknowledges {
                output.append(UInt8(ascii: "-"))
            } else {
                // Nobody sends it again, and somebody waits for an answer.
                fail(DebugError("a packet arrived damaged"))
            }
        case .oversized:
            if acknowledges { output.append(UInt8(ascii: "+")) }
            fail(DebugError("a packet may have \(Limits.packet) bytes, and this one has more"))
        }
    }

    // MARK: Output

    /// Sends a packet.
    mutating func send(_ payload: some Collection<UInt8>) {
        lastFrame = PacketFrame.framed(payload)
        output += lastFrame
    }

    /// Sends a packet of text.
    mutating func send(_ payload: String) { send(payload.utf8) }

    mutating func sendOK() { send("OK") }

    /// Says why something was not done.
    ///
    /// gdb takes `E.text` for an error in answer to most packets, whether or not it shows the text.
    mutating func fail(_ error: DebugError) {
        send(Array("E.".utf8) + PacketFrame.text(error.description))
    }

    /// Says why data cannot be had: gdb before 15 would decode `E.text` as data (`m`, `g`, `qRcmd`).
    mutating func failToRead(_ error: DebugError) {
        if showsErrorText { fail(error) } else { send("E01") }
    }

    /// Keeps a line for the next time that something can be shown.
    mutating func showLater(_ line: String) {
        if !unshown.contains(line), unshown.count < Self.unshownLimit { unshown.append(line) }
    }

    /// Shows what could not be shown before.
    mutating func showUnshown() {
        let lines = unshown
        unshown.removeAll()
        for line in lines { show(line + "\n") }
    }

    /// Shows text on the debugger's console. Only where it waits for a stop or for `qRcmd`.
    mutating func show(_ text: String) { show(text.utf8.prefix(Limits.monitorReply)) }

    /// Shows bytes as they are; see the other form.
    mutating func show(_ text: some Collection<UInt8>) {
        var rest = Array(text)[...]
        while !rest.isEmpty {
            send([UInt8(ascii: "O")] + HexText.bytes(rest.prefix(Self.consoleChunk)))
            rest = rest.dropFirst(Self.consoleChunk)
        }
    }

    private static let consoleChunk = 2048

    /// No acknowledgements from here on.
    mutating func stopAcknowledging() {
        sendOK()
        acknowledges = false
    }

    // MARK: Breakpoints

    mutating func insert<Target: DebugTarget & ~Copyable>(
        _ breakpoint: Breakpoint, _ target: inout Target
    ) {
        guard !breakpoints.contains(breakpoint) else { return sendOK() }
        guard breakpoints.count < Limits.breakpoints else {
            return fail(
                DebugError("there are \(Limits.breakpoints) breakpoints already: delete some"))
        }
        do throws(DebugError) {
            try target.insert(breakpoint)
            breakpoints.insert(breakpoint)
            sendOK()
        } catch {
            // gdb says only that it could not insert it.
            let what = breakpoint.kind.isWatchpoint ? "watchpoint" : "breakpoint"
            showLater("The \(what) at 0x\(String(breakpoint.address, radix: 16)): \(error)")
            fail(error)
        }
    }

    mutating func remove<Target: DebugTarget & ~Copyable>(
        _ breakpoint: Breakpoint, _ target: inout Target
    ) {
        guard breakpoints.contains(breakpoint) else { return sendOK() }
        do throws(DebugError) {
            try target.remove(breakpoint)
            breakpoints.remove(breakpoint)
            sendOK()
        } catch { fail(error) }
    }

    /// What an ending means, after all that was said before.
    func judged(_ ending: SessionEnding) -> SessionEnding {
        isKilled && (ending == .detached || ending == .disconnected) ? .killed : ending
    }

    /// Leaves the machine as a debugger found it, but for where it stands.
    mutating func close<Target: DebugTarget & ~Copyable>(_ target: inout Target) {
        // A target may see the order.
        let ordered = breakpoints.sorted {
            ($0.kind.rawValue, $0.address, $0.length) < ($1.kind.rawValue, $1.address, $1.length)
        }
        for breakpoint in ordered { try? target.remove(breakpoint) }
        breakpoints.removeAll()
    }
}

/// How a debugger's session ended.
public enum SessionEnding: Equatable, Sendable {
    /// `detach`, or the debugger quit.
    case detached
    /// `kill`: it wants the machine gone.
    case killed
    /// The connection ended without a word.
    case disconnected
    /// ``DebugServer/Stopper`` was used.
    case stopped
    /// The debugger cannot be talked to.
    case failed(Failure)

    /// Why a debugger cannot be talked to.
    public enum Failure: Equatable, Sendable, CustomStringConvertible {
        /// It refuses every packet that it gets.
        case refusesEverything
        /// Reading or writing failed; the system's text.
        case transport(String)

        /// One line.
        public var description: String {
            switch self {
            case .refusesEverything: "the debugger refuses every packet: not a debugger?"
            case .transport(let reason): "the connection to the debugger broke: \(reason)"
            }
        }
    }
}
