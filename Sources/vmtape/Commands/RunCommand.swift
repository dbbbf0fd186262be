internal import ArgumentParser
internal import Devices
internal import Execution
internal import Glibc

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run a guest live; nothing is recorded.",
        discussion: """
            The guest's serial port is this terminal (raw; Ctrl-A X leaves, Ctrl-A H helps). \
            A guest ends the run by HLT, by a reset, by a triple fault, or by writing a status to \
            port 0xf4.
            """)

    @OptionGroup var guest: GuestOptions

    @Flag(help: ArgumentHelp("Print exits and time taken on stderr at the end."))
    var summary = false

    func run() throws {
        let host = try attempt { () throws(ExecutionError) in try Host() }
        let live = try LiveGuest(guest)
        let devices = try live.makeDevices(guest)
        var session = try RunSession.make(host, live.configuration, devices)
        let callbacks = live.callbacks(stop: session.stop)
        let report: RunReport
        do throws(ExecutionError) {
            report = try session.run(callbacks)
        } catch {
            live.close()
            throw CommandFailure.couldNot(error)
        }
        session.flush()
        live.close()
        RunEpilogue.tell(
            report, unclaimed: session.unclaimed, outputFailure: session.outputFailure)
        if summary {
            Message.line(
                "vmtape: ran \(RunText.grouped(report.exitCount)) exits in "
                    + "\(RunText.duration(nanoseconds: report.nanoseconds)); "
                    + RunText.ending(report.ending))
        }
        let status = RunText.status(report.ending, guestStatus: guest.guestStatus)
        if status != Status.done { throw CommandFailure(status: status) }
    }
}

extension RunSession {
    /// Makes a session; its failure is the command's.
    static func make(
        _ host: borrowing Host, _ configuration: LiveConfiguration,
        _ devices: consuming DeviceSet
    ) throws(CommandFailure) -> RunSession {
        do throws(ExecutionError) {
            return try RunSession(host: host, configuration: configuration, devices: devices)
        } catch { throw CommandFailure.couldNot(error) }
    }
}
