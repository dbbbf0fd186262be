import GDBRemote
import Synchronization
import Testing

@Suite struct InterruptFlagTests {
    @Test func kicksEachTimeItIsRaised() {
        final class Counter: Sendable { let count = Atomic(0) }
        let counter = Counter()
        let flag = InterruptFlag { counter.count.add(1, ordering: .relaxed) }
        #expect(!flag.isRaised)
        flag.raise()
        flag.raise()
        #expect(flag.isRaised)
        #expect(counter.count.load(ordering: .relaxed) == 2)
        flag.lower()
        #expect(!flag.isRaised)
    }
}
