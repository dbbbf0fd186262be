public import Machine

/// What CPUID is to show to guests, so that two hosts of a kind show the same and nothing invites
/// a guest to instructions whose results cannot be recorded.
public enum GuestCPUID {
    /// One rule: bits to clear in a leaf.
    private struct Mask {
        var function: UInt32
        /// Nil: every index.
        var index: UInt32?
        var eax: UInt32 = 0
        var ebx: UInt32 = 0
        var ecx: UInt32 = 0
        var edx: UInt32 = 0
    }

    private static func bit(_ numbers: UInt32...) -> UInt32 { numbers.reduce(0) { $0 | 1 << $1 } }

    /// Bits that are cleared (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
    private static let masks: [Mask] = [
        // EBX: APIC id and number of logical CPUs. ECX: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST,
        // TM2, SDBG, PDCM, x2APIC, TSC deadline, OSXSAVE (follows CR4), RDRAND, hypervisor.
        // EDX: DS, ACPI, HTT, TM, PBE.
        Mask(
            function: 1, ebx: 0xFFFF_0000,
            ecx: bit(2, 3, 4, 5, 6, 7, 8, 11, 15, 21, 24, 27, 30, 31), edx: bit(21, 22, 28, 29, 31)),
        // EAX: cores in the package, threads sharing the cache.
        Mask(function: 4, eax: 0xFFFF_C000),
        // EBX: TSC_ADJUST, SGX, HLE, RTM, RDSEED, PT. ECX: WAITPKG, RDPID, OSPKE (follows CR4),
        // SGX_LC. EDX: hybrid.
        Mask(
            function: 7, index: 0, ebx: bit(1, 2, 4, 11, 18, 25), ecx: bit(4, 5, 22, 30),
            edx: bit(15)),
        // ECX: CMP legacy, SVM, extended APIC space, IBS, SKINIT, WDT, LWP, topology extensions,
        // performance counters, MWAITX. EDX: RDTSCP.
        Mask(
            function: 0x8000_0001, ecx: bit(1, 2, 3, 10, 12, 13, 15, 22, 23, 24, 28, 29),
            edx: bit(27)),
        // EBX: RDPRU. ECX: number of CPUs, size of the APIC id, size of the performance TSC.
        Mask(function: 0x8000_0008, ebx: bit(4), ecx: ~0),
        Mask(function: 0x8000_001D, eax: 0xFFFF_C000),
    ]

    /// Leaves that are left out: a leaf that is not in the table reads as zeros. MONITOR, power,
    /// PMU, topology, SGX, PT, TSC and bus frequency, topology again, SVM, IBS, AMD's topology,
    /// SEV, QoS, PMU.
    private static let absent: [UInt32] = [
        5, 6, 0xA, 0xB, 0x12, 0x14, 0x15, 0x16, 0x1F, 0x8000_000A, 0x8000_001B, 0x8000_001E,
        0x8000_001F, 0x8000_0020, 0x8000_0022,
    ]

    /// The table with the local APIC's TSC-deadline timer shown (leaf 1, ECX bit 24).
    public static func showingTimerDeadline(_ table: [CPUIDEntry]) -> [CPUIDEntry] {
        table.map { entry in
            var entry = entry
            if entry.function == 1 { entry.ecx |= bit(24) }
            return entry
        }
    }

    /// The table to ask KVM for, in the order of the table it is made from.
    ///
    /// - Parameter supported: ``Hypervisor/supportedCPUID()``.
    /// - Returns: `supported` without hypervisor leaves (0x40000000…), RDTSCP, RDPID, RDRAND,
    ///   RDSEED, PMU, x2APIC, TSC deadline and MONITOR; one CPU with APIC id 0. Some hosts show
    ///   guests more than is asked for: see ``HostProbe/observedCPUID(_:requested:ring3:)``.
    public static func requested(from supported: [CPUIDEntry]) -> [CPUIDEntry] {
        supported.compactMap { entry in
            let isHypervisor = entry.function >> 16 == 0x4000
            guard !isHypervisor, !absent.contains(entry.function) else { return nil }
            var entry = entry
            for mask in masks where mask.function == entry.function {
                if let index = mask.index, index != entry.index { continue }
                entry.eax &= ~mask.eax
                entry.ebx &= ~mask.ebx
                entry.ecx &= ~mask.ecx
                entry.edx &= ~mask.edx
            }
            return entry
        }
    }
}
