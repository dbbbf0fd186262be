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

    func run() throws {
        let reader = try TraceFile.open(file)
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        var console = ConsoleExtractor(machine: reader.header.machine)
        var query = try ExitQuery(filter: nil, range: nil)
        var isDamaged = false
        try query.forEach(reader, names: AddressNames()) { frame in
            console.add(frame)
            if !console.output.isEmpty {
                stream.write(bytes: console.output)
                console.removeOutput()
            }
            return !stream.hasFailed
        } onDamage: { error in
            Message.note("\(error); what the guest printed there is missing")
            isDamaged = true
        }
        try stream.finish()
        if isDamaged { throw CommandFailure(status: Status.no) }
    }
}
