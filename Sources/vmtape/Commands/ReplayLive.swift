internal import Analysis
internal import ArgumentParser
internal import Devices
internal import Execution
internal import Glibc
internal import Guest
internal import Machine
internal import Trace

/// `replay --live-from` and `--devices`: the devices run again beside the tape, and take over.
struct LiveOptions: ParsableArguments {
    @Flag(
        help: ArgumentHelp(
            "Run the device models again too: their answers must be the recording's."))
    var devices = false

    @Option(
        help: ArgumentHelp(
            "Leave the tape at a position, as --at has it, and go on live, with the devices as they "
                + "were there.", valueName: "position"))
    var liveFrom: Destination?

    @Option(
        help: ArgumentHelp(
            "With --live-from: record the run into this new trace, the taped part included.",
            valueName: "file"))
    var record: String?

    @Option(
        name: .customLong("serial"),
        help: ArgumentHelp(
            "With --live-from: where the serial port prints once the run is live (default: stdio).",
            valueName: "stdio|none|file"))
    var serialGiven: SerialTarget?

    @Option(
        help: ArgumentHelp(
            "With --live-from: where the debug consoles print; with the serial port unless given.",
            valueName: "stdio|none|file"))
    var debugConsole: SerialTarget?

    @Option(
        help: ArgumentHelp(
            "With --live-from: feed this file to the serial port instead of the keyboard.",
            valueName: "file"))
    var input: String?

    @Option(
        help: ArgumentHelp(
            "With --live-from: end after this many exits, the taped ones included.",
            valueName: "n"))
    var maxExits: UInt64?

    @Option(
        help: ArgumentHelp(
            "With --live-from: end after this long, the taped part included.",
            valueName: "duration"))
    var timeout: Duration?

    /// The devices are run again.
    var isWanted: Bool { devices || liveFrom != nil }

    var serial: SerialTarget { serialGiven ?? .stdio }

    func validate() throws {
        guard case .position(let position) = liveFrom, let line = tooFewExits(for: position) else {
            return
        }
        throw ValidationError(line)
    }

    /// What is wrong with --max-exits where the run is to go live at a position; nil: nothing.
    func tooFewExits(for position: Position) -> String? {
        guard let maxExits, maxExits <= position.exitCount else { return nil }
        return "--max-exits \(maxExits) ends the run before it goes live (--live-from \(position))."
    }
}

/// Runs a trace with its devices.
struct ReplayLive {
    let options: LiveOptions
    let reader: TraceReader
    let isForced: Bool
    let cpu: Int?
    let isOverwriting: Bool
    let isQuiet: Bool
    /// Prints what the guest printed while the tape answered, too.
    let printsTapedOutput: Bool
    /// For the report of a divergence.
    let symbolOptions: SymbolOptions

    /// Where the tape is left; nil: nowhere.
    private var liveFrom: Position? {
        options.liveFrom.map {
            $0.position(inRunOf: reader.exitCount) ?? Position(exitCount: reader.exitCount)
        }
    }

    func run(_ host: borrowing Host) throws {
        if let liveFrom, let line = options.tooFewExits(for: liveFrom) {
            throw CommandFailure(status: Status.couldNot, line)
        }
        let leave = LeaveRequest()
        let console = options.liveFrom == nil ? nil : makeConsole(leave)
        defer { console?.stop() }
        let input = try makeInput(console)
        var session: BranchSession
        do throws(ExecutionError) {
            session = try BranchSession(
                host: host, reader: reader, options: branchOptions(), console: input)
        } catch { throw CommandFailure.couldNot(error) }
        leave.connect(session.stop)
        let isGuestOnTerminal =
            options.serial == .stdio && options.liveFrom != nil && isatty(STDOUT_FILENO) == 1
        let status = StatusLine(isWanted: !isGuestOnTerminal && !isQuiet)
        let progress = session.progress
        let outcome: BranchOutcome
        do throws(ExecutionError) {
            outcome = try session.run(
                SessionCallbacks(
                    abort: { signal in
                        ConsoleTerminal.restore()
                        _exit(128 + signal)
                    },
                    tick: { milliseconds in
                        status.update(milliseconds: milliseconds) {
                            "replaying: \(RunText.grouped(progress.exitCount)) exits"
                        }
                    }))
        } catch {
            status.clear()
            let kept = options.record.map { "; what was recorded until then is in \($0).partial" }
            throw CommandFailure(status: Status.couldNot, "\(error)\(kept ?? "")")
        }
        status.clear()
        console?.stop()
        try tell(outcome)
    }

