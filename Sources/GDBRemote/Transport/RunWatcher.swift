internal import Synchronization
internal import Threads

/// A thread that reads the connection while the machine runs: raises the interrupt flag at ^C and
/// when the debugger is gone, keeps all that came, and sends other debuggers away.
final class RunWatcher: Sendable {
    /// What was read meanwhile, and whether the end came.
    struct Findings {
        var bytes: [UInt8] = []
        var failure: Connection.Failure?
    }

    private let input: Int32
    private let listener: Listener?
    private let stopper: Signal
    private let done: Signal
    private let interrupt: InterruptFlag
    private let findings = Mutex(Findings())

    /// Most bytes that are kept; a debugger that sends more waits.
    private static let limit = 2 * Limits.packet

    private init(
        input: Int32, listener: Listener?, stopper: Signal, interrupt: InterruptFlag
    ) throws(TransportError) {
        done = try Signal()
        self.input = input
        self.listener = listener
        self.stopper = stopper
        self.interrupt = interrupt
    }

    /// Runs `body` with the connection watched.
    ///
    /// - Parameters:
    ///   - ahead: as it stands after the bytes before `unread`.
    ///   - unread: what was read already.
    /// - Returns: what came meanwhile; it has not been taken by any deframer but `ahead`.
    static func during(
        _ connection: borrowing Connection, listener: Listener?, stopper: Signal,
        interrupt: InterruptFlag, ahead: Deframer, _ body: () -> Void
    ) throws(TransportError) -> Findings {
        let watcher = try RunWatcher(
            input: connection.input, listener: listener, stopper: stopper, interrupt: interrupt)
        interrupt.lower()
        var ahead = ahead
        for byte in connection.unread where ahead.take(byte) == .interrupt { interrupt.raise() }
        let deframer = ahead
        let thread: WorkerThread
        do throws(ThreadError) {
            thread = try WorkerThread("to watch the debugger") { watcher.run(deframer) }
        } catch { throw .noThread(error.description) }
        body()
        watcher.done.set()
        thread.join()
        return watcher.findings.withLock { $0 }
    }

    private func run(_ deframer: Deframer) {
        var deframer = deframer
        var input = input
        var listening = listener?.number ?? -1
        var stop = stopper.number
        var count = 0
        while true {
            let hasRoom = count < Self.limit
            let ready: [Bool]
            do throws(Connection.Failure) {
                ready = try Poll.wait(
                    reading: [hasRoom ? input : -1, listening, stop, done.number])
                if ready[3] { return }
                if ready[0] {
                    let bytes = try Connection.read(input, atMost: Self.limit - count)
                    count += bytes.count
                    findings.withLock { $0.bytes += bytes }
                    for byte in bytes where deframer.take(byte) == .interrupt {
                        interrupt.raise()
                    }
                }
            } catch {
                // The next debugger is not a second one any more.
                fail(error)
                input = -1
                listening = -1
                continue
            }
            if ready[1], !ready[0] { listener?.refuseNext() }
            if ready[2] {
                fail(.stopped)
                stop = -1
            }
        }
    }

    private func fail(_ failure: Connection.Failure) {
        findings.withLock { $0.failure = $0.failure ?? failure }
        interrupt.raise()
    }
}
