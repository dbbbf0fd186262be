internal import Analysis
internal import ArgumentParser
internal import Glibc

struct InfoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Say what a trace holds: machine, host, images, counts, sizes, completeness.")

    @Argument(help: "The trace.")
    var file: String

    @Flag(help: "One JSON object, schema vmtape.info/1.")
    var json = false

    func run() throws {
        let reader = try TraceFile.open(file)
        let terminal = Terminal(STDOUT_FILENO)
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        let info = TraceInfo(reader)
        if json {
            info.writeJSON(to: stream)
        } else {
            info.write(
                to: stream, style: TextStyle(width: terminal.width, hasColour: terminal.hasColour))
        }
        try stream.finish()
    }
}
