internal import Guest
public import Machine

/// To the next breakpoint or watchpoint, in both directions.
extension TimeMachine {
    // MARK: What stops

    /// How many breakpoints there may be.
    public static var breakpointLimit: Int { 4096 }

    /// Adds a breakpoint: an instruction's linear address. It never shows in the guest's memory.
    ///
    /// - Returns: false where there are too many; one that is there already stays one.
    @discardableResult
    public mutating func insertBreakpoint(_ address: GuestVirtualAddress) -> Bool {
        guard !breakpoints.contains(address) else { return true }
        guard breakpoints.count < Self.breakpointLimit else { return false }
        breakpoints.append(address)
        return true
    }

    /// Takes a breakpoint away.
    public mutating func removeBreakpoint(_ address: GuestVirtualAddress) {
        breakpoints.removeAll { $0 == address }
    }

    /// Adds a watchpoint; false where there are too many.
    @discardableResult
    public mutating func insertWatchpoint(_ watchpoint: Watchpoint) -> Bool {
        guard !watchpoints.contains(watchpoint) else { return true }
        guard watchpoints.count < Self.breakpointLimit else { return false }
        watchpoints.append(watchpoint)
        return true
    }

    /// Takes a watchpoint away.
    public mutating func removeWatchpoint(_ watchpoint: Watchpoint) {
        watchpoints.removeAll { $0 == watchpoint }
    }

    // MARK: Forward

    /// Runs forward to the next breakpoint, watchpoint, or the end. A breakpoint at the place where it
    /// starts does not stop it.
    public mutating func resume(
        isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        // Any code may be ring 3's once it is mapped so.
        let mayStopRing3 = usesRing3Stops && !breakpoints.isEmpty
        guard breakpoints.count > 4 || !watchpoints.isEmpty || mayStopRing3 else {
            return try stop(
                forward(Course(stops: breakpoints), isInterrupted: isInterrupted))
        }
        if let arrival = try leaveStretch(isInterrupted) { return try stop(arrival) }
        while true {
            // Run a while without stops, then again with them where there may be any.
            let start = position
            let ring3 = inRing3(breakpoints)
            let marker = watchReader()
            let isPlain = ring3.isEmpty && breakpoints.count <= 4 && watchpoints.isEmpty
            if !isPlain { try keep(start) }
            forgetWrites(marker)
            let first = try forward(
                Course(
                    stops: breakpoints.count > 4 ? [] : breakpoints,
                    pause: isPlain ? Self.plainNanoseconds : Self.lookNanoseconds),
                isInterrupted: isInterrupted)
            var isDivergent = false
            if case .diverged = first { isDivergent = true }
            var isTouched = try areWatchedPagesWritten(marker)
            let end = position
            let isEnd = ending != nil
            // Ring 3's code may have been mapped on the way.
            let ring3Stops = ring3 + inRing3(breakpoints).filter { !ring3.contains($0) }
            if !isTouched, !isDivergent {
                isTouched = try mayBeRead(watchpoints + code(at: ring3Stops), since: start)
            }
            if breakpoints.count > 4 || isTouched {
                let hit = try firstHit(
                    from: start, to: isEnd || isDivergent ? nil : end, isTouched: isTouched,
                    ring3Stops, isInterrupted)
                if let hit { return try stop(hit) }
                if isDivergent {
                    return try stop(forward(Course(), isInterrupted: isInterrupted))
                }
                // Nothing was there: on, from the end of the stretch.
                if position != end || (isEnd && ending == nil) {
                    let arrival = try go(to: end, isInterrupted: isInterrupted)
                    if case .reached = arrival {} else { return try stop(arrival) }
                }
            }
            guard case .paused = first else { return try stop(first) }
        }
    }

    /// From a place in ring 3 that has no name, whose stretch cannot be run twice to the same place:
    /// on to the first place that has one. Nil: it stands there, and nothing came before.
    private mutating func leaveStretch(
        _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        while way != nil {
            let arrival = try forward(
                Course(
                    stops: breakpoints, ring3Stops: inRing3(breakpoints), watched: watchpoints,
                    pause: Self.lookNanoseconds),
                isInterrupted: isInterrupted)
            guard case .paused = arrival else { return arrival }
        }
        return nil
    }

