internal import Devices
public import KVM
public import Machine

/// The host a guest runs on: KVM, opened, and what it was seen to do.
public struct Host: ~Copyable {
    /// KVM.
    public let hypervisor: Hypervisor
    /// What the probes saw.
    public let probe: HostProbe

    /// Opens KVM and probes it: tens of milliseconds, once per process.
    public init() throws(ExecutionError) {
        do throws(KVMError) {
            hypervisor = try Hypervisor()
        } catch { throw .kvm(error) }
        probe = HostProbe.cached(hypervisor)
    }

    /// The CPUID table that a guest is to see on a machine: with the local APIC's timer deadline
    /// where there is one and its counter is recorded.
    func guestCPUID(
        _ configuration: LiveConfiguration, _ machine: MachineKind
    ) throws(ExecutionError) -> [CPUIDEntry] {
        let table = try guestCPUID()
        let hasDeadline =
            machine.hasAPIC && configuration.rewritesTimeStamp && probe.behaviour.msrFilter == .yes
        return hasDeadline ? GuestCPUID.showingTimerDeadline(table) : table
    }

    /// The CPUID table that a new guest is to see.
    public func guestCPUID() throws(ExecutionError) -> [CPUIDEntry] {
        do throws(KVMError) {
            return GuestCPUID.requested(from: try hypervisor.supportedCPUID())
        } catch { throw .kvm(error) }
    }
}
