#if canImport(Glibc)
    private import Glibc
#endif

/// A mutex and a condition that its holders wait for.
///
/// Sendable because that is what it is for: the C objects live at a fixed address until deinit.
@safe
final class Monitor: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>

    init() {
        // SAFETY: owned here, initialised before use, freed in deinit when nobody waits any more.
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        unsafe mutex.initialize(to: pthread_mutex_t())
        unsafe condition.initialize(to: pthread_cond_t())
        _ = unsafe pthread_mutex_init(mutex, nil)
        _ = unsafe pthread_cond_init(condition, nil)
    }

    deinit {
        // SAFETY: see init.
        _ = unsafe pthread_cond_destroy(condition)
        _ = unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Runs `body` with the lock held, and wakes all who wait.
    func change<Result>(_ body: () -> Result) -> Result {
        // SAFETY: the mutex is initialised; unlocked on the one way out.
        _ = unsafe pthread_mutex_lock(mutex)
        defer {
            _ = unsafe pthread_cond_broadcast(condition)
            _ = unsafe pthread_mutex_unlock(mutex)
        }
        return body()
    }

    /// Runs `body` with the lock held until it gives a result; waits for a change in between.
    func wait<Result>(until body: () -> Result?) -> Result {
        // SAFETY: the mutex is initialised and held around the wait.
        _ = unsafe pthread_mutex_lock(mutex)
        defer { _ = unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body() { return result }
            _ = unsafe pthread_cond_wait(condition, mutex)
        }
    }
}

/// A thread that runs one function. All signals are blocked in it: they are the main program's.
@safe
final class WorkerThread {
    private let thread: pthread_t
    private var isJoined = false

    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// Starts `body`; throws the errno of pthread_create.
    init(_ body: @escaping @Sendable () -> Void) throws(SystemError) {
        var thread = pthread_t()
        var all = sigset_t()
        var before = sigset_t()
        // SAFETY: the box is retained until the thread takes it; the signal sets are locals.
        let box = unsafe Unmanaged.passRetained(Body(body))
        unsafe sigfillset(&all)
        _ = unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
        let status = unsafe pthread_create(
            &thread, nil,
            { argument in
                if let argument = unsafe argument {
                    unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                }
                return nil
            }, box.toOpaque())
        _ = unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
        if status != 0 {
            unsafe box.release()
            throw SystemError(number: status)
        }
        self.thread = thread
    }

    /// Waits for the function to return.
    func join() {
        if isJoined { return }
        isJoined = true
        _ = pthread_join(thread, nil)
    }

    deinit { join() }
}

/// An errno.
struct SystemError: Error {
    var number: Int32
}
