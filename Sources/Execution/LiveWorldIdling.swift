internal import Devices
internal import Glibc
internal import Trace

/// A guest that waits for an interrupt: HLT.
extension LiveWorld {
    /// While the guest idles on the host's clock, how long to sleep before looking around for
    /// keys and requests to end.
    private static let napNanoseconds: UInt64 = 5_000_000

    /// What became of a guest that waits for an interrupt.
    enum Idling {
        /// There is one, or somebody wants the run to end.
        case woken
        /// None can come any more.
        case asleepForEver
        /// A virtual clock ran on and on, and none came.
        case stalled
    }

    /// The guest waits for an interrupt.
    ///
    /// Devices are brought up to their own deadlines, however late the host wakes us: what happens
    /// while the guest idles then depends on nothing but the input that arrives.
    @inline(never)
    mutating func idle() -> Idling {
        devices.flush()
        defer { deadline = devices.nextDeadline ?? .max }
        var jumps = 0
        while !devices.hasInterrupt, !devices.hasNonMaskableInterrupt {
            // Somebody wants the run to end: it ends at this very exit.
            if stop.reason != nil { return .woken }
            let due = devices.nextDeadline
            guard due != nil || devices.canInputInterrupt else { return .asleepForEver }
            var nap = Self.napNanoseconds
            if let due {
                let left = clock.idle(until: due)
                guard left > 0 else {
                    devices.advance(to: due)
                    jumps += 1
                    if jumps > Self.longestIdling, !clock.isHost { return .stalled }
                    continue
                }
                nap = min(left, nap)
            }
            devices.admitInput()
            if devices.takesInputNow {
                let time = clock.nanoseconds
                move(to: time - time % 1000, .wake)
                settle()
                continue
            }
            // Keys come in the host's time; a virtual clock stands still meanwhile.
            var wait = timespec(tv_sec: 0, tv_nsec: Int(nap))
            // SAFETY: the struct lives through the call; the rest of the time is not asked for.
            unsafe nanosleep(&wait, nil)
        }
        return .woken
    }

    /// The same, where it was recorded before: nobody waits.
    mutating func idleAgain() -> Idling {
        defer { deadline = devices.nextDeadline ?? .max }
        while !devices.hasInterrupt, !devices.hasNonMaskableInterrupt, stop.reason == nil,
            script.problem == nil
        {
            let due = devices.nextDeadline
            // A virtual clock jumps to the next deadline, whatever has arrived.
            if due == nil || clock.isHost, let time = script.takeWake(beforeNanoseconds: due) {
                devices.feedInput(script.takeInput())
                moveAgain(toMicroseconds: time, .wake)
                settle()
            } else if let due {
                if clock.isHost { clock.set(due) } else { _ = clock.idle(until: due) }
                devices.advance(to: due)
            } else {
                script.fail("the guest was woken here, but no device has reason to")
            }
        }
        return .woken
    }

    /// Deadlines that a virtual clock may come to while the guest waits, and none of them raises an
    /// interrupt: a timer whose last interrupt was never ended. Six minutes of one at 1 kHz.
    private static let longestIdling = 360_000
}
