internal import Glibc

/// The program behind `tools/bench`: measures what vmtape promises, in one run.
@main
struct VMTapeBench {
    static func main() {
        do {
            let options = try BenchOptions(Array(CommandLine.arguments.dropFirst()))
            if let rounds = options.childRounds {
                try RecordingChild.run(options, rounds: rounds)
                return
            }
            let figures = try Bench(options).run()
            if options.isJSON { Figure.printJSON(figures) } else { Figure.printTable(figures) }
            exit(figures.allSatisfy(\.holds) ? 0 : 1)
        } catch let error as BenchError {
            complain("vmtape-bench: \(error.message)")
            exit(error.status)
        } catch {
            complain("vmtape-bench: \(error)")
            exit(2)
        }
    }
}

/// Why nothing can be measured.
struct BenchError: Error {
    var message: String
    var status: Int32 = 2
}

/// A line on standard error.
func complain(_ text: String) {
    let line = text + "\n"
    // SAFETY: Swift passes the bytes of the string for the call.
    _ = unsafe write(STDERR_FILENO, line, line.utf8.count)
}
