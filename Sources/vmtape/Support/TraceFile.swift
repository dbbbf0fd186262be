internal import Glibc
internal import Trace

/// Opening a trace as every reading command does.
enum TraceFile {
    /// Opens a trace; where only its partial file exists, that one, and says so.
    static func open(_ path: String) throws(CommandFailure) -> TraceReader {
        var path = path
        // SAFETY: Swift passes NUL-terminated strings for the calls.
        if unsafe access(path, F_OK) != 0, unsafe access(path + ".partial", F_OK) == 0 {
            path += ".partial"
            Message.note("reading \(path): the recording is not complete")
        }
        do throws(TraceError) { return try TraceReader(path: path) } catch {
            throw CommandFailure.couldNot(error)
        }
    }
}
