@testable import GDBRemote
import Glibc
import Synchronization
import TestSupport
import Testing

/// Real gdb against the toy machine.
@Suite(.enabled(if: GDB.isThere, "gdb is not installed"), .serialized)
struct RealDebuggerTests {
    /// Serves on another thread while gdb runs; gives what gdb printed.
    static func session(
        _ commands: [String], at endpoint: Endpoint = .tcp(host: nil, port: 0),
        extended: Bool = false, machine: @escaping @Sendable () -> ToyMachine = { ToyMachine() }
    ) async throws -> (text: String, ending: SessionEnding) {
        let server = try DebugServer(at: endpoint)
        let address = server.address
        let stopper = server.stopper
        let box = ServerBox(server)
        async let ending = box.serve(machine)
        defer { stopper.stop() }
        let text = try GDB.run(commands, at: address, extended: extended)
        return (text, try await ending)
    }

    @Test func goesForwardAndBack() async throws {
        let (text, ending) = try await Self.session([
            "break bump", "continue", "info registers rip", "x/2i $pc", "backtrace", "continue",
            "print *(long *)&counter", "reverse-continue", "print *(long *)&counter",
            "reverse-continue", "reverse-continue", "stepi", "reverse-stepi", "delete", "continue",
            "continue", "reverse-continue", "info threads",
        ])
        print(text)
        #expect(ending == .detached)
    }
}

/// Carries a server to the thread that serves.
final class ServerBox: Sendable {
    private let server: Mutex<DebugServer?>

    init(_ server: consuming DebugServer) {
        let server: DebugServer? = consume server
        self.server = Mutex(server)
    }

    func serve(_ machine: @Sendable () -> ToyMachine) async throws -> SessionEnding {
        var machine = machine()
        return try serve(&machine)
    }

    func serve(_ machine: inout ToyMachine) throws -> SessionEnding {
        guard var server = server.withLock({ $0.take() }) else {
            throw SupportError("the server is gone")
        }
        return try server.serve(&machine, interrupt: InterruptFlag())
    }
}
