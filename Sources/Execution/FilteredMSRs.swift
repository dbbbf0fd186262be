internal import KVM
internal import Machine
internal import Trace

/// The MSRs that KVM does not answer itself, since what they tell is time, or something else that
/// differs from run to run: data, in one place.
enum FilteredMSRs {
    /// What becomes of an access.
    enum Meaning: Sendable {
        /// The counter that RDTSC reads.
        case timeStamp
        /// What was added to that counter (Intel SDM vol. 3, 19.17.3).
        case timeStampAdjust
        /// When the local APIC's timer expires, on that counter; not there without one.
        case timerDeadline
        /// Reads as zero, and writes are lost.
        case zero
        /// Is not there: #GP. CPUID does not show it.
        case absent
    }

    struct Row: Sendable {
        var first: UInt32
        var count: UInt32 = 1
        var meaning: Meaning
    }

    /// Ascending; KVM takes 16 ranges.
    ///
    /// Intel SDM vol. 4; AMD APM vol. 2, appendix A; Linux Documentation/virt/kvm/x86/msr.rst;
    /// Hyper-V Top-Level Functional Specification, appendix F.
    static let table: [Row] = [
        // IA32_TIME_STAMP_COUNTER.
        Row(first: 0x10, meaning: .timeStamp),
        // MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME, which KVM offers whatever CPUID says.
        Row(first: 0x11, count: 2, meaning: .absent),
        Row(first: 0x3B, meaning: .timeStampAdjust),
        // IA32_MPERF, IA32_APERF.
        Row(first: 0xE7, count: 2, meaning: .absent),
        // IA32_TSC_DEADLINE.
        Row(first: 0x6E0, meaning: .timerDeadline),
        // Hyper-V's reference counter, reference page and synthetic timers.
        Row(first: 0x4000_0020, count: 4, meaning: .absent),
        Row(first: 0x4000_00B0, count: 8, meaning: .absent),
        // MSR_KVM_WALL_CLOCK_NEW to MSR_KVM_MIGRATION_CONTROL, with clock, stolen time and
        // asynchronous page faults, by which KVM writes to RAM.
        Row(first: 0x4B56_4D00, count: 16, meaning: .absent),
        // MPERF_READONLY, APERF_READONLY.
        Row(first: 0xC000_00E7, count: 2, meaning: .absent),
        // PERF_CTL0–3, PERF_CTR0–3: there on every AMD CPU, and KVM's without a PMU reads as zero.
        Row(first: 0xC001_0000, count: 8, meaning: .zero),
        // TSC_RATIO.
        Row(first: 0xC001_0104, meaning: .absent),
        // PERF_CTL and PERF_CTR of the extension.
        Row(first: 0xC001_0200, count: 12, meaning: .zero),
    ]

    /// What an access to an MSR means; nil: it is not in the table.
    static func meaning(of index: UInt32) -> Meaning? {
        table.first { index >= $0.first && index - $0.first < $0.count }?.meaning
    }

    /// The ranges to ask of KVM.
    ///
    /// - Parameter isNative: RDTSC is left alone, and so is the counter as an MSR.
    static func ranges(timeStampIsNative isNative: Bool) -> [MSRFilterRange] {
        table.filter {
            switch $0.meaning {
            case .timeStamp, .timeStampAdjust: !isNative
            case .timerDeadline, .zero, .absent: true
            }
        }.map { MSRFilterRange(first: $0.first, count: $0.count) }
    }
}

/// The filter as a trace keeps it: a property of the machine, `10 11-12 3b`, numbers in hexadecimal.
/// A trace without it was recorded without a filter.
enum MSRFilterProperty {
    static let key = "msr-filter"

    static func text(_ ranges: [MSRFilterRange]) -> String {
        ranges.map { range in
            let first = String(range.first, radix: 16)
            guard range.count > 1 else { return first }
            return first + "-" + String(range.first + (range.count - 1), radix: 16)
        }.joined(separator: " ")
    }

    /// The ranges of a trace's machine.
    ///
    /// - Throws: ``ExecutionError/cannotReplay(_:)`` where the property says something else.
    static func ranges(_ machine: MachineDescription) throws(ExecutionError) -> [MSRFilterRange] {
        guard let text = machine.properties.first(where: { $0.key == key })?.value else {
            return []
        }
        var ranges: [MSRFilterRange] = []
        for part in text.split(separator: " ") {
            let ends = part.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
                .map { UInt32($0, radix: 16) }
            guard let first = ends.first ?? nil, let last = ends.last ?? nil, last >= first,
                last - first < 12288, ranges.count < 16
            else {
                throw .cannotReplay(
                    "machine property \(key): \(part) is no range of MSRs: the trace's header is "
                        + "not of this version")
            }
            ranges.append(MSRFilterRange(first: first, count: last - first + 1))
        }
        return ranges
    }
}
