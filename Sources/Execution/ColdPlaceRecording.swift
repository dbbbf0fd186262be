internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// What came of looking for a colder place.
enum ColdPlace {
    /// The guest stands at it.
    case here
    /// There is none for longer than an interrupt can wait: the guest stands in a loop through which
    /// no replay gets.
    case hot
    /// The guest left ring 3, or none came: a later kick finds another.
    case none
    /// The guest made an exit, which has been dealt with; nil: it runs on.
    case exited(LoopOutcome?)
    /// Somebody asked for an end.
    case stopped(StopReason)
}

/// How far a search for a cold place has come.
private struct ColdPlaceClimb {
    /// The guest's time, without what stops take.
    var guestNanoseconds: UInt64 = 0
    /// How often the guest ran for the bound without coming to a place that was taken, and since when
    /// it does.
    var boundsPassed = 0
    var boundBegan: UInt64 = 0
    /// The next run has a bound of its own.
    var isFresh = true
    /// Where the guest still stands, to stop there once more with nothing executed.
    var kept: UInt64?
    /// Behind the REP in which the search ended: the end, and no place that was found.
    var behindREP: UInt64?
}

/// Recording interrupts where nothing counts instructions, as in ring 3: where a kick finds the guest
/// may be the middle of a hot loop, through which a replay would have to stop a million times; so it
/// is taken on to a colder place.
extension RunLoop {
    /// After so many, all places are tried again.
    private static let boundsToBeginAnew = 8

    /// Whether a replay finds a place in ring 3 here.
    var isRing3Found: Bool { usesRing3Stops ? hasCounter : breaksRing3 }

    /// Whether landmarks in ring 0 are put at colder places. Where the counter tells how far a place
    /// is, a replay finds it wherever it stands; a watch for instructions to be rewritten
    /// (``CodeWatch``) needs the breakpoints itself.
    func movesInRing0<CPU: Processor & ~Copyable>(_ cpu: borrowing CPU) -> Bool {
        guard !hasCounter, breaksRing0, codeWatch == nil else { return false }
        // SAFETY: the page's registers do not change before the next run.
        return unsafe cpu.systemRegistersPointer.pointee.mode == .long
    }

    /// Takes the guest on to a colder place: ring 0 by the CPU's breakpoints, ring 3 by its exceptions.
    mutating func findColdPlace<CPU, Side>(
        isRing3: Bool, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> ColdPlace
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // What is known is moved out and in again, not copied.
        var search = ColdPlaceSearch()
        if isRing3 {
            swap(&search, &coldPlaces)
            defer { swap(&search, &coldPlaces) }
            var stops = Ring3Stops()
            return try find(&stops, &search, &cpu, &side, memory: memory)
        }
        swap(&search, &ring0Places)
        defer { swap(&search, &ring0Places) }
        var stops = Ring0Stops()
        return try find(&stops, &search, &cpu, &side, memory: memory)
    }

