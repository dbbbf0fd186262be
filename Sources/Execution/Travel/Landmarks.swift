internal import KVM
internal import Machine
internal import Trace

/// Interrupts in mid-flight on the way, and the end of the run.
extension TimeMachine {
    /// What becomes of the interrupt that the tape has next.
    enum Injection {
        /// It was injected here; what the move comes to, if the tape ends with it.
        case injected(Arrival?)
        /// So many instructions after the exit.
        case ahead(UInt64)
        /// Where the state is the landmark's.
        case somewhereAhead
        /// Its place is behind us, or was never there.
        case missed
    }

    /// Injects the interrupt at its landmark, if the machine stands at it; nothing is pending.
    mutating func inject(_ landmark: Landmark) throws(ExecutionError) -> Injection {
        let search = LandmarkSearch(landmark)
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe machine.cpu.registersPointer.pointee
        let recorded = hasCounter ? landmark.progress : nil
        if let recorded {
            let count = spanStart &+ (try ticks())
            // A counter of nonsense is as far away as it says, and never reached.
            if count < recorded {
                // The return to ring 3 counts, and nothing after it does.
                guard recorded - count == 1, isReturnToRing3Next(registers),
                    mayBeInRing3(registers, landmark)
                else { return .ahead(recorded - spanStart) }
                return try reachRing3(landmark)
            }
            if count == recorded, machine.currentSystemRegisters.cpl == 3,
                mayBeInRing3(registers, landmark)
            {
                return try reachRing3(landmark)
            }
            guard count == recorded else {
                return miss(landmark, "the guest ran past it", registers, hits: 0)
            }
            guard search.matches(registers) else {
                return miss(
                    landmark, "its registers are others at its count of instructions", registers,
                    hits: 0)
            }
        } else if !search.matches(registers) {
            return .somewhereAhead
        }
        let memory = try machine.memoryDigest()
        let state = try kvm { () throws(KVMError) in
            try MachineState(&machine.cpu, memory: memory).digest
        }
        guard state == landmark.state else {
            guard recorded != nil else { return .somewhereAhead }
            return miss(
                landmark, "memory or other state differs at its count of instructions", registers,
                hits: 1)
        }
        try kvm { () throws(KVMError) in
            if armed != .off {
                try machine.cpu.setGuestDebug(.off)
                armed = .off
            }
            try machine.cpu.restoreFlags(landmark.registers[.rflags])
        }
        guard machine.cpu.isReadyForInterrupt else {
            return miss(
                landmark, "the CPU would not take the interrupt there", registers, hits: 1)
        }
        let vector = try tape.acknowledgeInterrupt()
        let interruption = Interruption(.external, vector: vector, landmark: landmark)
        guard try tape.interruption(interruption) else {
            return .injected(try conclude(.endedByListener))
        }
        try kvm { () throws(KVMError) in try machine.cpu.interrupt(vector: vector) }
        standing = .afterKick
        let outcome = try loop.outcome(
            &tape, natural: nil, canWake: false, memory: machine.memory)
        return .injected(
            try outcome.map { outcome throws(ExecutionError) in
                try conclude(outcome)
            })
    }

    /// Whether the next instruction leads into ring 3.
    private func isReturnToRing3Next(_ registers: GeneralRegisters) -> Bool {
        ReturnToRing3.isNext(
            registers, system: machine.currentSystemRegisters, memory: machine.memory)
    }

    /// Whether ring 3 can stand at a landmark, and this host does not stop it there.
    private func mayBeInRing3(_ registers: GeneralRegisters, _ landmark: Landmark) -> Bool {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe machine.cpu.systemRegistersPointer.pointee
        let address = PageWalk.linearRIP(landmark.registers.rip, system: system)
        return loop.usesRing3Stops
            && Ring3Stops.place(address.rawValue, system: system, memory: machine.memory) != nil
    }

    /// Finds a landmark in ring 3 as a replay does. Nothing stops the guest on the way.
    private mutating func reachRing3(_ landmark: Landmark) throws(ExecutionError) -> Injection {
        if armed != .off {
            try kvm { () throws(KVMError) in try machine.cpu.setGuestDebug(.off) }
            armed = .off
        }
        standing = .afterKick
        let outcome = try loop.reachOne(
            landmark, &machine.cpu, &tape, memory: machine.memory)
        if let outcome {
            guard tape.miss == nil else {
                var divergence = ReplayDivergence(place: .exit, exitNumber: loop.exitCount)
                divergence.causes = tape.miss?.lines ?? []
                self.divergence = divergence
                return .missed
            }
            return .injected(try conclude(outcome))
        }
        let last = try loop.outcome(&tape, natural: nil, canWake: false, memory: machine.memory)
        return .injected(
            try last.map { outcome throws(ExecutionError) in
                try conclude(outcome)
            })
    }

    private mutating func miss(
        _ landmark: Landmark, _ reason: String, _ registers: GeneralRegisters, hits: UInt64
    ) -> Injection {
        let miss = LandmarkMiss(
            exitNumber: loop.exitCount, landmark: landmark, reason: reason, registers: registers,
            progress: nil, hits: hits, rejectedHits: hits)
        var divergence = ReplayDivergence(place: .exit, exitNumber: loop.exitCount)
        divergence.causes = miss.lines
        self.divergence = divergence
        return .missed
    }

    /// What a move comes to with the last event of the tape, or the first that differs.
    mutating func conclude(_ outcome: LoopOutcome) throws(ExecutionError) -> Arrival {
        switch outcome {
        case .ended(let ending):
            self.ending = ending
            guard !ending.isInMidFlight, let divergence = try differenceAtEnd(outcome) else {
                return .historyEnd
            }
            self.divergence = divergence
            return .diverged
        case .endOfTape, .exitLimit, .stopped:
            ending = Ending(.runnerError, isInMidFlight: true)
            return .historyEnd
        case .endedByListener:
            guard let mismatch = tape.mismatch, !mismatch.isTapeEnd else {
                // The recording was cut between an exit and its answer.
                ending = Ending(.runnerError, isInMidFlight: true)
                return .historyEnd
            }
            divergence = ReplayDivergence(
                mismatch, place: .exit, exitNumber: loop.exitCount, reader: reader,
                registers: machine.currentRegisters, system: machine.currentSystemRegisters)
            return .diverged
        }
    }

    /// Compares reason, registers and memory with the recorded end; nil where they are equal.
    private mutating func differenceAtEnd(
        _ outcome: LoopOutcome
    ) throws(ExecutionError) -> ReplayDivergence? {
        let report = RunReport(
            outcome: outcome, exitCount: loop.exitCount, nanoseconds: 0,
            registers: machine.currentRegisters, systemRegisters: machine.currentSystemRegisters)
        let memory = try machine.memoryDigest()
        guard try !tape.compareEnd(EndRecord(report), memory: memory),
            let mismatch = tape.mismatch
        else { return nil }
        var divergence = ReplayDivergence(
            mismatch, place: .end, exitNumber: loop.exitCount, reader: reader,
            registers: machine.currentRegisters, system: machine.currentSystemRegisters)
        if let recorded = try trace({ () throws(TraceError) in try reader.memoryDigest() }) {
            divergence.differingPages = recorded.differingPages(from: machine.memory.digest())
        }
        return divergence
    }
}
