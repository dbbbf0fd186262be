import GDBRemote
import Glibc
import TestSupport
import Testing

/// The real debugger, where it is installed.
enum GDB {
    static let path: String? = ["/usr/bin/gdb", "/usr/local/bin/gdb"].first { Files.exists($0) }
    static var isThere: Bool { path != nil }

    /// Runs gdb's commands against an address; gives all that it prints.
    static func run(
        _ commands: [String], at address: String, extended: Bool = false
    ) throws(SupportError) -> String {
        var arguments = [
            "-q", "-nx", "-nh", "-batch", "-ex", "set confirm off", "-ex", "set width 0", "-ex",
            "set debuginfod enabled off", "-ex", "set tcp connect-timeout 30", "-ex",
            "target \(extended ? "extended-remote" : "remote") \(address)",
        ]
        for command in commands { arguments += ["-ex", command] }
        let result = try ChildProcess.run(arguments, program: path ?? "gdb")
        return result.output + result.errors
    }
}
