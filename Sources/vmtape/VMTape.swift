internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Glibc

/// The command line: one file a command, under Commands.
@main
struct VMTape: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vmtape",
        abstract: "Record the run of a whole virtual machine, replay it exactly, compare runs.",
        discussion: """
            vmtape runs a guest under KVM and records every VM exit: reason, registers, and the \
            data that went in and out. The trace replays from itself alone, and every exit is \
            compared as it happens.

              vmtape record -o boot.vmtape kernel.elf -- console=ttyS0
              vmtape replay boot.vmtape
              vmtape dump boot.vmtape 100..120

            Data goes to stdout, everything else to stderr. Exit status: 0 yes or done; 1 the \
            answer is no (diverged, damaged, different); 2 it could not be done; 64 usage.
            """,
        version: "0.1.0",
        subcommands: [
            RunCommand.self, RecordCommand.self, ReplayCommand.self, InfoCommand.self,
            DumpCommand.self, FindCommand.self, StatCommand.self, DiffCommand.self,
            ExportCommand.self, GDBCommand.self,
            ConsoleCommand.self,
            VerifyCommand.self,
            DoctorCommand.self,
        ])

    static func main() {
        // Before any file is opened.
        StandardStreams.open()
        // Before any thread exists, so that every thread inherits the mask.
        Supervisor.blockSignals()
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch let failure as CommandFailure {
            if let message = failure.message { Message.error(message) }
            Glibc.exit(failure.status)
        } catch {
            Self.exit(withError: error)
        }
    }
}

/// A command's end that is not "done": its status, and one line unless all has been said.
struct CommandFailure: Error {
    var status: Int32
    var message: String?

    init(status: Int32, _ message: String? = nil) {
        self.status = status
        self.message = message
    }

    /// It could not be done.
    static func couldNot(_ error: some Error) -> CommandFailure {
        CommandFailure(status: Status.couldNot, String(describing: error))
    }
}

/// Runs something, and turns its error into one line and status 2.
func attempt<Result: ~Copyable, Failure: Error>(
    _ body: () throws(Failure) -> Result
) throws(CommandFailure) -> Result {
    do throws(Failure) { return try body() } catch { throw CommandFailure.couldNot(error) }
}
