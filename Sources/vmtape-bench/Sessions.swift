internal import Devices
internal import Execution
internal import Guest
internal import Trace

/// The guests as the bench starts them.
struct BenchGuest {
    var plan: LoadPlan

    init(_ path: String, rounds: Int? = nil, ramBytes: UInt64 = 64 << 20) throws {
        var options = LoadOptions()
        if let rounds { options.commandLine = String(rounds) }
        plan = try LoadPlan(
            image: GuestFile(path: path), options: options, ram: RAMLayout(lengthInBytes: ramBytes))
    }

    /// `vmtape run`: nanoseconds of the loop, and exits.
    func run(_ host: borrowing Host) throws -> (nanoseconds: Double, exits: Double) {
        var session = try RunSession(
            host: host, configuration: LiveConfiguration(plan: plan), devices: DeviceSet(.init()))
        let report = try session.run(SessionCallbacks())
        return (Double(report.nanoseconds), Double(report.exitCount))
    }

    /// `vmtape record`.
    func record(
        _ host: borrowing Host, to path: String, timing: Bool = true
    ) throws -> RecordOutcome {
        var recording = RecordSession.Recording(path: path)
        recording.overwrites = true
        recording.hasTiming = timing
        let session = try RecordSession(
            host: host, configuration: LiveConfiguration(plan: plan), devices: DeviceSet(.init()),
            recording: recording)
        return try session.run(SessionCallbacks())
    }
}

/// `vmtape replay`: nanoseconds of the loop.
func replay(_ host: borrowing Host, _ path: String) throws -> Double {
    let session = try ReplaySession(host: host, reader: TraceReader(path: path))
    let outcome = try session.run(SessionCallbacks())
    guard case .identical = outcome.verdict else {
        throw BenchError(message: "\(path): the replay is not identical: \(outcome.verdict)")
    }
    return Double(outcome.report.nanoseconds)
}
