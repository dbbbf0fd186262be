internal import KVM
internal import Trace

/// On which of the host's CPUs a guest runs.
enum VCPUPlacement {
    /// What is taken where nothing is asked for.
    enum Fallback {
        /// The CPU that the calling thread happens to be on: spreads sessions over the host.
        case current
        /// The first that is allowed: the same every time.
        case first
    }

    /// Checks a CPU that was asked for, or chooses one.
    static func choose(
        _ wanted: Int?, fallback: Fallback = .current
    ) throws(ExecutionError) -> Int {
        try kvm { () throws(KVMError) in
            let allowed = try HostThread.allowedCPUs()
            if let wanted {
                guard allowed.contains(wanted) else {
                    throw .invalidArgument(
                        "CPU \(wanted) cannot be used here: choose one of "
                            + allowed.prefix(16).map(String.init).joined(separator: ", "))
                }
                return wanted
            }
            if fallback == .first, let first = allowed.first { return first }
            return try HostThread.currentCPU()
        }
    }

    /// The CPU that was asked for; else that of a recording, where this host has it; else as a
    /// recording without observed facts.
    static func choose(
        _ wanted: Int?, as header: TraceHeader
    ) throws(ExecutionError) -> Int {
        if let wanted { return try choose(wanted) }
        let recorded = header.observed?.properties.first { $0.key == property }
        let allowed = try kvm { () throws(KVMError) in try HostThread.allowedCPUs() }
        if let recorded, let cpu = Int(recorded.value), allowed.contains(cpu) { return cpu }
        return try choose(nil, fallback: .first)
    }

    /// The observed fact that holds it.
    static let property = "host.cpu-number"
}
