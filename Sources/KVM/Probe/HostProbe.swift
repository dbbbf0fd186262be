public import Machine
internal import Synchronization

/// What this host's KVM really does, found by running tiny guests instead of trusting capability
/// bits. Some tens of milliseconds; ``cached(_:)`` does it once per process.
public struct HostProbe: Sendable {
    /// What was seen, typed.
    public let behaviour: HostBehaviour
    /// What was seen and what is known of the host, as named facts in a fixed order.
    public let facts: HostFacts

    /// Runs every probe. One that fails leaves its answers unknown; nothing is thrown.
    ///
    /// Run it on a thread that is not in the middle of a run: the thread is kicked by a timer if
    /// a probe's guest does not come back within 200 ms.
    public static func run(_ hypervisor: borrowing Hypervisor) -> HostProbe {
        var behaviour = HostBehaviour()
        let supported = (try? hypervisor.supportedCPUID()) ?? []
        var guest: ProbeGuest?
        for step in Step.allCases {
            do throws(KVMError) {
                // A machine on which a request failed may be dead for all that follows.
                var machine =
                    if let kept = guest.take() { kept } else { try ProbeGuest(hypervisor) }
                try probe(step, &machine, supported, &behaviour)
                guest = consume machine
            } catch {
                // Its answers stay unknown.
            }
        }
        let facts = HostFacts(
            HostDescription.facts(hypervisor) + behaviour.facts)
        return HostProbe(behaviour: behaviour, facts: facts)
    }

    /// The result of the first call in this process.
    public static func cached(_ hypervisor: borrowing Hypervisor) -> HostProbe {
        if let known = memory.withLock({ $0 }) { return known }
        let probe = run(hypervisor)
        return memory.withLock { known in
            if let known { return known }
            known = probe
            return probe
        }
    }

    private static let memory = Mutex<HostProbe?>(nil)

    // A list of functions would say this shorter; a function value that takes a move-only
    // parameter and throws a typed error crashes the compiler (6.3.1).
    private enum Step: CaseIterable {
        case phaseReal, phaseRing0, phaseRing3, phaseRepeatedRing0, phaseRepeatedRing3
        case phaseRepeatedReal, phasePageCrossing, registerSynchronised
        case registerWriteAfterOutRing0, registerWriteAfterOutRing3, registerImmediateExit
        case registerInstructionCounter, registerDirtyLog, registerMsrFilter
        case registerEmulationFailure, registerXsave, debugBreakpointRing0, debugBreakpointRing3
        case debugWatchpoint, debugStepRing0, debugStepRing3, debugInt3Ring0, debugInt3Ring3
        case debugExceptionRing3
        case eventSyscall, eventInt3, eventIntN, eventInterrupt, cpuidHonoured, cpuidUnhideable
        case instructionUnemulated
    }

    private static func probe(
        _ step: Step, _ guest: inout ProbeGuest, _ supported: [CPUIDEntry],
        _ seen: inout HostBehaviour
    ) throws(KVMError) {
        switch step {
        case .phaseReal: try PhaseProbes.real(&guest, supported, &seen)
        case .phaseRing0: try PhaseProbes.ring0(&guest, supported, &seen)
        case .phaseRing3: try PhaseProbes.ring3(&guest, supported, &seen)
        case .phaseRepeatedRing0: try PhaseProbes.repeatedRing0(&guest, supported, &seen)
        case .phaseRepeatedRing3: try PhaseProbes.repeatedRing3(&guest, supported, &seen)
        case .phaseRepeatedReal: try PhaseProbes.repeatedReal(&guest, supported, &seen)
        case .phasePageCrossing: try PhaseProbes.pageCrossing(&guest, supported, &seen)
        case .registerSynchronised: try RegisterProbes.synchronised(&guest, supported, &seen)
        case .registerWriteAfterOutRing0:
            try RegisterProbes.writeAfterOutRing0(&guest, supported, &seen)
        case .registerWriteAfterOutRing3:
            try RegisterProbes.writeAfterOutRing3(&guest, supported, &seen)
        case .registerImmediateExit: try RegisterProbes.immediateExit(&guest, supported, &seen)
        case .registerInstructionCounter:
            try RegisterProbes.instructionCounter(&guest, supported, &seen)
        case .registerDirtyLog: try RegisterProbes.dirtyLog(&guest, supported, &seen)
        case .registerMsrFilter: try RegisterProbes.msrFilter(&guest, supported, &seen)
        case .registerEmulationFailure:
            try RegisterProbes.emulationFailure(&guest, supported, &seen)
        case .registerXsave: try RegisterProbes.xsave(&guest, supported, &seen)
        case .debugBreakpointRing0: try DebugProbes.breakpointRing0(&guest, supported, &seen)
        case .debugBreakpointRing3: try DebugProbes.breakpointRing3(&guest, supported, &seen)
        case .debugWatchpoint: try DebugProbes.watchpoint(&guest, supported, &seen)
        case .debugStepRing0: try DebugProbes.stepRing0(&guest, supported, &seen)
        case .debugStepRing3: try DebugProbes.stepRing3(&guest, supported, &seen)
        case .debugInt3Ring0: try DebugProbes.int3Ring0(&guest, supported, &seen)
        case .debugInt3Ring3: try DebugProbes.int3Ring3(&guest, supported, &seen)
        case .debugExceptionRing3: try DebugProbes.exceptionRing3(&guest, supported, &seen)
        case .eventSyscall: try EventProbes.syscall(&guest, supported, &seen)
        case .eventInt3: try EventProbes.int3(&guest, supported, &seen)
        case .eventIntN: try EventProbes.intN(&guest, supported, &seen)
        case .eventInterrupt: try EventProbes.interrupt(&guest, supported, &seen)
        case .cpuidHonoured: try CPUIDProbes.honoured(&guest, supported, &seen)
        case .cpuidUnhideable: try CPUIDProbes.unhideable(&guest, supported, &seen)
        case .instructionUnemulated: try InstructionProbes.unemulated(&guest, supported, &seen)
        }
    }
}
