internal import CKVM

/// The thread that runs a guest.
public enum HostThread {
    /// Pins the calling thread to a CPU (sched_setaffinity).
    public static func pin(toCPU cpu: Int) throws(KVMError) {
        guard cpu >= 0, cpu < 1024 else { throw .invalidArgument("there is no CPU \(cpu)") }
        try KVMError.check(ckvm_pin_thread(UInt32(cpu)), "sched_setaffinity")
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
}
