import GDBRemote
import Testing

@Suite struct BreakpointTests {
    @Test func sharesBytesUpToTheEndOfMemory() {
        let four = Breakpoint(kind: .write, address: 0x1000, length: 4)
        #expect(four.last == 0x1003)
        #expect(four.firstShared(with: 0xFF8, count: 8) == nil)
        #expect(four.firstShared(with: 0xFF9, count: 8) == 0x1000)
        #expect(four.firstShared(with: 0x1003, count: 1) == 0x1003)
        #expect(four.firstShared(with: 0x1004, count: 8) == nil)
        let end = Breakpoint(kind: .write, address: .max, length: 1)
        #expect(end.last == .max)
        #expect(end.firstShared(with: .max - 7, count: 8) == .max)
        #expect(end.firstShared(with: .max - 3, count: 8) == .max)
        #expect(end.firstShared(with: 0, count: 8) == nil)
    }
}
