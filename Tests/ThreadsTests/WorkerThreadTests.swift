import Glibc
import Synchronization
import Testing

@testable import Threads

@Test func joiningWaitsForTheFunction() throws {
    let value = Mutex(0)
    let gate = Mutex(false)
    let thread = try WorkerThread("to test") {
        while !gate.withLock({ $0 }) { sched_yield() }
        value.withLock { $0 = 1 }
    }
    #expect(value.withLock { $0 } == 0)
    gate.withLock { $0 = true }
    thread.join()
    #expect(value.withLock { $0 } == 1)
    thread.join()
}

@Test func lettingGoJoins() throws {
    let count = Mutex(0)
    for _ in 0..<20 {
        _ = try WorkerThread("to test") { count.withLock { $0 += 1 } }
    }
    #expect(count.withLock { $0 } == 20)
}

/// Whether some signals are blocked in the calling thread.
private func mask() -> [Bool] {
    var set = sigset_t()
    // SAFETY: pthread_sigmask fills the set of this frame.
    unsafe pthread_sigmask(SIG_SETMASK, nil, &set)
    return [SIGINT, SIGTERM, SIGWINCH, SIGSEGV, SIGABRT].map {
        unsafe sigismember(&set, $0) == 1
    }
}

@Test func signalsFromOutsideAreNotForIt() throws {
    let before = mask()
    let inside = Mutex<[Bool]>([])
    try WorkerThread("to test") { inside.withLock { $0 = mask() } }.join()
    #expect(inside.withLock { $0 } == [true, true, true, false, false])
    #expect(mask() == before)
}

@Test func anErrorSaysWhatForAndWhatToDo() {
    let error = ThreadError(purpose: "to watch a debugger", number: EAGAIN)
    #expect(
        error.description
            == "cannot start a thread to watch a debugger: Resource temporarily unavailable; end "
            + "other programs, or allow more threads (ulimit -u) and memory")
}
