internal import ArgumentParser
internal import Execution
internal import Trace

/// What is kept of a run that is travelled: shared by `replay --at`, `--gdb` and `gdb`.
struct KeyframeOptions: ParsableArguments {
    @Option(
        name: .customLong("keyframe-memory"),
        help: ArgumentHelp(
            "What keyframes to go back to may take in memory, and in a file (default: 256 MiB).",
            valueName: "size"))
    var memoryGiven: ByteSize?

    @Flag(
        help: ArgumentHelp(
            "Keep keyframes beside the trace, in FILE.keys, so that the next session that says the "
                + "same starts where this one had come to. They hold the guest's memory."))
    var keepKeyframes = false

    @Option(help: ArgumentHelp("The same, in this file.", valueName: "file"))
    var keyframeFile: String?

    /// The default of --keyframe-memory.
    private static let usual = ByteSize(bytes: 256 << 20)

    var memory: ByteSize { memoryGiven ?? Self.usual }

    /// The file for a trace; nil: none.
    func path(for trace: String) -> String? {
        keyframeFile ?? (keepKeyframes ? trace + ".keys" : nil)
    }
}

/// The keyframe file of a session.
struct KeyframeStore {
    private let path: String
    private let isQuiet: Bool

    /// Nil where none was asked for.
    init?(_ options: KeyframeOptions, _ reader: TraceReader, isQuiet: Bool) {
        guard let path = options.path(for: reader.path) else { return nil }
        self.path = path
        self.isQuiet = isQuiet
    }

    /// Begins with what the file has. One that is of no use is told of and made anew; what is no
    /// keyframe file is left alone, and the command ends.
    func load(into machine: inout TimeMachine) throws(CommandFailure) {
        do throws(KeyframeFileError) { _ = try machine.useKeyframes(of: path) } catch {
            switch error.kind {
            case .absent: break
            case .unusable: Message.note("\(error); it is made anew")
            case .foreign: throw CommandFailure.couldNot(error)
            }
        }
    }

    /// Writes what there is, unless the file has it.
    func save(_ machine: inout TimeMachine) {
        let problem = machine.keyframeFileProblem
        if let problem { Message.note("\(problem); it is made anew") }
        guard machine.hasUnsavedKeyframes || problem != nil else { return }
        do throws(ExecutionError) {
            let summary = try machine.saveKeyframes(to: path)
            guard !isQuiet else { return }
            Message.line(
                "vmtape: \(RunText.grouped(UInt64(summary.count))) keyframes kept in \(path): "
                    + ByteSize.text(summary.fileBytes))
        } catch { Message.note("\(error); keyframes are not kept") }
    }
}
