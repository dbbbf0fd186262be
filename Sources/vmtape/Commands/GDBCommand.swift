internal import Analysis
internal import ArgumentParser
internal import Execution
internal import GDBRemote
internal import Glibc
internal import Guest
internal import Machine
internal import Trace

struct GDBCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gdb",
        abstract: "Debug a recorded run with gdb, forwards and backwards.",
        discussion: """
            Starts gdb on the trace, with the symbols of the image that the trace holds, at the \
            end of the run: reverse-continue goes back to the breakpoint that was hit last. \
            monitor help lists what vmtape adds. The run is as it was: memory and registers can \
            be read and not written.

              vmtape gdb boot.vmtape
              (gdb) break panic
              (gdb) reverse-continue
              (gdb) reverse-stepi

            Words after -- are given to gdb.
            """)

    @Argument(help: "The trace.")
    var file: String

    @Option(help: ArgumentHelp("Where to begin: as replay --at has it.", valueName: "position"))
    var at: Destination = .end

    @Option(help: ArgumentHelp("The debugger.", valueName: "program"))
    var debugger = "gdb"

    @Option(
        help: ArgumentHelp(
            "Symbols of the guest, an ELF file; those of the trace's own image unless given.",
            valueName: "file"))
    var symbols: String?

    @OptionGroup var keyframes: KeyframeOptions

    @Option(
        help: ArgumentHelp(
            "The host CPU that the guest runs on; the recording's unless given.", valueName: "n"))
    var cpu: Int?

    @Flag(help: "Replay even where this host is known to behave differently.")
    var force = false

    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("Arguments for gdb, after --.", valueName: "gdb-argument"))
    var arguments: [String] = []

    func validate() throws {
        try OptionRules(given: ["--gdb"] + keyframes.given).check()
    }

    func run() throws {
        // What is wrong is told here, and not by a server behind the debugger's back.
        let host = try attempt { () throws(ExecutionError) in try Host() }
        let reader = try TraceFile.open(file)
        var options = ReplayOptions()
        options.isForced = force
        do throws(ExecutionError) {
            _ = try ReplaySession(host: host, reader: reader, options: options)
        } catch { throw CommandFailure.couldNot(error) }
        var server = [
            try Self.ownPath(), "replay", file, "--gdb", "stdio", "--at", at.description,
            "--keyframe-memory", "\(keyframes.memory.bytes)", "--quiet",
        ]
        if keyframes.keepKeyframes { server.append("--keep-keyframes") }
        if let file = keyframes.keyframeFile { server += ["--keyframe-file", file] }
        if let cpu { server += ["--cpu", "\(cpu)"] }
        if force { server.append("--force") }
        let command = server.map(Self.quoted).joined(separator: " ")
        var words = [debugger]
        if let program = symbols ?? Self.localImage(reader) {
            // It need not ask for the file over the connection, and warn that this is slow.
            words += [program, "-iex", "set sysroot", "-iex", "set exec-file-mismatch off"]
        }
        // The server answers once it stands where it was asked to; a long run takes its time.
        words += ["-iex", "set remotetimeout 86400", "-ex", "target remote | \(command)"]
        if let script = Self.makeScript() { words += ["-ex", "source /proc/self/fd/\(script)"] }
        words += arguments
        throw CommandFailure(status: Status.couldNot, Self.become(words))
    }

    /// The guest's image as a file here, if that is byte for byte the one that the trace holds, and
    /// gdb can read it.
    private static func localImage(_ reader: TraceReader) -> String? {
        guard let image = reader.header.images.first,
            case .some(let file) = try? GuestFile(path: image.name),
            file.bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46]),
            Digest128(of: file.bytes) == image.digest
        else { return nil }
        return image.name
    }

    /// Where this program is.
    private static func ownPath() throws(CommandFailure) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        // SAFETY: readlink writes at most the count it is given.
        let count = unsafe buffer.withUnsafeMutableBytes { bytes -> Int in
            guard let start = bytes.baseAddress else { return 0 }
            return unsafe readlink("/proc/self/exe", start, bytes.count)
        }
        guard count > 0, count < buffer.count else {
            throw CommandFailure(status: Status.couldNot, "/proc/self/exe cannot be read")
        }
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    /// What gdb reads once it is connected, since it does not know that `monitor` commands move
    /// the machine: a file without a name, which it inherits; nil where there can be none.
    private static func makeScript() -> Int32? {
        var name = Array("/tmp/vmtape-gdb.XXXXXX".utf8CString)
        // SAFETY: mkstemp changes the six letters of a string that is NUL-terminated, and unlink
        // reads it.
        let descriptor = unsafe mkstemp(&name)
        guard descriptor >= 0 else { return nil }
        unsafe unlink(&name)
        let stream = OutputStream(descriptor: descriptor)
        for line in DebugServer.gdbCommands {
            stream.write(line)
            stream.write("\n")
        }
        stream.flush()
        guard !stream.hasFailed, lseek(descriptor, 0, SEEK_SET) == 0 else { return nil }
        return descriptor
    }

    /// A word as a shell takes it: gdb runs what follows the bar by one.
    private static func quoted(_ word: String) -> String {
        let isPlain = word.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "/"), UInt8(ascii: "."),
                UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "+"), UInt8(ascii: ","),
                UInt8(ascii: ":"):
                true
            default: false
            }
        }
        if isPlain, !word.isEmpty { return word }
        return "'"
            + word.split(separator: "'", omittingEmptySubsequences: false)
            .joined(separator: "'\\''") + "'"
    }

    /// Becomes the debugger; comes back only with the reason why it could not.
    private static func become(_ words: [String]) -> String {
        // gdb inherits the mask, and must get its ^C.
        var none = sigset_t()
        // SAFETY: the set is initialised before it is used; execvp gets NUL-terminated strings that
        // outlive the call, and a null at the end.
        unsafe sigemptyset(&none)
        unsafe sigprocmask(SIG_SETMASK, &none, nil)
        var pointers: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) }
        unsafe pointers.append(nil)
        unsafe execvp(words[0], &pointers)
        let failure = errno
        return failure == ENOENT
            ? "\(words[0]) is not installed: apt install gdb, or name another with --debugger"
            : "\(words[0]): cannot be started: \(errnoText(failure))"
    }
}
