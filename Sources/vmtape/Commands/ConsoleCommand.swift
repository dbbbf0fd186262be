internal import Analysis
internal import ArgumentParser
internal import Glibc
internal import Trace

struct ConsoleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "console",
        abstract: "Print what the guest printed, byte for byte.",
        discussion: """
            What went out of the serial port and the debug consoles, rebuilt from the recorded \
            port writes.
            """)

    @Argument(help: "The trace.")
    var file: String

    @Flag(help: "One JSON object an exit that printed, schema vmtape.console/1; bytes in hex.")
    var json = false

    func run() throws {
        let reader = try TraceFile.open(file)
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        var writer = JSONWriter(stream)
        var console = ConsoleExtractor(machine: reader.header.machine)
        let query = try ExitQuery(filter: nil, range: nil)
        let isSound = query.forEach(reader, names: AddressNames()) { frame in
            console.add(frame)
            if !console.output.isEmpty, json {
                writer.beginObject()
                writer.key("schema")
                writer.value("vmtape.console/1")
                writer.key("exit")
                writer.value(frame.number)
                writer.key("bytes")
                writer.value(hexBytes: console.output)
                writer.endObject()
                writer.endLine()
                console.removeOutput()
            } else if !console.output.isEmpty {
                stream.write(bytes: console.output)
                console.removeOutput()
            }
            return !stream.hasFailed
        } onDamage: { error in
            Message.note("\(error); what the guest printed there is missing")
        }
        try stream.finish()
        if !isSound { throw CommandFailure(status: Status.no) }
    }
}
