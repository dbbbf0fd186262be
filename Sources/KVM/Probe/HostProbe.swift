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
        probeAll(hypervisor, supported, &behaviour)
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

    /// An answer that is not reached stays unknown, and the next probe is a guest of its own.
    private static func attempt(_ probe: () throws(KVMError) -> Void) { try? probe() }

    // A list of functions would say this shorter; a function value that borrows a move-only
    // parameter and throws a typed error crashes the compiler (6.3.1).
    private static func probeAll(
        _ hypervisor: borrowing Hypervisor, _ supported: [CPUIDEntry], _ seen: inout HostBehaviour
    ) {
        attempt { () throws(KVMError) in try PhaseProbes.real(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try PhaseProbes.ring0(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try PhaseProbes.ring3(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try PhaseProbes.repeatedRing0(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in try PhaseProbes.repeatedRing3(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in try PhaseProbes.repeatedReal(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in try PhaseProbes.pageCrossing(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try RegisterProbes.synchronised(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try RegisterProbes.writeAfterOutRing0(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try RegisterProbes.writeAfterOutRing3(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try RegisterProbes.immediateExit(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try RegisterProbes.instructionCounter(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in try RegisterProbes.dirtyLog(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try RegisterProbes.msrFilter(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try RegisterProbes.emulationFailure(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in try RegisterProbes.xsave(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in
            try DebugProbes.breakpointRing0(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in
            try DebugProbes.breakpointRing3(hypervisor, supported, &seen)
        }
        attempt { () throws(KVMError) in try DebugProbes.watchpoint(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try DebugProbes.stepRing0(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try DebugProbes.stepRing3(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try DebugProbes.int3Ring0(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try DebugProbes.int3Ring3(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try EventProbes.syscall(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try EventProbes.int3(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try EventProbes.intN(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try EventProbes.interrupt(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try CPUIDProbes.honoured(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in try CPUIDProbes.unhideable(hypervisor, supported, &seen) }
        attempt { () throws(KVMError) in
            try InstructionProbes.unemulated(hypervisor, supported, &seen)
        }
    }
}
