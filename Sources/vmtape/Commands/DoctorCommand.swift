internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Glibc
internal import KVM
internal import Machine

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Say what this host's KVM can do, by running tiny guests on it.",
        discussion: """
            The facts that a trace keeps of its host. Those marked * are behaviour: where they \
            differ, a trace is not replayed here unless forced.
            """)

    @Flag(help: "One JSON object a line, schema vmtape.doctor/1.")
    var json = false

    func run() throws {
        let host = try attempt { () throws(ExecutionError) in try Host() }
        let facts = host.probe.facts
        let stream = OutputStream(descriptor: STDOUT_FILENO)
        if json {
            var writer = JSONWriter(stream)
            for fact in facts.facts {
                Self.write(fact.name, fact.value, fact.weight == .behaviour, &writer)
            }
            for treatment in HiddenInputs.treatments(host.probe.behaviour) {
                Self.write("hidden-input.\(treatment.name)", treatment.text, false, &writer)
            }
        } else {
            let width = facts.facts.map(\.name.count).max() ?? 0
            for fact in facts.facts {
                let mark = fact.weight == .behaviour ? "*" : " "
                let gap = String(repeating: " ", count: width - fact.name.count)
                stream.write("\(mark) \(fact.name)\(gap)  \(fact.value)\n")
            }
            stream.write("\nWhat guests can read of the outside world without an exit:\n")
            let treatments = HiddenInputs.treatments(host.probe.behaviour)
            let names = treatments.map(\.name.count).max() ?? 0
            for treatment in treatments {
                let gap = String(repeating: " ", count: names - treatment.name.count)
                stream.write("  \(treatment.name)\(gap)  \(treatment.text)\n")
            }
        }
        try stream.finish()
    }

    private static func write(
        _ name: String, _ value: String, _ isBehaviour: Bool, _ writer: inout JSONWriter
    ) {
        writer.beginObject()
        writer.key("schema")
        writer.value("vmtape.doctor/1")
        writer.key("name")
        writer.value(name)
        writer.key("value")
        writer.value(value)
        writer.key("behaviour")
        writer.value(isBehaviour)
        writer.endObject()
        writer.endLine()
    }
}
