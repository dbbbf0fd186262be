internal import KVM
internal import Machine
internal import Trace

/// A place between two exits at which a run leaves its tape: found as a landmark is.
///
/// The time machine goes there first and looks at the state, so that a live run begins at the very
/// place that `--at` shows, on every host that can stand there.
struct Departure {
    /// After so many exits...
    let exitCount: UInt64
    /// ...and so many rows of the tape since the last of them...
    let rowsSinceExit: Int
    /// ...where the state is this.
    let landmark: Landmark

    /// Goes to a position of the trace; nil where it is at an exit.
    ///
    /// - Throws: ``ExecutionError/cannotReplay(_:)`` where the machine cannot stand there.
    init?(
        host: borrowing Host, reader: TraceReader, position: Position, isForced: Bool, cpu: Int?
    ) throws(ExecutionError) {
        guard position.instructions > 0 || position.ring3 != nil else { return nil }
        var options = TravelOptions()
        options.isForced = isForced
        options.cpu = cpu
        // It goes one way.
        options.keyframeSpacing = .max / 4
        var machine = try TimeMachine(host: host, reader: reader, options: options)
        let stop = try machine.seek(to: position)
        if case .diverged(let divergence) = stop {
            throw .cannotReplay(
                "\(reader.path): the replay parts from the recording at exit "
                    + "\(divergence.exitNumber); vmtape replay says how")
        }
        guard machine.position == position, machine.ending == nil else {
            throw .cannotReplay(
                "\(reader.path): the machine cannot stand at \(position); the next place where it "
                    + "can is \(machine.position)")
        }
        exitCount = position.exitCount
        rowsSinceExit = machine.tape.rowsSinceExit
        let progress = try machine.hasCounter ? machine.spanStart &+ machine.ticks() : nil
        landmark = Landmark(
            registers: machine.registers, state: try machine.stateDigest(), progress: progress)
    }
}
