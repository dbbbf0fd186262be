internal import Execution
internal import KVM
internal import Machine
internal import Trace

extension Bench {
    /// How big traces of the polling guest are, and how fast they are read.
    func recordings() throws -> [Figure] {
        let guest = try BenchGuest(options.guest, rounds: options.roundsPerRecording, cpu: cpu)
        let timed = path("timed")
        let outcome = try guest.record(host, to: timed)
        let untimed = try guest.record(host, to: path("untimed"), timing: false)
        let exits = Double(outcome.summary.exitCount)
        var readings: [Double] = []
        for _ in 0..<5 { readings.append(try read(timed, expecting: outcome.summary.exitCount)) }
        let recordedIn = Double(outcome.report.nanoseconds)
        let reading = median(readings)
        return [
            Figure(
                name: "trace bytes/exit without timing",
                value: Double(untimed.summary.eventBytes) / Double(untimed.summary.exitCount),
                unit: "", goal: .atMost(1),
                note: "\(untimed.summary.eventBytes) bytes, \(untimed.summary.exitCount) exits"),
            Figure(
                name: "trace bytes/exit with timing",
                value: Double(outcome.summary.eventBytes) / exits, unit: "", goal: .atMost(2.5),
                note: "\(outcome.summary.eventBytes) bytes, \(outcome.summary.exitCount) exits"),
            Figure(
                name: "recording / reading all exits back", value: recordedIn / reading, unit: "x",
                goal: .atLeast(40),
                note: "\(Figure.short(recordedIn / exits)) and "
                    + "\(Figure.short(reading / exits)) ns/exit"),
        ]
    }

    /// Goes through all exits with their registers; nanoseconds.
    private func read(_ path: String, expecting count: UInt64) throws -> Double {
        let start = HostThread.monotonicNanoseconds()
        var cursor = try TraceReader(path: path).events()
        var exits: UInt64 = 0
        var sum: UInt64 = 0
        while let event = try cursor.next() {
            if case .exit = event {
                exits += 1
                sum ^= cursor.registers.rip
            }
        }
        let end = HostThread.monotonicNanoseconds()
        guard exits == count, sum != 1 else {
            throw BenchError(message: "\(path): read \(exits) exits of \(count)")
        }
        return Double(end - start)
    }

    /// What a real guest's exits take.
    func tboot() throws -> [Figure] {
        guard let image = options.tboot else {
            complain("vmtape-bench: no tboot here: its bytes an exit are left out")
            return []
        }
        let guest = try BenchGuest(image, cpu: cpu)
        let summary = try guest.record(host, to: path("tboot")).summary
        let exits = Double(summary.exitCount)
        return [
            Figure(
                name: "trace bytes/exit of tboot", value: Double(summary.eventBytes) / exits,
                unit: "", goal: .atMost(8),
                note: "\(summary.eventBytes) bytes, \(summary.exitCount) exits, with timing")
        ]
    }
}