    /// The first hit in a stretch, where the machine then stands; nil where there is none.
    private mutating func firstHit(
        from start: Position, to end: Position?, isTouched: Bool,
        _ ring3Stops: [GuestVirtualAddress], _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> Arrival? {
        if isTouched {
            // Stepped: all breakpoints are seen at once.
            _ = try go(to: start, isInterrupted: { false })
            let arrival = try forward(
                Course(
                    limit: end, stops: breakpoints, ring3Stops: ring3Stops, watched: watchpoints,
                    keepsFrames: false), isInterrupted: isInterrupted)
            switch arrival {
            case .breakpoint, .touch, .interrupted, .diverged: return arrival
            default: return nil
            }
        }
        // Four at a time, each run no further than the nearest hit so far.
        var nearest: (position: Position, arrival: Arrival)?
        for first in stride(from: 0, to: breakpoints.count, by: 4) {
            let group = Array(breakpoints[first..<min(first + 4, breakpoints.count)])
            _ = try go(to: start, isInterrupted: { false })
            let arrival = try forward(
                Course(limit: nearest?.position ?? end, stops: group, keepsFrames: false),
                isInterrupted: isInterrupted)
            switch arrival {
            case .breakpoint: nearest = (position, arrival)
            case .interrupted: return arrival
            // Others may stop before it.
            default: break
            }
        }
        guard let nearest else { return nil }
        let arrival = try go(to: nearest.position, isInterrupted: { false })
        if case .reached = arrival { return nearest.arrival }
        return arrival
    }

    // MARK: Back

    /// Runs back to the last breakpoint before here, or to before the last change of watched bytes, or
    /// to the beginning.
    ///
    /// At a breakpoint the machine stands before its instruction, at a watchpoint before the one that
    /// makes the change.
    public mutating func reverseResume(
        isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        try reverse(stops: breakpoints, watched: watchpoints, isInterrupted)
    }

    /// Goes back to before the last change of some bytes, whatever breakpoints there are.
    ///
    /// - Returns: `watchpoint`, or `historyBegin` where they were never changed.
    public mutating func seekLastWrite(
        _ watchpoint: Watchpoint, isInterrupted: () -> Bool = { false }
    ) throws(ExecutionError) -> TravelStop {
        try reverse(stops: [], watched: [watchpoint], isInterrupted)
    }

    private mutating func reverse(
        stops: [GuestVirtualAddress], watched: [Watchpoint], _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> TravelStop {
        if let way {
            let goal = ring3Goal(stops, watched)
            if way.canLookOut(for: goal) {
                let last = try lastStop(at: goal, watched, on: way, isInterrupted)
                if last.isInterrupted {
                    try go(along: way)
                    return .interrupted
                }
                if let last = last.stop {
                    try go(along: last.way)
                    return last.stop
                }
                _ = try go(to: position, isInterrupted: { false })
            } else {
                guard try name(isInterrupted: isInterrupted) else { return .interrupted }
            }
        }
        var end = position
        /// What watched pages were written since the keyframe before `end` is not known of the
        /// stretch where the machine stands.
        var isFirst = true
        while end > .begin, !stops.isEmpty || !watched.isEmpty {
            let index = keyframes.index(before: end)
            let start = keyframes.frames[index].position
            var isTouched = try mayChange(watched, after: index, isLast: isFirst)
            if position != end { try restore(keyframes.index(atOrBefore: end)) }
            let ring3Stops = inRing3(stops)
            if !isTouched {
                isTouched = try mayBeRead(watched + code(at: ring3Stops), since: start)
            }
            var last: LastHit?
            if isTouched {
                try restore(keyframes.index(atOrBefore: start))
                let failed = try lastHit(
                    before: end, stops, ring3Stops, watched, into: &last, isInterrupted)
                if let failed { return failed }
            } else {
                for first in stride(from: 0, to: stops.count, by: 4) {
                    try restore(keyframes.index(atOrBefore: start))
                    let group = Array(stops[first..<min(first + 4, stops.count)])
                    let failed = try lastHit(
                        before: end, group, [], [], into: &last, isInterrupted)
                    if let failed { return failed }
                }
            }
            if let last, let way = last.place.way {
                try go(along: way)
                return last.stop
            }
            if let last {
                let arrival = try go(to: last.place.position, isInterrupted: { false })
                guard case .reached = arrival else { return try stop(arrival) }
                if case .breakpoint(let address) = last.stop, linearRIP != address {
                    // The handler of a fault in ring 3, in the span of an exit in ring 3.
                    _ = try forward(Course(stops: [address]), isInterrupted: { false })
                }
                return last.stop
            }
            if isInterrupted() { return .interrupted }
            end = start
            isFirst = false
        }
        _ = try go(to: .begin, isInterrupted: { false })
        return .historyBegin
    }

    /// The nearest stop so far on the way back.
    private struct LastHit {
        var place: Place
        var stop: TravelStop
    }

    /// The last stop from here to before a position; where bytes are watched, instruction by
    /// instruction.
    private mutating func lastHit(
        before end: Position, _ stops: [GuestVirtualAddress],
        _ ring3Stops: [GuestVirtualAddress], _ watched: [Watchpoint],
        into last: inout LastHit?, _ isInterrupted: () -> Bool
    ) throws(ExecutionError) -> TravelStop? {
        func note(_ place: Position, _ way: Ring3Way?, _ address: GuestVirtualAddress) {
            // A place without a name is behind those that were seen before it.
            guard place < end, way != nil || last.map({ $0.place.position < place }) ?? true
            else { return }
            last = LastHit(
                place: Place(position: place, way: way), stop: .breakpoint(address))
        }
        if stops.contains(linearRIP), try !isInterruptNext() { note(position, way, linearRIP) }
        while true {
            let arrival = try forward(
                Course(
                    limit: end, stops: stops, ring3Stops: ring3Stops, watched: watched,
                    keepsFrames: watched.isEmpty && ring3Stops.isEmpty),
                isInterrupted: isInterrupted)
            switch arrival {
            case .breakpoint(let address): note(position, way, address)
            case .touch(let hit):
                guard let place = touchedAfter, position <= end else { return nil }
                last = LastHit(place: place, stop: .watchpoint(hit))
            case .interrupted, .diverged: return try stop(arrival)
            default: return nil
            }
        }
    }

    /// Whether the guest takes an interrupt here before its next instruction.
    private mutating func isInterruptNext() throws(ExecutionError) -> Bool {
        guard standing == .atExit, try tape.hasInterrupt() else { return false }
        return try tape.landmark() == nil
    }

    /// How long the guest runs with nothing but the CPU's breakpoints before somebody looks whether
    /// they stand in code of ring 3.
    private static let plainNanoseconds: UInt64 = 100_000_000

    // MARK: Ring 3's code

    /// The first bytes of instructions, as memory of which the fetch is a read.
    private func code(at addresses: [GuestVirtualAddress]) -> [Watchpoint] {
        addresses.compactMap { address in
            physicalAddress(address).flatMap { Watchpoint($0, count: 1, kind: .read) }
        }
    }

    // MARK: Which pages were written

    private func slots(_ watchpoints: [Watchpoint]) -> [Int] {
        var slots: [Int] = []
        for watchpoint in watchpoints {
            let first = watchpoint.address.rawValue / 4096
            let last = (watchpoint.address.rawValue + UInt64(watchpoint.count) - 1) / 4096
            for page in first...last {
                if let slot = machine.memory.pageSlots.slot(ofPage: page) { slots.append(slot) }
            }
        }
        return slots
    }

    private mutating func watchReader() -> DirtyPages.Reader {
        if let reader = watchedWrites { return reader }
        let reader = machine.addWritesReader()
        watchedWrites = reader
        return reader
    }

    private mutating func forgetWrites(_ reader: DirtyPages.Reader) {
        _ = machine.writes?.take(reader)
    }

    /// Whether a page of what is watched was written since the writes were forgotten.
    private mutating func areWatchedPagesWritten(
        _ reader: DirtyPages.Reader
    ) throws(ExecutionError) -> Bool {
        guard !watchpoints.isEmpty else { return false }
        try machine.collectWrites()
        return slots(watchpoints).contains { machine.writes?.contains($0, reader) ?? true }
    }

    /// Whether a page of what is watched was written between a keyframe and the next one, or where
    /// the machine stands.
    private mutating func mayChange(
        _ watched: [Watchpoint], after index: Int, isLast: Bool
    ) throws(ExecutionError) -> Bool {
        guard !watched.isEmpty else { return false }
        let slots = slots(watched)
        if isLast || index + 1 >= keyframes.frames.count { return true }
        let written = keyframes.frames[index + 1].written
        return slots.contains { written.contains(Int32($0)) }
    }
}
