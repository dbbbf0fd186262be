import Glibc
import TestSupport

/// The real debugger, where it is installed.
enum GDB {
    static let path: String? = ["/usr/bin/gdb", "/usr/local/bin/gdb"].first { Files.exists($0) }
    static var isThere: Bool { path != nil }

    /// The arguments with which it connects to an address and executes commands.
    static func arguments(
        _ commands: [String], at address: String, extended: Bool = false
    ) -> [String] {
        let first = [
            "set confirm off", "set width 0", "set pagination off", "set debuginfod enabled off",
            "set tcp connect-timeout 60", "set remotetimeout 60",
            "target \(extended ? "extended-remote" : "remote") \(address)",
        ]
        return ["-q", "-nx", "-nh", "-batch"] + (first + commands).flatMap { ["-ex", $0] }
    }

    /// Runs it to its end; gives all that it prints, errors after the rest.
    static func run(
        _ commands: [String], at address: String, extended: Bool = false
    ) throws(SupportError) -> String {
        let result = try ChildProcess.run(
            arguments(commands, at: address, extended: extended), program: path ?? "gdb")
        return result.output + result.errors
    }
}
