import Execution
import Glibc
import Guest
import Machine
import Synchronization
import Testing

@testable import KVM

/// Asking a run to end, and the thread that asks.
@Suite struct StopTests {
    @Test func `nothing is asked for at first`() {
        let stop = StopRequest()
        #expect(stop.reason == nil)
        #expect(!stop.isInsistent)
    }

    @Test(arguments: [StopReason.user, .timeLimit, .sizeLimit])
    func `the first reason is kept`(_ reason: StopReason) {
        let stop = StopRequest()
        stop.request(reason)
        stop.request(.user)
        stop.request(.sizeLimit)
        #expect(stop.reason == reason)
        #expect(!stop.isInsistent)
        stop.insist()
        stop.insist()
        #expect(stop.reason == reason)
        #expect(stop.isInsistent)
    }

    /// A place where one thread waits for another.
    @safe
    final class Signal: @unchecked Sendable {
        // Sendable: a POSIX semaphore, made for threads.
        private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

        // SAFETY (whole type): initialised here, destroyed when nobody holds the object.
        init() { unsafe sem_init(semaphore, 0, 0) }
        deinit {
            unsafe sem_destroy(semaphore)
            unsafe semaphore.deallocate()
        }
        func send() { unsafe sem_post(semaphore) }
        func wait() { while unsafe sem_wait(semaphore) != 0 {} }
    }

    @Test func `a guest that never exits is asked, then kicked, when its time is over`() throws {
        let stop = StopRequest()
        let kicked = Signal()
        let wasAskedFirst = Atomic<Bool>(false)
        var configuration = Supervisor.Configuration()
        configuration.timeoutMilliseconds = 1
        configuration.graceMilliseconds = 0
        configuration.tickMilliseconds = 1
        let supervisor = try Supervisor(
            configuration, request: stop,
            kick: {
                wasAskedFirst.store(
                    stop.reason == .timeLimit && stop.isInsistent, ordering: .relaxed)
                kicked.send()
            }, abort: { _ in }, tick: { _ in })
        defer { supervisor.finish() }
        var cpu = ScriptedCPU([
            ScriptedCPU.portOut(1, [1]),
            // Computes until it is kicked.
            .then { kicked.wait() }, .interrupted,
        ])
        var side = ScriptedSide()
        // The supervisor may ask before the first exit.
        side.followsNature = false
        var loop = RunLoop(behaviour: HostBehaviour(), stop: stop)
        let memory = try smallMemory()
        let outcome = try loop.run(&cpu, &side, memory: memory)
        guard case .stopped(.timeLimit, _) = outcome else {
            Issue.record("ended by \(outcome)")
            return
        }
        kicked.wait()
        let isAskedFirst = wasAskedFirst.load(ordering: .relaxed)
        #expect(isAskedFirst)
    }

    @Test func `the time of runs that were kicked is the guest's`() throws {
        let ticks: UInt64 = 100_000
        let compute = ScriptedCPU.Step.then {
            let start = HostThread.timestamp()
            while HostThread.timestamp() &- start < ticks {}
        }
        var cpu = ScriptedCPU([
            ScriptedCPU.portOut(1, [1]),
            compute, .interrupted, compute, .exit(.irqWindowOpen), compute,
            ScriptedCPU.portOut(1, [2]),
            ScriptedCPU.portOut(1, [3]),
        ])
        var side = ScriptedSide()
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        _ = try loop.run(&cpu, &side, memory: try smallMemory())
        let stamps = side.stamps
        #expect(stamps.count == 8)
        #expect(stamps[3] - stamps[2] >= 3 * ticks)
        // No exit is entered before the one before it has returned, nor takes another's time.
        #expect(stamps[2] >= stamps[1] && stamps[4] >= stamps[3] && stamps[6] >= stamps[5])
    }

    @Test func `a request has its grace before the guest is kicked`() throws {
        let stop = StopRequest()
        let ticked = Signal()
        let kicks = Atomic<Int>(0)
        var configuration = Supervisor.Configuration()
        configuration.graceMilliseconds = 3_600_000
        configuration.tickMilliseconds = 1
        stop.request(.sizeLimit)
        let supervisor = try Supervisor(
            configuration, request: stop, kick: { kicks.add(1, ordering: .relaxed) },
            abort: { _ in }, tick: { _ in ticked.send() })
        for _ in 0..<5 { ticked.wait() }
        supervisor.finish()
        let count = kicks.load(ordering: .relaxed)
        #expect(count == 0)
        #expect(!stop.isInsistent)
        #expect(stop.reason == .sizeLimit)
    }

    @Test func `ticks tell the time since the start, and none comes after the end`() throws {
        let ticked = Signal()
        let times = Mutex<[UInt64]>([])
        var configuration = Supervisor.Configuration()
        configuration.tickMilliseconds = 1
        let supervisor = try Supervisor(
            configuration, request: StopRequest(), kick: {}, abort: { _ in },
            tick: { now in
                times.withLock { $0.append(now) }
                ticked.send()
            })
        for _ in 0..<4 { ticked.wait() }
        supervisor.finish()
        let seen = times.withLock { $0 }
        #expect(seen.count >= 4)
        #expect(seen == seen.sorted())
        supervisor.finish()
        #expect(times.withLock { $0.count } == seen.count)
    }
}
