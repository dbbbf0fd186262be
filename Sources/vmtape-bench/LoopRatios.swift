internal import Execution
internal import KVM

extension Bench {
    /// What run, record and replay cost over the bare loop, each over the one before.
    ///
    /// The bare loop runs in three forms: as it is, with the registers on the run page that a run
    /// has there, and with those of a recording. The last over the second is what of record's cost is
    /// the kernel's, and no code of ours can do without.
    ///
    /// All take turns, forwards and backwards, many times: what else the machine does hits
    /// all of them alike, and the median of each pass's own ratios is what is left.
    func loops() throws -> [Figure] {
        let rounds = options.roundsPerPass
        let guest = try BenchGuest(options.guest, rounds: rounds, cpu: cpu)
        let trace = path("loops")
        // Warm, and gives the first backward pass something to replay.
        _ = try guest.record(host, to: trace)
        _ = try bare(rounds)
        var times = (
            bare: [LoopTime](), run: [LoopTime](), record: [LoopTime](), replay: [LoopTime](),
            bareAsRun: [LoopTime](), bareAsRecord: [LoopTime]()
        )
        var exits = 0.0
        for pass in 0..<options.passCount {
            for turn in pass % 2 == 0 ? [0, 1, 2, 3, 4, 5] : [5, 4, 3, 2, 1, 0] {
                switch turn {
                case 0: times.bare.append(try bare(rounds))
                case 4: times.bareAsRun.append(try bare(rounds, synchronised: [.general]))
                case 5:
                    times.bareAsRecord.append(
                        try bare(rounds, synchronised: [.general, .system]))
                case 1:
                    let (time, count) = try guest.run(host)
                    times.run.append(time)
                    exits = count
                case 2:
                    times.record.append(LoopTime(try guest.record(host, to: trace).report))
                default: times.replay.append(try replay(host, trace))
                }
            }
        }
        return Self.compare("run / bare C loop", times.run, times.bare, exits)
            + Self.compare("record / run", times.record, times.run, exits)
            + Self.compare(
                "  the kernel's part: bare C loop, registers of record / of run",
                times.bareAsRecord, times.bareAsRun, exits, goal: nil)
            + Self.compare("replay / record", times.replay, times.record, exits)
    }

    private static func compare(
        _ name: String, _ a: [LoopTime], _ b: [LoopTime], _ exits: Double,
        goal: Figure.Goal? = .atMost(1.05)
    ) -> [Figure] {
        func figure(_ name: String, _ goal: Figure.Goal?, _ part: (LoopTime) -> Double) -> Figure {
            let perExit = [a, b].map { Figure.short(median($0.map(part)) / exits) }
            return Figure(
                name: name, value: median(zip(a, b).map { part($0) / part($1) }), unit: "",
                goal: goal, note: "\(perExit[0]) and \(perExit[1]) ns/exit")
        }
        return [
            figure(name, goal, \.nanoseconds),
            figure("  in CPU time of the vCPU thread", nil, \.onCPU),
        ]
    }

    /// - Parameter synchronised: what KVM copies to the run page at every exit.
    private func bare(
        _ rounds: Int, synchronised: SynchronisedRegisters = []
    ) throws -> LoopTime {
        let text = try output(
            of: "taskset -c \(cpu) \(quoted(options.bare)) -q -s \(synchronised.rawValue) "
                + "\(quoted(options.guest)) \(rounds) 2>&1")
        return LoopTime(
            nanoseconds: try number(after: "nanoseconds", in: text),
            onCPU: try number(after: "CPU", in: text))
    }
}
