internal import Execution
internal import KVM
internal import Machine
internal import Trace

/// Travelling in recorded runs: how long it takes to stand somewhere, and what keyframes take.
extension Bench {
    func travel() throws -> [Figure] {
        try seeking() + reverseSteps()
    }

    /// Random numbers, the same in each run.
    private struct Dice {
        private var state: UInt64 = 0x7A9E

        mutating func below(_ bound: UInt64) -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (state >> 16) % max(1, bound)
        }
    }

    private func milliseconds(since start: UInt64) -> Double {
        Double(HostThread.monotonicNanoseconds() - start) / 1e6
    }

    /// A long trace of the polling guest: any position, against replaying the interval it lies in.
    private func seeking() throws -> [Figure] {
        let guest = try BenchGuest(
            options.guest, rounds: options.roundsPerRecording * 10 / 3, cpu: cpu)
        let trace = path("travel")
        _ = try guest.record(host, to: trace, timing: false)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: trace))
        let exits = machine.reader.exitCount
        let start = HostThread.monotonicNanoseconds()
        guard case .historyEnd = try machine.seekEnd() else {
            throw BenchError(message: "\(trace): its end is not reached")
        }
        let first = milliseconds(since: start)
        let second = try secondSession(&machine, trace)
        let summary = machine.keyframeSummary
        var dice = Dice()
        var times: [Double] = []
        for _ in 0..<60 {
            let target = Position(exitCount: dice.below(exits), instructions: dice.below(4))
            let start = HostThread.monotonicNanoseconds()
            guard case .arrived = try machine.seek(to: target) else {
                throw BenchError(message: "\(trace): \(target) is not reached")
            }
            times.append(milliseconds(since: start))
        }
        let interval = first / Double(summary.count)
        let note =
            "\(exits) exits replayed in \(Figure.short(first)) ms with \(summary.count) keyframes, "
            + "median seek \(Figure.short(median(times))) ms"
        return [
            Figure(
                name: "longest seek / keyframe interval", value: (times.max() ?? 0) / interval,
                unit: "", goal: .atMost(2), note: note),
            Figure(
                name: "memory of keyframes", value: Double(summary.byteCount) / 1048576,
                unit: "MiB", goal: .atMost(256), note: "cap \(summary.byteLimit) bytes"),
            Figure(
                name: "second session to the end / first", value: second.milliseconds / first,
                unit: "", goal: .atMost(0.1),
                note: "\(Figure.short(second.milliseconds)) ms with the keyframe file, "
                    + "\(second.fileBytes) bytes, and \(second.exits) exits replayed"),
        ]
    }

    /// What another session takes to the end of a trace, with the keyframes of this one.
    private func secondSession(
        _ machine: inout TimeMachine, _ trace: String
    ) throws -> (milliseconds: Double, exits: UInt64, fileBytes: UInt64) {
        let file = try machine.saveKeyframes(to: trace + ".keys")
        let reader = try TraceReader(path: trace)
        let start = HostThread.monotonicNanoseconds()
        var second = try TimeMachine(host: host, reader: reader)
        _ = try second.useKeyframes(of: trace + ".keys")
        guard case .historyEnd = try second.seekEnd() else {
            throw BenchError(message: "\(trace): its end is not reached from its keyframes")
        }
        return (milliseconds(since: start), second.replayedExits, file.fileBytes)
    }

    /// The Embedded Swift sample: one instruction back, from anywhere.
    private func reverseSteps() throws -> [Figure] {
        let directory = options.guest.split(separator: "/", omittingEmptySubsequences: false)
        let sample = (directory.dropLast() + ["swift-kernel"]).joined(separator: "/")
        let trace = path("travel-kernel")
        _ = try BenchGuest(sample, cpu: cpu).record(host, to: trace, timing: false)
        var machine = try TimeMachine(host: host, reader: TraceReader(path: trace))
        guard case .historyEnd = try machine.seekEnd() else {
            throw BenchError(message: "\(trace): its end is not reached")
        }
        var dice = Dice()
        var cold: [Double] = []
        var warm: [Double] = []
        for _ in 0..<40 {
            let exit = dice.below(machine.reader.exitCount)
            _ = try machine.seek(
                to: Position(exitCount: exit, instructions: dice.below(20_000)))
            for round in 0..<5 {
                let start = HostThread.monotonicNanoseconds()
                _ = try machine.reverseStep()
                let time = milliseconds(since: start)
                if round == 0 { cold.append(time) } else { warm.append(time) }
            }
        }
        return [
            Figure(
                name: "reverse-step", value: median(cold + warm), unit: "ms", goal: .atMost(100),
                note: "first at a place \(Figure.short(median(cold))) ms, longest "
                    + "\(Figure.short((cold + warm).max() ?? 0)) ms")
        ]
    }
}
