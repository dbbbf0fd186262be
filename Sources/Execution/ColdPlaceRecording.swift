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
        var guestNanoseconds: UInt64 = 0
        var boundsPassed = 0
        var boundBegan: UInt64 = 0
        var isFresh = true
        // Where the guest still stands, to stop there once more with nothing executed.
        var kept: UInt64?
        // Behind the REP in which the search ended: the end, and no place that was found.
        var behindREP: UInt64?
        while true {
            if isFresh {
                let bound = ColdPlaceSearch.boundNanoseconds
                try kvm { () throws(KVMError) in try cpu.armKick(nanoseconds: bound) }
                isFresh = false
            }
            let entered = HostThread.timestamp()
            var stop = try stops.run(&cpu, memory)
            // A kick is no stop. (What a stop takes may be measured too dear, and time has to pass.)
            if case .kicked = stop {
                guestNanoseconds &+= stops.lastNanoseconds
            } else if kept == nil {
                guestNanoseconds &+= search.guestTime(of: stops.lastNanoseconds)
            }
            if !isRing0 { midFlight.ring3Stops += 1 }
            if case .exit = stop {} else { kickedTicks &+= HostThread.timestamp() &- entered }
            if case .breakpoint = stop {
                // SAFETY: as above.
                let rip = unsafe cpu.registersPointer.pointee.rip
                if rip == kept {
                    // That is what a stop takes. (A kick may keep the step from being done.)
                    search.stopped(in: stops.lastNanoseconds)
                    stop = try stops.leave(&cpu, memory)
                } else if rip == behindREP {
                    if !isRing0 { search.giveUp() }
                    try stops.unpark(&cpu, memory)
                    return isRing0 ? .here : .hot
                } else {
                    switch search.pass(rip, nanoseconds: guestNanoseconds) {
                    case .take:
                        try stops.unpark(&cpu, memory)
                        return .here
                    case .keep:
                        kept = rip
                        continue
                    case .drop:
                        try stops.remove(rip, memory)
                        guard stops.addresses.isEmpty else { continue }
                        // It stands at a place itself, which may be the one: on to the next time.
                        stop = try stops.step(&cpu, memory)
                        for place in search.settle(nanoseconds: guestNanoseconds) {
                            _ = try stops.plant(place, system: system, memory: memory)
                        }
                    }
                }
            }
            if case .kicked = stop {} else { kept = nil }
            switch stop {
            case .breakpoint, .stepped, .touched: continue
            case .raised:
                search.leave(nanoseconds: guestNanoseconds)
                try stops.unpark(&cpu, memory)
                return .none
            case .exit(let exit):
                search.leave(nanoseconds: guestNanoseconds)
                try stops.unpark(&cpu, memory)
                return .exited(
                    try dealWith(exit, &cpu, &side, memory: memory, entered: entered))
            case .kicked:
                _ = cpu.acknowledgeKick()
                if let reason = self.stop.reason, self.stop.isInsistent {
                    try stops.unpark(&cpu, memory)
                    return .stopped(reason)
                }
                isFresh = true
                // The timer runs on while others have the CPU.
                guard guestNanoseconds &- boundBegan >= ColdPlaceSearch.boundNanoseconds / 2 else {
                    continue
                }
                boundBegan = guestNanoseconds
                boundsPassed += 1
                if isRing0 {
                    // What came and did not come again is cold. A kernel may wait in a loop for the very
                    // interrupt: longer than this it does not wait.
                    search.leave(nanoseconds: guestNanoseconds)
                    behindREP = Self.placeBehindREP(cpu, system, memory)
                    if let behindREP,
                        try stops.plant(behindREP, system: system, memory: memory)
                    {
                        continue
                    }
                    try stops.unpark(&cpu, memory)
                    return .here
                }
                if boundsPassed == 1 { search.passBound(waitingFor: stops.addresses) }
                // What is still waited for is cold; and else the coldest of the others. Where there is
                // none, the guest may be elsewhere by now, for good, or what was learned may be wrong:
                // a busy host bends measurements.
                var added = search.settle(nanoseconds: guestNanoseconds)
                if added.isEmpty {
                    // With nothing planted, which would be read as code.
                    let waited = stops.addresses
                    for place in waited { try stops.remove(place, memory) }
                    let places = ColdPlaces.around(
                        unsafe cpu.registersPointer.pointee, system: system, memory: memory)
                    if places != search.places {
                        added = search.begin(places, nanoseconds: guestNanoseconds)
                    } else if waited.isEmpty, boundsPassed.isMultiple(of: Self.boundsToBeginAnew) {
                        added = search.beginAnew(nanoseconds: guestNanoseconds)
                    } else {
                        added = waited
                    }
                }
                for place in added {
                    _ = try stops.plant(place, system: system, memory: memory)
                }
                guard boundsPassed >= search.patience else { continue }
                behindREP = Self.placeBehindREP(cpu, system, memory)
                if let behindREP,
                    try stops.plant(behindREP, system: system, memory: memory)
                {
                    continue
                }
                search.giveUp()
                try stops.unpark(&cpu, memory)
                return .hot
            }
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
