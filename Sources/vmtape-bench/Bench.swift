internal import Execution
internal import KVM

/// All measurements, in one run.
struct Bench: ~Copyable {
    let options: BenchOptions
    let host: Host
    /// Where all vCPUs run, the bare loop's too: the first, which is a replay's own choice.
    let cpu: Int

    init(_ options: BenchOptions) throws {
        let first = try HostThread.allowedCPUs().first ?? 0
        let opened = try Host()
        self.options = options
        host = opened
        cpu = first
    }

    func path(_ name: String) -> String { "\(options.directory)/\(name).vmtape" }

    func run() throws -> [Figure] {
        if options.isTravelOnly { return try travel() }
        var figures = try loops()
        if options.isLoopsOnly { return figures }
        figures += try travel()
        figures += try encoding()
        figures += try recordings()
        figures += try tboot()
        figures += try allocationsAndMemory()
        return figures
    }
}
