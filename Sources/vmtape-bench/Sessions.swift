internal import Devices
internal import Execution
internal import Guest
internal import Trace

/// The guests as the bench starts them.
struct BenchGuest {
    private var configuration: LiveConfiguration

    /// What is loaded.
    var plan: LoadPlan { configuration.plan }

    /// - Parameter cpu: the host's CPU it runs on: all that is compared runs on the same.
    init(_ path: String, rounds: Int? = nil, cpu: Int, ramBytes: UInt64 = 64 << 20) throws {
        var options = LoadOptions()
        if let rounds { options.commandLine = String(rounds) }
        configuration = LiveConfiguration(
            plan: try LoadPlan(
                image: GuestFile(path: path), options: options,
                ram: RAMLayout(lengthInBytes: ramBytes)))
        configuration.cpu = cpu
    }

    /// `vmtape run`: its time, and exits.
    func run(_ host: borrowing Host) throws -> (time: LoopTime, exits: Double) {
        var session = try RunSession(
            host: host, configuration: configuration, devices: DeviceSet(.init()))
        let report = try session.run(SessionCallbacks())
        return (LoopTime(report), Double(report.exitCount))
    }

    /// `vmtape record`.
    func record(
        _ host: borrowing Host, to path: String, timing: Bool = true
    ) throws -> RecordOutcome {
        var recording = RecordSession.Recording(path: path)
        recording.overwrites = true
        recording.hasTiming = timing
        let session = try RecordSession(
            host: host, configuration: configuration, devices: DeviceSet(.init()),
            recording: recording)
        return try session.run(SessionCallbacks())
    }
}

/// How long a loop took.
struct LoopTime {
    /// On the wall.
    var nanoseconds: Double
    /// On the CPU: what others take of the machine is not in it.
    var onCPU: Double

    init(nanoseconds: Double, onCPU: Double) {
        self.nanoseconds = nanoseconds
        self.onCPU = onCPU
    }

    init(_ report: RunReport) {
        nanoseconds = Double(report.nanoseconds)
        onCPU = Double(report.nanosecondsOnCPU)
    }
}

/// `vmtape replay`: its time. Without a CPU in the trace it runs on the first.
func replay(_ host: borrowing Host, _ path: String) throws -> LoopTime {
    let session = try ReplaySession(host: host, reader: TraceReader(path: path))
    let outcome = try session.run(SessionCallbacks())
    guard case .identical = outcome.verdict else {
        throw BenchError(message: "\(path): the replay is not identical: \(outcome.verdict)")
    }
    return LoopTime(outcome.report)
}
