internal import Glibc
internal import Synchronization

/// A thread that runs one function.
///
/// Signals that come from outside are blocked in it: they are for the threads that expect them.
/// Those of a crash stay open, since the runtime's own report of one needs them on every thread.
@safe
public final class WorkerThread: Sendable {
    private let handle: pthread_t
    private let isJoined = Atomic<Bool>(false)

    /// Starts a thread (pthread_create).
    ///
    /// - Parameters:
    ///   - purpose: what the thread is for, for the error: `to read the console`.
    ///   - body: what it runs; it ends when that returns.
    public init(
        _ purpose: StaticString, _ body: @escaping @Sendable () -> Void
    ) throws(ThreadError) {
        var handle = pthread_t()
        var blocked = sigset_t()
        var before = sigset_t()
        // SAFETY: the sets are this frame's, and sigfillset sets all of the first one.
        unsafe sigfillset(&blocked)
        for signal in Self.crashSignals { unsafe sigdelset(&blocked, signal) }
        unsafe pthread_sigmask(SIG_SETMASK, &blocked, &before)
        // SAFETY: the box is retained until the thread takes it, or released below where none is.
        let box = unsafe Unmanaged.passRetained(Body(run: body))
        let status = unsafe pthread_create(
            &handle, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, box.toOpaque())
        unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
        guard status == 0 else {
            unsafe box.release()
            throw ThreadError(purpose: purpose, number: status)
        }
        self.handle = handle
    }

    deinit { join() }

    /// Waits for the function to return. To be called by one thread; a second call does nothing.
    public func join() {
        guard !isJoined.exchange(true, ordering: .relaxed) else { return }
        _ = pthread_join(handle, nil)
    }

    private static let crashSignals = [SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS]

    /// What a thread is to run, as an object that can pass through a C pointer.
    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(run: @escaping @Sendable () -> Void) { self.run = run }
    }
}

/// No thread can be started. ``description`` is one line.
public struct ThreadError: Error, Equatable, CustomStringConvertible {
    /// What it was to be for.
    public var purpose: String
    /// The errno of pthread_create.
    public var number: Int32

    init(purpose: StaticString, number: Int32) {
        self.purpose = purpose.description
        self.number = number
    }

    /// What is wrong, and what to do.
    public var description: String {
        // SAFETY: strerror gives a NUL-terminated string that is copied at once.
        let text = unsafe strerror(number).map { unsafe String(cString: $0) }
        return "cannot start a thread \(purpose): \(text ?? "errno \(number)"); end other "
            + "programs, or allow more threads (ulimit -u) and memory"
    }
}
