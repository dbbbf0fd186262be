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
        "18446744073709551615", "1+18446744073709551616", "1.2", "1+2.", "1+.2", "1+2.3.4", "1+2.?",
        "1+2.-3", "1+2.18446744073709551616",
    ])
    func whatIsNoPosition(text: String) {
        #expect(Position(text) == nil)
    }

    @Test func orderIsThatOfTheRun() {
        let inOrder = ["begin", "begin+1", "0", "0+9", "1", "10+2"].compactMap { Position($0) }
        #expect(inOrder.count == 6)
        #expect(inOrder.shuffled().sorted() == inOrder)
    }

    @Test(
        arguments: [
            ("12+3.0", 12, 3, 0), ("0+0.1", 0, 0, 1), ("12+345.6789", 12, 345, 6789),
            ("1+2.18446744073709551615", 1, 2, UInt64.max),
        ] as [(String, UInt64, UInt64, UInt64)])
    func `places in ring 3 have steps`(
        text: String, exit: UInt64, instructions: UInt64, steps: UInt64
    ) throws {
        let position = try #require(Position(text))
        #expect(
            position
                == Position(exitCount: exit + 1, instructions: instructions, ring3: steps))
        #expect(position.description == text)
    }

    @Test func `places in ring 3 lie between its entry and what comes after it`() {
        // A count of instructions in ring 0 comes when ring 3 is left; at an exit it goes on.
        let texts = [
            "begin", "begin+1.0", "begin+1.5", "begin+1", "4", "4+0.1", "4+0.2", "4+1.0", "4+1.9",
            "4+1.18446744073709551615", "4+1", "4+2.0", "4+2", "4+3", "5", "5+0.1",
        ]
        let inOrder = texts.compactMap { Position($0) }
        #expect(inOrder.count == texts.count)
        #expect(inOrder.reversed().sorted() == inOrder)
        for (index, position) in inOrder.enumerated() {
            for (other, later) in inOrder.enumerated() {
                #expect((position < later) == (index < other), "\(position) \(later)")
                #expect((position == later) == (index == other))
            }
        }
    }
}