    private func branchOptions() -> BranchOptions {
        var branch = BranchOptions()
        branch.liveFrom = liveFrom
        branch.cpu = cpu
        branch.isForced = isForced
        branch.printsTapedOutput = printsTapedOutput
        if options.liveFrom != nil || printsTapedOutput {
            branch.consoles.serial = LiveGuest.target(options.serial)
            branch.consoles.debugConsole = options.debugConsole.map(LiveGuest.target)
        }
        branch.exitLimit = options.maxExits ?? .max
        branch.supervision.timeoutMilliseconds = options.timeout?.milliseconds
        if let path = options.record {
            var recording = RecordSession.Recording(path: path)
            recording.overwrites = isOverwriting
            recording.hasTiming = reader.hasTiming
            recording.observed = RecordCommand.observedFacts()
            branch.recording = recording
        }
        return branch
    }

    private func makeConsole(_ leave: LeaveRequest) -> ConsoleSession? {
        guard options.serial == .stdio, options.input == nil else { return nil }
        do throws(DeviceError) { return try ConsoleSession { leave.request() } } catch {
            Message.note("\(error); the guest gets no input")
            return nil
        }
    }

    private func makeInput(
        _ console: ConsoleSession?
    ) throws(CommandFailure) -> ConsoleInput {
        guard let file = options.input else { return console?.input() ?? ConsoleInput() }
        do throws(GuestError) { return ConsoleInput(bytes: try GuestFile(path: file).bytes) } catch
            where error.kind == .empty
        { return ConsoleInput() } catch { throw CommandFailure.couldNot(error) }
    }

    private func tell(_ outcome: BranchOutcome) throws {
        let exits = RunText.grouped(outcome.report.exitCount)
        switch outcome.verdict {
        case .live(let ending):
            RunEpilogue.tell(
                outcome.report, unclaimed: outcome.unclaimed,
                outputFailure: outcome.outputFailure)
            if !isQuiet { tellLive(outcome, ending) }
            let code = RunText.status(ending, guestStatus: false)
            if code != Status.done { throw CommandFailure(status: code) }
        case .endOfTape where options.liveFrom == nil:
            if !isQuiet {
                Message.line(
                    "vmtape: replayed \(exits) exits with their devices: every answer is the "
                        + "recording's")
            }
        case .endOfTape:
            throw CommandFailure(
                status: Status.couldNot,
                "\(reader.path): the tape ends after \(exits) exits, before the run goes live")
        case .stopped:
            if !isQuiet { Message.line("vmtape: stopped by you after \(exits) exits of the tape") }
        case .disagreement(let disagreement):
            throw CommandFailure(
                status: Status.no,
                "\(reader.path): exit \(disagreement.exitNumber): \(disagreement.what); the "
                    + "devices cannot be brought to where they were")
        case .diverged(let divergence):
            try DivergenceText.tell(divergence, reader, symbolOptions)
            throw CommandFailure(status: Status.no)
        }
    }

    private func tellLive(_ outcome: BranchOutcome, _ ending: Ending) {
        let taped = liveFrom?.exitCount ?? 0
        let live = outcome.report.exitCount >= taped ? outcome.report.exitCount - taped : 0
        var text =
            "vmtape: replayed \(RunText.grouped(taped)) exits, then ran \(RunText.grouped(live)) "
            + "live: \(RunText.ending(ending))"
        if let summary = outcome.summary, let path = options.record {
            text += "; recorded to \(path): \(ByteSize.text(summary.fileBytes))"
        }
        Message.line(text)
    }
}
