import Testing

@testable import Machine

@Suite struct PositionTests {
    @Test(
        arguments: [
            ("begin", 0, 0), ("begin+7", 0, 7), ("0", 1, 0), ("12", 13, 0), ("12+345", 13, 345),
            ("18446744073709551614", UInt64.max, 0),
        ] as [(String, UInt64, UInt64)])
    func textAndBack(text: String, exitCount: UInt64, instructions: UInt64) throws {
        let position = try #require(Position(text))
        #expect(position == Position(exitCount: exitCount, instructions: instructions))
        #expect(position.description == text)
    }

    @Test(arguments: [
        "", "+", "+1", "1+", "1+2+3", "-1", "1-2", "end", " 1", "0x10", "Begin", "begin+",
        "18446744073709551615", "1+18446744073709551616",
    ])
    func whatIsNoPosition(text: String) {
        #expect(Position(text) == nil)
    }

    @Test func orderIsThatOfTheRun() {
        let inOrder = ["begin", "begin+1", "0", "0+9", "1", "10+2"].compactMap { Position($0) }
        #expect(inOrder.count == 6)
        #expect(inOrder.shuffled().sorted() == inOrder)
    }
}
