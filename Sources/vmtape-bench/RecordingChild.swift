internal import Execution
internal import Glibc
internal import KVM
internal import Trace

extension Bench {
    /// Allocations and memory of a short and a long recording, each in a process of its own.
    func allocationsAndMemory() throws -> [Figure] {
        let counts = options.childRoundCounts
        let short = try measureChild(counts.short)
        let long = try measureChild(counts.long)
        let exits = long.exits - short.exits
        let note = "\(Int(short.exits)) and \(Int(long.exits)) exits"
        return [
            Figure(
                name: "allocations/exit on the vCPU thread",
                value: (long.threadAllocations - short.threadAllocations) / exits, unit: "",
                goal: .atMost(0),
                note: "\(Int(short.threadAllocations)) in \(Int(short.exits)) exits, "
                    + "\(Int(long.threadAllocations)) in \(Int(long.exits))"),
            Figure(
                name: "allocations/exit in all threads",
                value: (long.allAllocations - short.allAllocations) / exits, unit: "",
                goal: .atMost(0.0005),
                note: "\(Int(short.allAllocations)) in \(Int(short.exits)) exits, "
                    + "\(Int(long.allAllocations)) in \(Int(long.exits))"),
            Figure(
                name: "peak memory of record", value: long.peakKiB / 1024, unit: "MiB",
                goal: .atMost(64), note: "VmHWM with the guest's \(note)"),
            Figure(
                name: "its growth", value: (long.peakKiB - short.peakKiB) / 1024, unit: "MiB",
                goal: .atMost(1), note: note),
        ]
    }

    private func measureChild(_ rounds: Int) throws -> RecordingChild {
        let program = CommandLine.arguments[0]
        let text = try output(
            of: "LD_PRELOAD=\(quoted(options.shim)) \(quoted(program)) --child-rounds=\(rounds) "
                + "--guest=\(quoted(options.guest)) --directory=\(quoted(options.directory))")
        return try RecordingChild(text)
    }
}

/// What a recording took of its process, as the process itself reports it.
struct RecordingChild {
    var exits: Double
    var threadAllocations: Double
    var allAllocations: Double
    var peakKiB: Double

    /// Takes a report apart.
    init(_ text: String) throws(BenchError) {
        exits = try number(after: "exits", in: text)
        threadAllocations = try number(after: "thread", in: text)
        allAllocations = try number(after: "all", in: text)
        peakKiB = try number(after: "VmHWM:", in: text)
    }

    /// The process: records, and reports.
    static func run(_ options: BenchOptions, rounds: Int) throws {
        let host = try Host()
        let cpu = try HostThread.allowedCPUs().first ?? 0
        let guest = try BenchGuest(options.guest, rounds: rounds, cpu: cpu)
        let before = try allocations()
        let outcome = try guest.record(host, to: "\(options.directory)/child.vmtape")
        let after = try allocations()
        let status = try output(of: "grep VmHWM: /proc/\(getpid())/status")
        print(
            "exits \(outcome.summary.exitCount) thread \(after.thread - before.thread)"
                + " all \(after.all - before.all) \(status)")
    }

    /// What the preloaded library has counted: on this thread, and in all.
    private static func allocations() throws(BenchError) -> (thread: UInt64, all: UInt64) {
        typealias Count = @convention(c) () -> UInt64
        // SAFETY: the library's two functions take nothing and return a 64-bit number.
        guard let thread = unsafe dlsym(nil, "counted_thread_allocations"),
            let all = unsafe dlsym(nil, "counted_allocations")
        else { throw BenchError(message: "the counting library is not loaded") }
        return unsafe (
            unsafeBitCast(thread, to: Count.self)(), unsafeBitCast(all, to: Count.self)()
        )
    }
}
