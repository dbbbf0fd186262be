internal import CKVM

/// Which MSRs go to user space.
public struct MSRFilterRange: Hashable, Sendable {
    /// The first MSR.
    public var first: UInt32
    /// How many, from the first; at most 12288 in one range.
    public var count: UInt32
    /// RDMSR of them exits as ``Exit/rdmsr(_:)``.
    public var reads: Bool
    /// WRMSR of them exits as ``Exit/wrmsr(_:)``.
    public var writes: Bool

    /// Makes a range.
    public init(first: UInt32, count: UInt32 = 1, reads: Bool = true, writes: Bool = true) {
        self.first = first
        self.count = count
        self.reads = reads
        self.writes = writes
    }
}

extension VirtualMachine {
    /// Sends accesses to the given MSRs to user space, and lets KVM handle all others
    /// (KVM_CAP_X86_USER_SPACE_MSR, KVM_X86_SET_MSR_FILTER).
    ///
    /// - Parameters:
    ///   - ranges: At most 16.
    ///   - unknown: Also MSRs that KVM does not know, or whose value it refuses, instead of a
    ///     fault in the guest.
    public func setMSRFilter(
        _ ranges: [MSRFilterRange], unknown: Bool = false
    ) throws(KVMError) {
        guard ranges.count <= Int(KVM_MSR_FILTER_MAX_RANGES) else {
            throw .invalidArgument("\(ranges.count) MSR filter ranges, and KVM takes 16")
        }
        let filtered = UInt64(KVM_MSR_EXIT_REASON_FILTER)
        let refused = UInt64(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN)
        try enable(.userSpaceMSR, (ranges.isEmpty ? 0 : filtered) | (unknown ? refused : 0))
        let largest = Int(KVM_MSR_FILTER_MAX_BITMAP_SIZE)
        guard ranges.allSatisfy({ $0.count > 0 && Int($0.count) <= largest * 8 }) else {
            throw .invalidArgument("an MSR filter range must hold 1 to \(largest * 8) MSRs")
        }
        // A 1 bit lets KVM handle it, so all bits are 0. The ranges share one bitmap of zeros.
        var bitmap = [UInt8](repeating: 0, count: largest)
        let number = descriptor.number
        let result = unsafe bitmap.withUnsafeMutableBufferPointer { bitmap -> Int in
            guard let zeros = bitmap.baseAddress else { return 0 }
            var filter = kvm_msr_filter()
            // SAFETY: the bitmap is as large as any range may need and outlives the request.
            unsafe ckvm_msr_filter_clear(&filter)
            for (index, range) in ranges.enumerated() {
                let flags =
                    (range.reads ? UInt32(KVM_MSR_FILTER_READ) : 0)
                    | (range.writes ? UInt32(KVM_MSR_FILTER_WRITE) : 0)
                unsafe ckvm_msr_filter_set(
                    &filter, UInt32(index), flags, range.first, range.count, zeros)
            }
            return unsafe ckvm_set_msr_filter(number, &filter)
        }
        try KVMError.check(result, "KVM_X86_SET_MSR_FILTER")
    }
}
