internal import Analysis
internal import Glibc
internal import Synchronization
internal import Trace

/// Prints what the guest printed, exit by exit, while a replay is under way.
///
/// It reads the trace by itself: the vCPU thread has nothing to do with it, and replays no slower.
final class ConsolePrinter: Sendable {
    private let state: Mutex<State>

    private struct State: ~Copyable {
        var cursor: EventCursor?
        var extractor: ConsoleExtractor
        let stream = OutputStream(descriptor: STDOUT_FILENO)
    }

    init(_ reader: TraceReader) {
        state = Mutex(
            State(
                cursor: try? reader.events(),
                extractor: ConsoleExtractor(machine: reader.header.machine)))
    }

    /// Prints what came before an exit.
    func print(before exit: UInt64) {
        state.withLock { state in
            while (state.cursor?.nextExitNumber ?? .max) < exit {
                guard let event = try? state.cursor?.next() else { break }
                guard case .exit(let exit) = event,
                    case .io(true, let size, let port, _, let data) = exit.detail
                else { continue }
                let bytes = state.cursor?.array(data) ?? []
                state.extractor.add(port: port, size: size, data: bytes.span)
            }
            state.stream.write(bytes: state.extractor.output)
            state.extractor.removeOutput()
            state.stream.flush()
        }
    }

    /// Says why not all of it could be printed. A reader that is gone is its own business.
    func tellFailure() {
        let failure = state.withLock { $0.stream.failure }
        guard failure != 0, failure != EPIPE else { return }
        Message.note(
            "standard output: cannot be written: \(errnoText(failure)); the guest's output is "
                + "incomplete")
    }
}