    private mutating func find<Stops, CPU, Side>(
        _ stops: inout Stops, _ search: inout ColdPlaceSearch, _ cpu: inout CPU,
        _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> ColdPlace
    where
        Stops: PlaceStops, CPU: Processor & ~Copyable,
        Side: World & RunListener & ~Copyable
    {
        try kvm { () throws(KVMError) in try stops.park(&cpu) }
        let place: ColdPlace
        do throws(ExecutionError) {
            place = try climb(&stops, &search, &cpu, &side, memory: memory)
        } catch {
            try stops.unpark(&cpu, memory)
            throw error
        }
        try kvm { () throws(KVMError) in
            try cpu.armKick(nanoseconds: 0)
            _ = cpu.acknowledgeKick()
        }
        // Also what was armed at an exit on the way.
        isKickArmed = false
        return place
    }

    private mutating func climb<Stops, CPU, Side>(
        _ stops: inout Stops, _ search: inout ColdPlaceSearch, _ cpu: inout CPU,
        _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> ColdPlace
    where
        Stops: PlaceStops, CPU: Processor & ~Copyable,
        Side: World & RunListener & ~Copyable
    {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        let isRing0 = Stops.self == Ring0Stops.self
        let places = ColdPlaces.around(
            unsafe cpu.registersPointer.pointee, system: system, memory: memory)
        for place in search.begin(places) {
            _ = try stops.plant(place, system: system, memory: memory)
        }
        // Nothing in ring 0 is worth waiting for: a replay gets through its loops.
        if isRing0, stops.addresses.isEmpty { return .here }
        var climb = ColdPlaceClimb()
        while true {
            if climb.isFresh {
                let bound = ColdPlaceSearch.boundNanoseconds
                try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: bound) }
                climb.isFresh = false
            }
            let entered = HostThread.timestamp()
            var stop = try stops.run(&cpu, memory)
            // A kick is no stop. (What a stop takes may be measured too dear, and time has to pass.)
            if case .kicked = stop {
                climb.guestNanoseconds &+= stops.lastNanoseconds
            } else if climb.kept == nil {
                climb.guestNanoseconds &+= search.guestTime(of: stops.lastNanoseconds)
            }
            if !isRing0 { midFlight.ring3Stops += 1 }
            if case .exit = stop {} else { kickedTicks &+= HostThread.timestamp() &- entered }
            if case .breakpoint = stop {
                // SAFETY: as above.
                let rip = unsafe cpu.registersPointer.pointee.rip
                if rip == climb.kept {
                    // That is what a stop takes. (A kick may keep the step from being done.)
                    search.stopped(in: stops.lastNanoseconds)
                    stop = try stops.leave(&cpu, memory)
                } else if rip == climb.behindREP {
                    return try end(&stops, &search, &cpu, memory)
                } else {
                    switch search.pass(rip, nanoseconds: climb.guestNanoseconds) {
                    case .take:
                        try stops.unpark(&cpu, memory)
                        return .here
                    case .keep:
                        climb.kept = rip
                        continue
                    case .drop:
                        try stops.remove(rip, memory)
                        guard stops.addresses.isEmpty else { continue }
                        // It stands at a place itself, which may be the one: on to the next time.
                        stop = try stops.step(&cpu, memory)
                        for place in search.settle(nanoseconds: climb.guestNanoseconds) {
                            _ = try stops.plant(place, system: system, memory: memory)
                        }
                    }
                }
            }
            if case .kicked = stop {} else { climb.kept = nil }
            switch stop {
            case .breakpoint, .stepped, .touched: continue
            case .raised:
                search.leave(nanoseconds: climb.guestNanoseconds)
                try stops.unpark(&cpu, memory)
                return .none
            case .exit(let exit):
                search.leave(nanoseconds: climb.guestNanoseconds)
                try stops.unpark(&cpu, memory)
                return .exited(
                    try dealWith(exit, &cpu, &side, memory: memory, entered: entered))
            case .kicked:
                _ = cpu.acknowledgeKick()
                if let reason = self.stop.reason, self.stop.isInsistent {
                    try stops.unpark(&cpu, memory)
                    return .stopped(reason)
                }
                climb.isFresh = true
                if let place = try passBound(&climb, &stops, &search, &cpu, memory) {
                    return place
                }
            }
        }
    }

