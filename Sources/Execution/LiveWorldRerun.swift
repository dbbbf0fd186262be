internal import Devices
internal import Trace

/// Running the world again by what was recorded: time and input come from the trace's world stream.
extension LiveWorld {
    /// Answers from now on as it did when it was recorded: time and input come from the trace.
    mutating func beginRerun() { isRerun = true }

    /// Why the devices cannot be run again by what was recorded; nil: they can so far.
    var rerunProblem: String? { script.problem }

    /// The next exit has come, with what the world stream says of it. What happened after the one
    /// before it is done first.
    mutating func rerun(_ events: [WorldEvent]) {
        takeKicks()
        script.load(events)
    }

    /// The CPU took an interrupt, as it was recorded.
    mutating func acknowledgeAgain(isInMidFlight: Bool) throws(ExecutionError) -> UInt8 {
        if isInMidFlight {
            takeKicks()
            script.takeAcknowledge()
        }
        return try acknowledgeInterrupt()
    }

    /// The guest was told this time; a virtual clock must agree.
    mutating func timeStampAgain(_ value: UInt64) throws(ExecutionError) {
        guard !clock.isHost else {
            clock.set(value &- clock.timeStampAdjust)
            return
        }
        if try timeStamp() != value {
            script.fail("the virtual clock shows another time than RDTSC was answered with")
        }
    }

    private mutating func takeKicks() {
        while let time = script.takeKick() {
            devices.feedInput(script.takeInput())
            moveAgain(toMicroseconds: time, .kick)
            settle()
        }
    }

    /// Ends the rerun: from here on time and input come from outside, and time goes on from what it
    /// was.
    mutating func goLive(input: consuming ConsoleInput) {
        isRerun = false
        script = WorldScript()
        clock.resume()
        devices.connect(input)
        devices.isMuted = false
        if keepsArrivals { devices.keepTakenInput() }
        deadline = devices.nextDeadline ?? .max
    }
}
