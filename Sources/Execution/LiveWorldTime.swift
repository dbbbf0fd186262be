internal import Devices
internal import Trace

/// How time and input reach the devices: live, or as they were recorded.
extension LiveWorld {
    /// An exit was made: time passes, and devices are brought up to it where the access may depend
    /// on it or a device has something to do by itself. ``settle()`` must follow the access.
    @inline(__always)
    mutating func pass(dependsOnTime: Bool) {
        if isRerun {
            passAgain(dependsOnTime: dependsOnTime)
            return
        }
        devices.admitInput()
        guard devices.machine.isPC else { return }
        clock.tick()
        guard dependsOnTime || clock.deviceNanoseconds >= deadline else { return }
        move(to: clock.deviceNanoseconds, .clock)
    }

    /// The same, where it was recorded before.
    private mutating func passAgain(dependsOnTime: Bool) {
        if !devices.machine.isPC {
            devices.feedInput(script.takeInput())
            return
        }
        guard clock.isHost else {
            clock.tick()
            devices.feedInput(script.takeInput())
            if dependsOnTime || clock.nanoseconds >= deadline {
                move(to: clock.nanoseconds, .clock)
            }
            return
        }
        guard let time = script.takeClock() else {
            if dependsOnTime { script.fail("the world stream has no time for this access") }
            devices.feedInput(script.takeInput())
            return
        }
        devices.feedInput(script.takeInput())
        moveAgain(toMicroseconds: time, .clock)
    }

    /// Brings the devices up to a time.
    @inline(__always)
    mutating func move(to time: UInt64, _ kind: WorldEvent.Kind) {
        if keepsArrivals { note(kind, time) }
        devices.advance(to: time)
        hasMoved = true
    }

    /// Virtual time is not noted: it follows from the exits.
    private mutating func note(_ kind: WorldEvent.Kind, _ nanoseconds: UInt64) {
        let time = nanoseconds / 1000
        switch kind {
        case .clock: if clock.isHost { arrivals.append(.clock(microseconds: time)) }
        case .wake: arrivals.append(.wake(microseconds: time))
        case .kick: arrivals.append(.kick(microseconds: time))
        case .acknowledge, .input: break
        }
    }

    mutating func moveAgain(toMicroseconds time: UInt64, _ kind: WorldEvent.Kind) {
        let (nanoseconds, overflow) = time.multipliedReportingOverflow(by: 1000)
        guard !overflow else {
            script.fail("the world stream has a time out of range")
            return
        }
        clock.set(nanoseconds)
        move(to: nanoseconds, kind)
    }

    /// After an access, or whatever else changed the devices.
    @inline(__always)
    mutating func settle() {
        if hasMoved {
            hasMoved = false
            deadline = devices.nextDeadline ?? .max
        }
        if devices.hasTakenInput { arrivals.append(.input(devices.takeTakenInput())) }
    }
}
