internal import Analysis
internal import ArgumentParser
internal import Devices
internal import Execution
internal import Glibc
internal import Trace

struct RecordCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "record", abstract: "Run a guest and record every exit into a trace.",
        discussion: """
            The trace is FILE.partial until the run has ended; what was recorded stays readable \
            there if vmtape is killed. The first Ctrl-C or SIGTERM ends the run and completes the \
            trace, a second one aborts. The trace holds the guest's image and everything it was \
            told, secrets included: it is readable by you alone.
            """)

    @OptionGroup var guest: GuestOptions

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp(
            "Where the trace goes. Default: IMAGE's name with .vmtape, numbered if that exists.",
            valueName: "file"))
    var output: String?

    @Flag(help: "Replace an existing trace.")
    var force = false

    @Option(
        help: ArgumentHelp(
            "Record host time and other observed facts; off makes equal runs give equal files.",
            valueName: "on|off"))
    var timing: OnOff = .on

    @Option(
        help: ArgumentHelp(
            "Record what the devices took from outside (time, keys), so that they can be run again "
                + "and a replay can go on live.", valueName: "on|off"))
    var world: OnOff = .on

    @Option(help: ArgumentHelp("End when the trace has about this size.", valueName: "size"))
    var maxSize: ByteSize?

    @Flag(name: .shortAndLong, help: "No summary.")
    var quiet = false

    func run() throws {
        let host = try attempt { () throws(ExecutionError) in try Host() }
        let live = try LiveGuest(guest)
        let devices = try live.makeDevices(guest)
        var recording = RecordSession.Recording(path: output ?? Self.defaultPath(guest.image))
        recording.overwrites = force
        recording.hasTiming = timing == .on
        recording.hasWorldStream = world == .on
        recording.observed = Self.observedFacts()
        recording.maximumBytes = maxSize?.bytes
        let path = recording.path
        let session = try Self.makeSession(host, live.configuration, devices, recording)
        // Two writers on one terminal would write over each other: the guest goes first.
        let isGuestOnTerminal = guest.serial == .stdio && isatty(STDOUT_FILENO) == 1
        let status = StatusLine(isWanted: !isGuestOnTerminal && !quiet)
        let progress = session.progress
        let callbacks = live.callbacks(stop: session.stop) { milliseconds in
            status.update(milliseconds: milliseconds) {
                Self.statusText(progress, milliseconds: milliseconds)
            }
        }
        let outcome: RecordOutcome
        do throws(ExecutionError) {
            outcome = try session.run(callbacks)
        } catch {
            status.clear()
            live.close()
            throw CommandFailure(
                status: Status.couldNot,
                "\(error); what was recorded until then is in \(path).partial")
        }
        status.clear()
        live.close()
        let report = outcome.report
        RunEpilogue.tell(
            report, unclaimed: outcome.unclaimed, outputFailure: outcome.outputFailure)
        if !quiet { tellSummary(outcome, path) }
        let code = RunText.status(report.ending, guestStatus: guest.guestStatus)
        if code != Status.done { throw CommandFailure(status: code) }
    }

    private func tellSummary(_ outcome: RecordOutcome, _ path: String) {
        let summary = outcome.summary
        let perExit =
            summary.exitCount == 0
            ? ""
            : ", \(RunText.decimal(Double(summary.eventBytes) / Double(summary.exitCount))) bytes an exit"
        Message.line(
            "vmtape: recorded \(RunText.grouped(summary.exitCount)) exits in "
                + "\(RunText.duration(nanoseconds: outcome.report.nanoseconds)) to \(path): "
                + "\(ByteSize.text(summary.fileBytes))\(perExit); "
                + RunText.ending(outcome.report.ending))
    }

    private static func statusText(_ progress: TraceProgress, milliseconds: UInt64) -> String {
        let exits = progress.exitCount
        let bytes = progress.bytesWritten
        let perSecond = milliseconds == 0 ? 0 : exits * 1000 / milliseconds
        let perExit = exits == 0 ? 0 : Double(bytes) / Double(exits)
        return "recording: \(RunText.grouped(exits)) exits, \(RunText.grouped(perSecond))/s, "
            + "\(ByteSize.text(bytes)), \(RunText.decimal(perExit)) bytes/exit"
    }

    private static func makeSession(
        _ host: borrowing Host, _ configuration: LiveConfiguration,
        _ devices: consuming DeviceSet, _ recording: RecordSession.Recording
    ) throws(CommandFailure) -> RecordSession {
        do throws(ExecutionError) {
            return try RecordSession(
                host: host, configuration: configuration, devices: devices, recording: recording)
        } catch .trace(let error) where error.code == .exists {
            throw CommandFailure(
                status: Status.couldNot, "\(error.description) (--force replaces it)")
        } catch { throw CommandFailure.couldNot(error) }
    }

    /// `kernel.elf` gives `kernel.vmtape`, then `kernel-2.vmtape`: nothing recorded is lost.
    static func defaultPath(_ image: String) -> String {
        var name = image.split(separator: "/").last.map(String.init) ?? "guest"
        for suffix in [".gz", ".elf", ".bin", ".rom", ".img"] where name.hasSuffix(suffix) {
            if name.count > suffix.count { name.removeLast(suffix.count) }
        }
        func isTaken(_ path: String) -> Bool {
            // SAFETY: Swift passes NUL-terminated strings for the calls.
            unsafe access(path, F_OK) == 0 || access(path + ".partial", F_OK) == 0
        }
        var path = "\(name).vmtape"
        var number = 2
        while isTaken(path) {
            path = "\(name)-\(number).vmtape"
            number += 1
        }
        return path
    }

    static func observedFacts() -> ObservedFacts {
        var now = timespec()
        var name = [CChar](repeating: 0, count: 256)
        // SAFETY: both calls fill what they are given; the array has one byte more than is offered.
        unsafe clock_gettime(CLOCK_REALTIME, &now)
        let hasName = unsafe gethostname(&name, name.count - 1) == 0
        let bytes = name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        return ObservedFacts(
            creationNanoseconds: UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec),
            command: CommandLine.arguments,
            hostName: hasName ? String(decoding: bytes, as: UTF8.self) : "", properties: [])
    }
}

/// A switch with a value, as in `--timing off`.
enum OnOff: String, ExpressibleByArgument, CaseIterable {
    case on
    case off
}
