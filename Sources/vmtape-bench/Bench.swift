internal import Execution
internal import Glibc

/// All measurements, in one run.
struct Bench: ~Copyable {
    let options: BenchOptions
    let host: Host

    init(_ options: BenchOptions) throws {
        self.options = options
        host = try Host()
    }

    func path(_ name: String) -> String { "\(options.directory)/\(name).vmtape" }

    func run() throws -> [Figure] {
        var figures = try loops()
        figures += try encoding()
        figures += try recordings()
        figures += try tboot()
        figures += try allocationsAndMemory()
        return figures
    }
}
