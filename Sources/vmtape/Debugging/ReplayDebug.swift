internal import Execution
internal import GDBRemote
internal import Glibc
internal import KVM

/// `replay --gdb`: serves debuggers until one kills the machine, or a signal comes.
struct ReplayDebug {
    let state: StateOptions
    let isQuiet: Bool

    init(_ state: StateOptions, isQuiet: Bool) {
        self.state = state
        self.isQuiet = isQuiet
    }

    func run(_ run: consuming RecordedRun) throws {
        var run = run
        // Where nobody can connect, nothing needs to be replayed.
        let endpoint = try attempt { () throws(TransportError) in try Endpoint(state.gdb ?? "") }
        var server: DebugServer
        do throws(TransportError) { server = try DebugServer(at: endpoint) } catch {
            throw CommandFailure.couldNot(error)
        }
        let store = KeyframeStore(state.keyframes, run.reader, isQuiet: isQuiet)
        try store?.load(into: &run.machine)
        if let destination = state.at { try ReplayAt.go(destination, &run, isQuiet: isQuiet) }
        // A debugger that leaves may not wait until they are written.
        store?.save(&run.machine)
        let kicker = run.machine.kicker
        let interrupt = InterruptFlag { kicker.kick() }
        let request = StopRequest()
        let stopper = server.stopper
        let supervisor = try attempt { () throws(ExecutionError) in
            try Supervisor(
                Supervisor.Configuration(), request: request, kick: { interrupt.raise() },
                abort: { _exit(128 + $0) },
                tick: { _ in if request.reason != nil { stopper.stop() } })
        }
        defer { supervisor.finish() }
        var target = ReplayTarget(run)
        if endpoint != .standardStreams, !isQuiet {
            Message.line(
                "vmtape: waiting for a debugger: gdb -ex 'target remote \(server.address)'")
        }
        while true {
            let ending: SessionEnding
            do throws(TransportError) {
                ending = try server.serve(&target, interrupt: interrupt)
            } catch { throw CommandFailure.couldNot(error) }
            store?.save(&target.run.machine)
            switch ending {
            case .killed, .stopped: return
            case .failed(let failure) where endpoint == .standardStreams:
                throw CommandFailure(status: Status.couldNot, failure.description)
            case .failed(let failure): Message.note(failure.description)
            case .detached, .disconnected: break
            }
            if endpoint == .standardStreams { return }
            if !isQuiet {
                Message.line(
                    "vmtape: the debugger left at \(target.run.machine.positionText); waiting for "
                        + "another (Ctrl-C ends)")
            }
        }
    }
}
