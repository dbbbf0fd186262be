internal import Devices
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// The machine that a trace describes, made from the trace alone.
extension GuestMachine {
    /// Creates the machine, and loads the guest that the trace holds.
    ///
    /// - Parameters:
    ///   - isForced: makes it on a host whose behaviour differs, too.
    ///   - differences: the ways in which it does.
    ///   - watches: is ready to find instructions to be rewritten, for when the run leaves the tape.
    /// - Throws: ``ExecutionError/cannotReplay(_:)`` where this host does not match, or the trace
    ///   does not hold what a replay needs.
    static func replaying(
        _ reader: TraceReader, host: borrowing Host, isForced: Bool,
        differences: [HostFacts.Difference], watches: Bool = false
    ) throws(ExecutionError) -> GuestMachine {
        if !isForced, !differences.isEmpty {
            throw .cannotReplay(Self.refusal(differences, reader.path))
        }
        let plan = try LoadPlan(recordedIn: reader)
        let machine = try GuestMachine(
            hypervisor: host.hypervisor, plan: plan, cpuid: reader.header.requestedCPUID,
            rewriting: Rewriting(reader.header, plan, watches: watches),
            msrFilter: MSRFilterProperty.ranges(reader.header.machine),
            hasLocalAPIC: reader.header.machine.devices.contains {
                $0.name == Devices.DeviceDescription.localAPIC
            })
        if !isForced, let leaf = machine.firstDifferentCPUIDLeaf(from: reader.header) {
            throw .cannotReplay(
                "\(reader.path): CPUID leaf 0x\(String(leaf, radix: 16)) shows guests something "
                    + "else here than where it was recorded (--force replays anyway)")
        }
        return machine
    }

    private static func refusal(_ differences: [HostFacts.Difference], _ path: String) -> String {
        let shown = differences.prefix(3).map {
            "\($0.name) is \($0.here) here and \($0.there) there"
        }
        let more = differences.count > 3 ? " and \(differences.count - 3) more" : ""
        return "\(path): recorded on a host that behaves differently: "
            + shown.joined(separator: "; ") + more + " (--force replays anyway)"
    }

    /// The first leaf of CPUID that shows a guest something else than in the recording; nil where
    /// there is none.
    func firstDifferentCPUIDLeaf(from header: TraceHeader) -> UInt32? {
        let recorded = header.observedCPUID
        for (mine, theirs) in zip(recorded, observedCPUID) where mine != theirs {
            return mine.function
        }
        guard recorded.count != observedCPUID.count else { return nil }
        let longer = recorded.count > observedCPUID.count ? recorded : observedCPUID
        return longer[min(recorded.count, observedCPUID.count)].function
    }
}
