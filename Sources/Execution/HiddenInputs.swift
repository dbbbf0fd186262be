internal import Disassembly
public import KVM
internal import Machine

/// What a guest can read of the outside world without an exit, and what is done about it (DESIGN 3).
public enum HiddenInputs {
    /// One such input on a host.
    public struct Treatment: Sendable {
        /// The instruction or register, and the ring where that matters: `rdtsc ring 0`.
        public var name: String
        /// What becomes of it.
        public var text: String
    }

    /// What becomes of each input on a host that behaves so, for people.
    public static func treatments(_ behaviour: HostBehaviour) -> [Treatment] {
        let hidesCPUID = behaviour.hidesCPUID
        let isNativeInRing3 = behaviour.cpuidRing3 == .no
        let rewritten =
            behaviour.breakpointRing0 == .yes
            ? "rewritten to an exit: in an ELF file's code at load, elsewhere when first executed"
            : "rewritten to an exit in an ELF file's code; elsewhere left alone, for want of "
                + "breakpoints"
        var treatments = [
            Treatment(name: "rdtsc ring 0", text: rewritten),
            Treatment(name: "rdtsc ring 3", text: "left alone, and not recorded"),
            Treatment(
                name: "cpuid ring 0",
                text: hidesCPUID ? "KVM shows the table that was asked for" : rewritten),
            Treatment(
                name: "cpuid ring 3",
                text: isNativeInRing3
                    ? "the host CPU's own, which KVM cannot hide: the vCPU thread is pinned"
                    : "KVM shows the table that was asked for"),
        ]
        for name in ["rdtscp", "rdpid", "rdpru", "rdpmc"] {
            let fails = behaviour.unemulated.contains(name)
            treatments.append(
                Treatment(
                    name: name,
                    text: fails
                        ? "hidden in CPUID; ring 0 cannot execute it here, the run ends at it"
                        : "hidden in CPUID; not recorded where it is executed all the same"))
        }
        for name in ["rdrand", "rdseed"] {
            treatments.append(
                Treatment(
                    name: name,
                    text: "hidden in CPUID" + (hidesCPUID ? "" : " as ring 0 sees it")
                        + "; not recorded where it is executed all the same"))
        }
        treatments += [
            Treatment(
                name: "time MSRs",
                text: behaviour.msrFilter == .yes
                    ? "given to vmtape by an MSR filter, and recorded"
                    : "answered by KVM, and not recorded: this KVM has no MSR filter"),
            Treatment(
                name: "paravirtual clocks", text: "hidden in CPUID; their MSRs are filtered"),
        ]
        return treatments
    }

    /// Instructions whose results are not recorded, unless they were rewritten.
    private static let suspicious: [Instruction.Kind] = [
        .rdtsc, .rdtscp, .rdrand, .rdseed, .rdpmc,
    ]
    /// How far before a place they are looked for.
    static let suspectHistory = 512
    /// The most that are named.
    private static let namedSuspects = 3

    /// Lines that name such instructions in the code before a place where a replay diverged, the
    /// nearest first.
    ///
    /// - Parameters:
    ///   - code: the bytes up to `end`, at most ``suspectHistory``.
    ///   - end: the linear address behind them.
    static func suspects(
        in code: [UInt8], endingAt end: UInt64, system: SystemRegisters
    ) -> [String] {
        let start = end &- UInt64(code.count)
        let disassembler = Disassembler(for: system)
        var found: [Int: String] = [:]
        // Where instructions begin is not known: one of the first few bytes begins one, or comes
        // into step soon.
        for skipped in 0..<min(4, code.count) {
            let part = Array(code[skipped...])
            for place in disassembler.occurrences(of: suspicious, in: part) {
                found[skipped + place.offset] = place.kind.rawValue
            }
        }
        return found.keys.sorted().suffix(namedSuspects).reversed().map { offset in
            "the guest may have executed \(found[offset] ?? "") at 0x"
                + String(start &+ UInt64(offset), radix: 16) + ", whose result is not recorded"
        }
    }
}

extension HostBehaviour {
    /// Ring 0 sees the CPUID table that was asked for, bit by bit.
    var hidesCPUID: Bool {
        cpuidRing0 == .yes && unhideableLeaf1ECX == 0 && unhideableLeaf1EDX == 0
    }
}