    /// A kick has come: where the guest ran for the bound, it is looked elsewhere, or no longer.
    ///
    /// - Returns: What came of the search; nil: it goes on.
    private func passBound<Stops: PlaceStops, CPU: Processor & ~Copyable>(
        _ climb: inout ColdPlaceClimb, _ stops: inout Stops, _ search: inout ColdPlaceSearch,
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> ColdPlace? {
        // The timer runs on while others have the CPU.
        let passed = climb.guestNanoseconds &- climb.boundBegan
        guard passed >= ColdPlaceSearch.boundNanoseconds / 2 else { return nil }
        climb.boundBegan = climb.guestNanoseconds
        climb.boundsPassed += 1
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        let isRing0 = Stops.self == Ring0Stops.self
        if isRing0 {
            // What came and did not come again is cold. A kernel may wait in a loop for the very
            // interrupt: longer than this it does not wait.
            search.leave(nanoseconds: climb.guestNanoseconds)
        } else {
            if climb.boundsPassed == 1 { search.passBound(waitingFor: stops.addresses) }
            try lookElsewhere(climb, &stops, &search, &cpu, system, memory)
            guard climb.boundsPassed >= search.patience else { return nil }
        }
        climb.behindREP = Self.placeBehindREP(cpu, system, memory)
        if let behindREP = climb.behindREP,
            try stops.plant(behindREP, system: system, memory: memory)
        {
            return nil
        }
        return try end(&stops, &search, &cpu, memory)
    }

    /// Ends a search where the guest stands: a replay gets through every loop of ring 0, and not
    /// through this one of ring 3.
    private func end<Stops: PlaceStops, CPU: Processor & ~Copyable>(
        _ stops: inout Stops, _ search: inout ColdPlaceSearch, _ cpu: inout CPU,
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> ColdPlace {
        try stops.unpark(&cpu, memory)
        if Stops.self == Ring0Stops.self { return .here }
        search.giveUp()
        return .hot
    }

    /// What is still waited for is cold; and else the coldest of the others. Where there is none, the
    /// guest may be elsewhere by now, for good, or what was learned may be wrong: a busy host bends
    /// measurements.
    private func lookElsewhere<Stops: PlaceStops, CPU: Processor & ~Copyable>(
        _ climb: ColdPlaceClimb, _ stops: inout Stops, _ search: inout ColdPlaceSearch,
        _ cpu: inout CPU, _ system: SystemRegisters, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        var added = search.settle(nanoseconds: climb.guestNanoseconds)
        if added.isEmpty {
            // With nothing planted, which would be read as code.
            let waited = stops.addresses
            for place in waited { try stops.remove(place, memory) }
            // SAFETY: the page's registers do not change before the next run.
            let places = ColdPlaces.around(
                unsafe cpu.registersPointer.pointee, system: system, memory: memory)
            if places != search.places {
                added = search.begin(places, nanoseconds: climb.guestNanoseconds)
            } else if waited.isEmpty, climb.boundsPassed.isMultiple(of: Self.boundsToBeginAnew) {
                added = search.beginAnew(nanoseconds: climb.guestNanoseconds)
            } else {
                added = waited
            }
        }
        for place in added {
            _ = try stops.plant(place, system: system, memory: memory)
        }
    }

    /// The instruction behind the REP in which the guest stands; nil where it stands in none. (A
    /// breakpoint on a REP is passed before its first iteration only.)
    private static func placeBehindREP<CPU: Processor & ~Copyable>(
        _ cpu: borrowing CPU, _ system: SystemRegisters, _ memory: borrowing GuestMemory
    ) -> UInt64? {
        // SAFETY: the page's registers do not change before the next run.
        let rip = unsafe cpu.registersPointer.pointee.rip
        let address = PageWalk.linearRIP(rip, system: system)
        let bytes = PageWalk.read(
            address, count: Disassembler.maximumLength, system: system, memory: memory)
        guard let instruction = Disassembler(for: system).decode(bytes, at: address),
            instruction.isRepeated
        else { return nil }
        return address.rawValue &+ UInt64(instruction.length)
    }

    /// An exit that came on the way, which is an ordinary one.
    private mutating func dealWith<CPU, Side>(
        _ exit: Exit, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        guard !Self.isUncounted(exit) else { return nil }
        if case .debug(let stop) = exit, try passes(stop.pc, &cpu, &side, memory: memory) {
            return nil
        }
        if let outcome = try take(
            RunStep(exit, other: &other), &cpu, &side, memory: memory, entered: entered,
            returned: HostThread.timestamp())
        {
            return outcome
        }
        return try afterExit(&cpu, &side, memory: memory)
    }
}
