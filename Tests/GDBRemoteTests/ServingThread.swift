import GDBRemote
import Machine
import Synchronization
import TestSupport
import Threads

/// A server on a thread of its own, so that a test may wait for what talks to it.
final class ServingThread: Sendable {
    private struct Outcome {
        var isStarted = false
        var results: [Result<SessionEnding, TransportError>] = []
        /// What the machine is like after each session.
        var positions: [UInt64] = []
        var breakpointCounts: [Int] = []
    }

    private final class State: Sendable {
        let outcome = Mutex(Outcome())
    }

    let address: String
    private let stopper: DebugServer.Stopper
    private let state = State()
    private let thread: WorkerThread
    let interrupt: InterruptFlag

    /// Serves debuggers, one after the other, `sessions` of them or until it is stopped.
    convenience init(
        at endpoint: Endpoint = .tcp(host: nil, port: 0), sessions: Int = 1,
        interrupt: InterruptFlag = InterruptFlag(),
        machine: @escaping @Sendable () -> ToyMachine = { ToyMachine() }
    ) throws {
        try self.init(
            DebugServer(at: endpoint), sessions: sessions, interrupt: interrupt, machine: machine)
    }

    init(
        _ server: consuming DebugServer, sessions: Int = 1,
        interrupt: InterruptFlag = InterruptFlag(),
        machine: @escaping @Sendable () -> ToyMachine = { ToyMachine() }
    ) throws {
        address = server.address
        stopper = server.stopper
        self.interrupt = interrupt
        let state = state
        let server: DebugServer? = consume server
        let box = Mutex(server)
        let cell = ServerCell(box)
        thread = try WorkerThread("to serve") {
            guard var server = cell.take() else { return }
            var machine = machine()
            for _ in 0..<sessions {
                let result: Result<SessionEnding, TransportError>
                do throws(TransportError) {
                    result = .success(try server.serve(&machine, interrupt: interrupt))
                } catch { result = .failure(error) }
                let position = machine.position.instructions
                let count = machine.breakpoints.count
                state.outcome.withLock {
                    $0.results.append(result)
                    $0.positions.append(position)
                    $0.breakpointCounts.append(count)
                }
                if case .success(.stopped) = result { break }
            }
        }
    }

    private final class ServerCell: Sendable {
        private let box: Mutex<DebugServer?>
        init(_ box: consuming Mutex<DebugServer?>) { self.box = box }
        func take() -> DebugServer? { box.withLock { $0.take() } }
    }

    func stop() { stopper.stop() }

    /// Waits for the last session; how each of them ended.
    func endings() throws -> [SessionEnding] {
        thread.join()
        return try state.outcome.withLock { $0.results }.map { try $0.get() }
    }

    /// Where the machine was after each session. After ``endings()``.
    var positions: [UInt64] { state.outcome.withLock { $0.positions } }
    var breakpointCounts: [Int] { state.outcome.withLock { $0.breakpointCounts } }

    deinit {
        stopper.stop()
        thread.join()
    }
}
