import GDBRemote
import Glibc
import TestSupport
import Testing

/// Real gdb against the toy machine.
@Suite(.enabled(if: GDB.isThere, "gdb is not installed"), .serialized)
struct RealDebuggerTests {
    /// What gdb prints, and how the session ended.
    private func session(
        _ commands: [String], at endpoint: Endpoint = .tcp(host: nil, port: 0),
        extended: Bool = false,
        machine: @escaping @Sendable () -> ToyMachine = { ToyMachine() }
    ) throws -> String {
        let server = try ServingThread(at: endpoint, machine: machine)
        let text = try GDB.run(commands, at: server.address, extended: extended)
        #expect(try server.endings() == [.detached])
        return text
    }

    /// The values that `printf "value %lx\n"` printed.
    private func values(_ text: String) -> [String] {
        text.split(separator: "\n").filter { $0.hasPrefix("value ") }.map {
            String($0.dropFirst(6))
        }
    }

    private let tell = "printf \"value %lx %ld\\n\", $rip, *(long *)&counter"

    @Test func goesForwardAndBack() throws {
        let text = try session([
            "break *0x400020", "continue", tell, "continue", tell, "reverse-continue", tell,
            "reverse-continue", tell, "reverse-continue", tell, "delete", "continue", tell,
            "stepi", tell, "reverse-stepi", tell,
        ])
        #expect(
            values(text) == [
                "400020 0", "400020 1", "400020 0", "400000 0", "400000 0", "400017 5",
                "400017 5", "40000f 5",
            ])
        #expect(text.components(of: "No more reverse-execution history.") == 4)
    }
}

extension String {
    /// How often a text occurs.
    func components(of text: String) -> Int { ranges(of: text).count }
}
