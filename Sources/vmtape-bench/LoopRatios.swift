internal import Execution

extension Bench {
    /// What run, record and replay cost over the bare loop, each over the one before.
    ///
    /// The four take turns, forwards and backwards, many times: what else the machine does hits
    /// all of them alike, and the median of each pass's own ratios is what is left.
    func loops() throws -> [Figure] {
        let rounds = options.roundsPerPass
        let guest = try BenchGuest(options.guest, rounds: rounds)
        let trace = path("loops")
        // Warm, and gives the first backward pass something to replay.
        _ = try guest.record(host, to: trace)
        _ = try bare(rounds)
        var times = (bare: [Double](), run: [Double](), record: [Double](), replay: [Double]())
        var exits = 0.0
        for pass in 0..<options.passCount {
            for turn in pass % 2 == 0 ? [0, 1, 2, 3] : [3, 2, 1, 0] {
                switch turn {
                case 0: times.bare.append(try bare(rounds))
                case 1:
                    let (time, count) = try guest.run(host)
                    times.run.append(time)
                    exits = count
                case 2:
                    times.record.append(
                        Double(try guest.record(host, to: trace).report.nanoseconds))
                default: times.replay.append(try replay(host, trace))
                }
            }
            if !options.isJSON { complain("pass \(pass + 1) of \(options.passCount)") }
        }
        func ratio(_ a: [Double], _ b: [Double]) -> Double {
            median(zip(a, b).map { $0 / $1 })
        }
        func perExit(_ a: [Double]) -> String { "\(Figure.short(median(a) / exits)) ns/exit" }
        return [
            Figure(
                name: "run / bare C loop", value: ratio(times.run, times.bare), unit: "",
                goal: .atMost(1.05), note: "\(perExit(times.run)) and \(perExit(times.bare))"),
            Figure(
                name: "record / run", value: ratio(times.record, times.run), unit: "",
                goal: .atMost(1.05), note: perExit(times.record)),
            Figure(
                name: "replay / record", value: ratio(times.replay, times.record), unit: "",
                goal: .atMost(1.05), note: perExit(times.replay)),
        ]
    }

    private func bare(_ rounds: Int) throws -> Double {
        let text = try output(
            of: "\(quoted(options.bare)) -q \(quoted(options.guest)) \(rounds) 2>&1")
        return try number(after: "nanoseconds", in: text)
    }
}
