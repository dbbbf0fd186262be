internal import CKVM

/// The thread that runs a guest.
public enum HostThread {
    /// The CPUs that the calling thread may run on, in ascending order (sched_getaffinity).
    public static func allowedCPUs() throws(KVMError) -> [Int] {
        let words = try affinity()
        return (0..<cpuLimit).filter { words[$0 / 64] >> UInt64($0 % 64) & 1 != 0 }
    }

    /// The CPU that the calling thread runs on now (sched_getcpu).
    public static func currentCPU() throws(KVMError) -> Int {
        try KVMError.check(ckvm_current_cpu(), "sched_getcpu")
    }

    /// The host's time-stamp counter, now: a cheap clock for observed times.
    @inline(__always)
    public static func timestamp() -> UInt64 { ckvm_rdtsc() }

    /// CLOCK_MONOTONIC in nanoseconds.
    public static func monotonicNanoseconds() -> UInt64 { ckvm_monotonic_nanoseconds() }

    /// What the calling thread has run, guest included, in nanoseconds (CLOCK_THREAD_CPUTIME_ID):
    /// unlike the time of day it stands still while others have the CPU.
    public static func ownNanoseconds() -> UInt64 { ckvm_thread_nanoseconds() }

    /// As many CPUs as glibc's cpu_set_t holds.
    static let cpuLimit = 1024

    fileprivate static func affinity() throws(KVMError) -> [UInt64] {
        var words = [UInt64](repeating: 0, count: cpuLimit / 64)
        // SAFETY: the array has as many words as are said.
        let result = unsafe ckvm_get_affinity(&words, UInt32(words.count))
        try KVMError.check(result, "sched_getaffinity")
        return words
    }

    fileprivate static func setAffinity(_ words: [UInt64]) throws(KVMError) {
        // SAFETY: the array has as many words as are said.
        let result = unsafe ckvm_set_affinity(words, UInt32(words.count))
        try KVMError.check(result, "sched_setaffinity")
    }
}

/// The calling thread, held on one CPU until this value goes (sched_setaffinity).
///
/// A guest can see the CPU it runs on (the APIC id of CPUID, where KVM cannot hide it), so a
/// recording and its replay use the same. Threads that are started meanwhile inherit the CPU.
/// To be made and let go on one thread.
public struct ThreadPin: ~Copyable {
    private let before: [UInt64]

    /// Holds the calling thread on a CPU.
    public init(toCPU cpu: Int) throws(KVMError) {
        guard cpu >= 0, cpu < HostThread.cpuLimit else {
            throw .invalidArgument("there is no CPU \(cpu)")
        }
        let before = try HostThread.affinity()
        var words = [UInt64](repeating: 0, count: before.count)
        words[cpu / 64] = 1 << UInt64(cpu % 64)
        try HostThread.setAffinity(words)
        self.before = before
    }

    deinit {
        // The CPUs were allowed before, so they are now; if not, the pin is all that stays.
        try? HostThread.setAffinity(before)
    }
}
