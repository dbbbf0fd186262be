internal import Glibc
internal import Machine
internal import Synchronization
internal import Threads

/// The thread beside the vCPU: it waits for signals and deadlines, and asks the run to end.
///
/// The vCPU thread never looks at a clock for this; it reads one atomic word an exit. A run is
/// asked to end at its next exit; if none comes within the grace, the vCPU is kicked and the run
/// ends in mid-flight, which the trace then says.
public final class Supervisor: Sendable {
    /// What a supervisor watches.
    public struct Configuration: Sendable {
        /// Ends the run after this long; nil: never.
        public var timeoutMilliseconds: UInt64?
        /// How long after a request a guest may go without an exit before it is kicked.
        public var graceMilliseconds: UInt64 = 200
        /// How often `tick` is called, and how late a deadline may be noticed.
        public var tickMilliseconds: UInt64 = 50

        /// Makes a configuration that watches nothing but signals.
        public init() {}
    }

    private let isFinished = Atomic<Bool>(false)
    private let thread: Mutex<WorkerThread?> = Mutex(nil)

    /// Signals that end a run: the first asks, the second aborts.
    private static let signals: [Int32] = [SIGINT, SIGTERM, SIGHUP]

    /// Makes the ending signals wait for the supervisor instead of killing the process.
    ///
    /// To be called before any other thread exists: threads inherit the mask.
    public static func blockSignals() {
        var set = sigset_t()
        // SAFETY: the set is initialised by sigemptyset before anything reads it.
        unsafe sigemptyset(&set)
        for signal in signals { unsafe sigaddset(&set, signal) }
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Starts watching.
    ///
    /// - Parameters:
    ///   - request: where to ask for an end.
    ///   - kick: makes KVM_RUN return; called from the supervisor's thread.
    ///   - abort: the second signal arrived: restore the terminal and leave. What is recorded
    ///     stays in the partial trace.
    ///   - tick: called at every interval with the milliseconds since the start (a status line).
    /// - Throws: ``ExecutionError/thread(_:)``.
    public init(
        _ configuration: Configuration, request: StopRequest,
        kick: @escaping @Sendable () -> Void, abort: @escaping @Sendable (Int32) -> Void,
        tick: @escaping @Sendable (UInt64) -> Void
    ) throws(ExecutionError) {
        do throws(ThreadError) {
            let started = try WorkerThread("to watch for signals and time limits") { [self] in
                self.watch(configuration, request: request, kick: kick, abort: abort, tick: tick)
            }
            thread.withLock { $0 = started }
        } catch { throw .thread(error) }
    }

    /// Ends the watch; returns when the thread is gone, so that nothing prints after this.
    public func finish() {
        isFinished.store(true, ordering: .releasing)
        thread.withLock { $0 }?.join()
    }

    private func watch(
        _ configuration: Configuration, request: StopRequest, kick: @Sendable () -> Void,
        abort: @Sendable (Int32) -> Void, tick: @Sendable (UInt64) -> Void
    ) {
        var set = sigset_t()
        // SAFETY: the set is initialised by sigemptyset before anything reads it.
        unsafe sigemptyset(&set)
        for signal in Self.signals { unsafe sigaddset(&set, signal) }
        let start = Self.milliseconds()
        var askedAt: UInt64?
        var signalsSeen = 0
        while !isFinished.load(ordering: .acquiring) {
            var wait = timespec(
                tv_sec: 0, tv_nsec: Int(configuration.tickMilliseconds) * 1_000_000)
            // SAFETY: both structs live through the call; no siginfo is asked for.
            let signal = unsafe sigtimedwait(&set, nil, &wait)
            let now = Self.milliseconds() - start
            if signal > 0 {
                signalsSeen += 1
                if signalsSeen > 1 { abort(signal) }
                request.request(.user)
            }
            if let limit = configuration.timeoutMilliseconds, now >= limit {
                request.request(.timeLimit)
            }
            if request.reason != nil {
                let since = askedAt ?? now
                askedAt = since
                if now - since >= configuration.graceMilliseconds {
                    request.insist()
                    kick()
                }
            }
            tick(now)
        }
    }

    /// Milliseconds of the monotonic clock.
    public static func milliseconds() -> UInt64 {
        var time = timespec()
        // SAFETY: clock_gettime fills the struct it is given.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
    }
}
