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
