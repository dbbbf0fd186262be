internal import CKVM

/// Makes a vCPU leave KVM_RUN, from any thread.
///
/// A request is never lost: made before the vCPU runs, the next run is interrupted at once. It
/// holds until ``PendingCPU/acknowledgeKick()`` or ``SettledCPU/acknowledgeKick()``. Stands on
/// `immediate_exit` of the run page and SIGUSR1 with a handler that does nothing (`tgkill`).
public struct Kicker: Sendable {
    let mapping: RunPageMapping

    /// Asks the vCPU to return. Repeated requests are one.
    public func kick() {
        // SAFETY: the mapping keeps what the kick acts on.
        unsafe ckvm_kick_request(mapping.kick)
    }

    /// Whether a request is waiting to be acknowledged.
    public var isRequested: Bool {
        // SAFETY: the mapping keeps what the kick acts on.
        unsafe ckvm_kick_is_requested(mapping.kick) != 0
    }
}

/// A one-shot timer of the kernel whose expiry is a kick of the thread that made it: no helper
/// thread is needed (timer_create, SIGEV_THREAD_ID).
///
/// Made, armed and let go on the thread that runs the vCPU.
@safe
public struct KickTimer: ~Copyable {
    private let mapping: RunPageMapping
    private let timer: UnsafeMutableRawPointer?

    init(_ mapping: RunPageMapping) throws(KVMError) {
        self.mapping = mapping
        var timer: UnsafeMutableRawPointer?
        // SAFETY: the kick is never freed, so a signal that comes late finds it.
        try unsafe KVMError.check(ckvm_timer_open(mapping.kick, &timer), "timer_create")
        unsafe self.timer = timer
    }

    deinit {
        // SAFETY: opened in init, closed only here.
        unsafe ckvm_timer_close(timer)
    }

    /// Kicks the vCPU once, after a time. Replaces what was set before.
    public func arm(nanoseconds: UInt64) throws(KVMError) {
        // SAFETY: the timer is open while self lives.
        try unsafe KVMError.check(ckvm_timer_set(timer, max(1, nanoseconds)), "timer_settime")
    }

    /// Takes back ``arm(nanoseconds:)``. A kick that has come already stays until acknowledged.
    public func disarm() throws(KVMError) {
        // SAFETY: the timer is open while self lives.
        try unsafe KVMError.check(ckvm_timer_set(timer, 0), "timer_settime")
    }
}
