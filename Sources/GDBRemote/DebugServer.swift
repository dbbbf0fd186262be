internal import Glibc

/// A GDB remote server: waits for debuggers at an endpoint and serves one at a time.
///
/// A second debugger that comes meanwhile is told so and sent away. The machine stays where a
/// debugger left it, so that another one can be served after it.
public struct DebugServer: ~Copyable, Sendable {
    private let listener: Listener?
    /// Where a debugger is talked to that does not have to be waited for.
    private let streams: (input: Int32, output: Int32)
    private let stopSignal: Signal

    /// What a debugger is given after `target remote`: `127.0.0.1:41000`, `[::1]:41000`, a socket's
    /// path, or `stdio`.
    public let address: String

    /// Starts to listen; a debugger may connect from now on, and waits until it is served.
    ///
    /// For standard input and output SIGPIPE is ignored in this process from now on: a debugger
    /// that is gone is to be an ending and not a signal.
    ///
    /// - Throws: ``TransportError`` where nobody could connect there.
    public init(at endpoint: Endpoint) throws(TransportError) {
        let stopSignal = try Signal()
        let listener: Listener?
        switch endpoint {
        case .tcp(let host, let port): listener = try Listener.tcp(host: host, port: port)
        case .unix(let path): listener = try Listener.unix(path: path)
        case .standardStreams:
            listener = nil
            signal(SIGPIPE, SIG_IGN)
        }
        self.stopSignal = stopSignal
        self.listener = listener
        streams = (STDIN_FILENO, STDOUT_FILENO)
        address = listener?.address ?? "stdio"
    }

    /// A server for the debugger at the other end of two descriptors, which stay the caller's.
    init(input: Int32, output: Int32) throws(TransportError) {
        stopSignal = try Signal()
        listener = nil
        streams = (input, output)
        address = "stdio"
    }

    /// Ends a server from another thread.
    public struct Stopper: Sendable {
        fileprivate let signal: Signal

        /// Ends the session that is served, and all later ones; a running machine is interrupted.
        public func stop() { signal.set() }
    }

    /// What ends this server.
    public var stopper: Stopper { Stopper(signal: stopSignal) }

    /// Waits for a debugger and serves it to the end of its session.
    ///
    /// Standard input and output serve one debugger only.
    ///
    /// - Parameters:
    ///   - target: used on the calling thread alone.
    ///   - interrupt: raised when the machine is to stop; lowered before it is moved.
    /// - Returns: how the session ended. ``SessionEnding/detached``,
    ///   ``SessionEnding/disconnected`` and ``SessionEnding/failed(_:)`` leave it open whether
    ///   another debugger is to be served.
    /// - Throws: ``TransportError`` where no debugger can come any more.
    public mutating func serve<Target: DebugTarget & ~Copyable>(
        _ target: inout Target, interrupt: InterruptFlag
    ) throws(TransportError) -> SessionEnding {
        guard let listener else {
            var connection = Connection(
                input: streams.input, output: streams.output, stopper: stopSignal)
            return try converse(&connection, &target, interrupt)
        }
        while true {
            do throws(Connection.Failure) {
                if try Poll.wait(reading: [listener.number, stopSignal.number])[1] {
                    return .stopped
                }
            } catch {
                if case .system(let number) = error { throw .cannotAccept(systemText(number)) }
                throw .cannotAccept("\(error)")
            }
            guard let socket = try listener.accept() else { continue }
            var connection = Connection(socket, stopper: stopSignal)
            let ending = try converse(&connection, &target, interrupt)
            // Whoever goes without a word only looked whether somebody is here, as another server at
            // the same path does.
            if connection.hasSpoken || ending != .disconnected { return ending }
        }
    }

    private func converse<Target: DebugTarget & ~Copyable>(
        _ connection: inout Connection, _ target: inout Target, _ interrupt: InterruptFlag
    ) throws(TransportError) -> SessionEnding {
        var session = Session()
        var deframer = Deframer()
        defer { session.close(&target) }
        do throws(Connection.Failure) {
            while true {
                guard let event = deframer.take(try connection.next(listener)) else { continue }
                let next = session.take(event, &target)
                if case .work(let work) = next {
                    // An acknowledgement must not wait for the work.
                    try Self.flush(&session, connection)
                    try perform(work, &session, &target, &connection, deframer, interrupt)
                }
                try Self.flush(&session, connection)
                if case .end(let ending) = next { return ending }
            }
        } catch { return session.judged(ending(of: error)) }
    }

    /// Does what may take long, with the connection watched.
    private func perform<Target: DebugTarget & ~Copyable>(
        _ work: Session.Work, _ session: inout Session, _ target: inout Target,
        _ connection: inout Connection, _ deframer: Deframer, _ interrupt: InterruptFlag
    ) throws(Connection.Failure) {
        let findings: RunWatcher.Findings
        do throws(TransportError) {
            findings = try RunWatcher.during(
                connection, listener: listener, stopper: stopSignal, interrupt: interrupt,
                ahead: deframer
            ) { session.perform(work, &target, until: interrupt) }
        } catch { throw .unwatched(error.description) }
        connection.append(findings.bytes)
        guard let failure = findings.failure else { return }
        // Whoever has only closed one direction gets the answer.
        if failure == .closed { try Self.flush(&session, connection) }
        throw failure
    }

    private static func flush(
        _ session: inout Session, _ connection: borrowing Connection
    ) throws(Connection.Failure) {
        let output = session.output
        session.output.removeAll(keepingCapacity: true)
        try connection.send(output)
    }

    private func ending(of failure: Connection.Failure) -> SessionEnding {
        switch failure {
        case .closed: .disconnected
        case .stopped: .stopped
        case .system(let number): .failed(.transport(systemText(number)))
        case .unwatched(let reason): .failed(.transport(reason))
        }
    }
}
