import Testing

@testable import Devices

/// The 8259A pair, by ports and lines.
@Suite struct InterruptControllerTests {
    /// A pair as a PC's firmware leaves it: vectors 0x08 and 0x70, all lines unmasked.
    static func makePair(icw1: UInt8 = 0x11, icw4: UInt8 = 0x01) -> InterruptControllerPair {
        var pair = InterruptControllerPair()
        for (port, value) in [
            (0x20, icw1), (0xA0, icw1), (0x21, 0x08), (0xA1, 0x70), (0x21, 0x04), (0xA1, 0x02),
            (0x21, icw4), (0xA1, icw4),
        ] as [(UInt16, UInt8)] { pair.write(port, value) }
        return pair
    }

    static let endOfInterrupt: UInt8 = 0x20

    @Test func nothingComesBeforeInitialisation() {
        var pair = InterruptControllerPair()
        pair.setLine(1, true)
        #expect(!pair.hasInterrupt)
        pair.write(0x20, 0x11)
        pair.write(0x21, 0x08)
        pair.write(0x21, 0x04)
        pair.setLine(3, true)
        #expect(!pair.hasInterrupt)
        pair.write(0x21, 0x01)
        // Line 1 was high before: an edge is wanted. Line 3 rose after ICW1.
        #expect(pair.acknowledge() == 0x0B)
        #expect(!pair.hasInterrupt)
    }

    @Test func aSingleChipNeedsNoICW3AndNoICW4() {
        var pair = InterruptControllerPair()
        pair.write(0x20, 0x12)
        pair.write(0x21, 0x40)
        pair.setLine(5, true)
        #expect(pair.acknowledge() == 0x45)
    }

    @Test func anEdgeIsServedOnce() {
        var pair = Self.makePair()
        pair.setLine(1, true)
        #expect(pair.hasInterrupt)
        #expect(pair.acknowledge() == 0x09)
        #expect(!pair.hasInterrupt)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(!pair.hasInterrupt)
        pair.setLine(1, false)
        pair.setLine(1, true)
        #expect(pair.hasInterrupt)
    }

    @Test func aLevelIsServedWhileItLasts() {
        var pair = Self.makePair()
        pair.writeLevels(0, 0xFF)
        #expect(pair.readLevels(0) == 0xF8)
        pair.writeLevels(1, 0xFF)
        #expect(pair.readLevels(1) == 0xDE)
        pair.setLine(5, true)
        #expect(pair.acknowledge() == 0x0D)
        #expect(!pair.hasInterrupt)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(pair.acknowledge() == 0x0D)
        pair.setLine(5, false)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(!pair.hasInterrupt)
    }

    @Test func ltimMakesAllLinesLevels() {
        var pair = Self.makePair(icw1: 0x19)
        pair.setLine(0, true)
        _ = pair.acknowledge()
        pair.write(0x20, Self.endOfInterrupt)
        #expect(pair.hasInterrupt)
        pair.setLine(0, false)
        #expect(!pair.hasInterrupt)
    }

    @Test func aRequestThatGoesAwayIsSpurious() {
        var pair = Self.makePair()
        pair.setLine(3, true)
        pair.setLine(3, false)
        #expect(!pair.hasInterrupt)
        #expect(pair.acknowledge() == 0x0F)
        // Nothing is in service.
        pair.write(0x20, 0x0B)
        #expect(pair.read(0x20) == 0)
        // The same of a slave alone.
        var slave = InterruptController8259()
        for (offset, value) in [(0, 0x11), (1, 0x70), (1, 2), (1, 1)] as [(UInt8, UInt8)] {
            slave.write(offset, value)
        }
        #expect(slave.vector(slave.acknowledge()) == 0x77)
        #expect(slave.inService == 0)
    }

    @Test func prioritiesNest() {
        var pair = Self.makePair()
        pair.setLine(4, true)
        #expect(pair.acknowledge() == 0x0C)
        pair.setLine(6, true)
        #expect(!pair.hasInterrupt)
        pair.setLine(1, true)
        #expect(pair.acknowledge() == 0x09)
        pair.write(0x20, 0x0B)
        #expect(pair.read(0x20) == 0x12)
        pair.write(0x20, 0x0A)
        #expect(pair.read(0x20) == 0x40)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(!pair.hasInterrupt)
        pair.write(0x20, 0x64)  // specific: line 4
        #expect(pair.acknowledge() == 0x0E)
    }

    @Test func masksHideAndKeepRequests() {
        var pair = Self.makePair()
        pair.write(0x21, 0x02)
        #expect(pair.read(0x21) == 0x02)
        pair.setLine(1, true)
        #expect(!pair.hasInterrupt)
        #expect(!pair.isEnabled(1))
        #expect(pair.read(0x20) == 0x02)
        pair.write(0x21, 0x00)
        #expect(pair.hasInterrupt)
        pair.write(0x21, 0x04)
        #expect(!pair.isEnabled(8))
    }

    @Test func theSlaveComesThroughLine2() {
        var pair = Self.makePair()
        pair.setLine(8, true)
        pair.setLine(3, true)
        #expect(pair.acknowledge() == 0x70)
        pair.write(0x20, 0x0B)
        pair.write(0xA0, 0x0B)
        #expect(pair.read(0x20) == 0x04)
        #expect(pair.read(0xA0) == 0x01)
        // In service, line 2 holds 3 back, and the slave's 8 its own 9.
        pair.setLine(9, true)
        #expect(!pair.hasInterrupt)
        pair.write(0xA0, Self.endOfInterrupt)
        #expect(!pair.hasInterrupt)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(pair.acknowledge() == 0x71)
        pair.write(0xA0, Self.endOfInterrupt)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(pair.acknowledge() == 0x0B)
        // Line 2 itself is no device's.
        pair.write(0x20, Self.endOfInterrupt)
        pair.setLine(2, true)
        #expect(!pair.hasInterrupt)
    }

    @Test func specialFullyNestedHoldsBackWhatIsLower() {
        var pair = Self.makePair(icw4: 0x11)
        pair.setLine(9, true)
        #expect(pair.acknowledge() == 0x71)
        // The slave's line is in service: lines 3 to 7 are behind it.
        pair.setLine(3, true)
        #expect(!pair.hasInterrupt)
        pair.setLine(8, true)
        #expect(pair.acknowledge() == 0x70)
        // Lines 0 and 1 are before it.
        pair.setLine(1, true)
        #expect(pair.acknowledge() == 0x09)
    }

    @Test func specialFullyNestedLetsTheSlaveAskAgain() {
        for (icw4, again) in [(0x01, false), (0x11, true)] as [(UInt8, Bool)] {
            var pair = Self.makePair(icw4: icw4)
            pair.setLine(12, true)
            #expect(pair.acknowledge() == 0x74)
            pair.setLine(8, true)
            #expect(pair.hasInterrupt == again)
        }
    }

    @Test func automaticEndLeavesNothingInService() {
        var pair = Self.makePair(icw4: 0x03)
        pair.setLine(8, true)
        pair.setLine(9, true)
        #expect(pair.acknowledge() == 0x70)
        #expect(pair.acknowledge() == 0x71)
        #expect(!pair.hasInterrupt)
    }

    @Test func rotation() {
        var pair = Self.makePair()
        pair.write(0x20, 0xC3)  // line 3 is lowest: 4 is highest
        for line in [1, 3, 4, 6] { pair.setLine(line, true) }
        #expect(pair.acknowledge() == 0x0C)
        pair.write(0x20, 0xA0)  // rotate on end: 4 is lowest
        #expect(pair.acknowledge() == 0x0E)
        pair.write(0x20, 0xE6)  // rotate on end of 6: 6 is lowest
        #expect(pair.acknowledge() == 0x09)
        pair.write(0x20, Self.endOfInterrupt)
        #expect(pair.acknowledge() == 0x0B)
    }

    @Test func rotationOnAutomaticEnd() {
        var pair = Self.makePair(icw4: 0x03)
        pair.writeLevels(0, 0x38)
        pair.write(0x20, 0x80)
        for line in [3, 4, 5] { pair.setLine(line, true) }
        // Levels that never fall: all get their turn.
        #expect((0..<4).map { _ in pair.acknowledge() } == [0x0B, 0x0C, 0x0D, 0x0B])
        pair.write(0x20, 0x00)
        #expect((0..<2).map { _ in pair.acknowledge() } == [0x0C, 0x0C])
    }

    @Test func specialMaskModeOpensTheLevelsBelow() {
        var pair = Self.makePair()
        pair.setLine(3, true)
        _ = pair.acknowledge()
        pair.setLine(5, true)
        pair.write(0x21, 0x08)
        #expect(!pair.hasInterrupt)
        pair.write(0x20, 0x68)
        #expect(pair.acknowledge() == 0x0D)
        // A masked level is not ended without its name.
        pair.write(0x20, Self.endOfInterrupt)
        pair.write(0x20, Self.endOfInterrupt)
        pair.write(0x20, 0x0B)
        #expect(pair.read(0x20) == 0x08)
        pair.write(0x20, 0x63)
        #expect(pair.read(0x20) == 0)
        pair.write(0x20, 0x48)  // off again
        pair.setLine(7, true)
        #expect(pair.hasInterrupt)
    }

    @Test func pollingAcknowledges() {
        var pair = Self.makePair()
        pair.write(0x20, 0x0C)
        #expect(pair.read(0x20) == 0x00)
        pair.setLine(6, true)
        pair.write(0x20, 0x0C)
        #expect(pair.read(0x21) == 0x86)
        #expect(!pair.hasInterrupt)
        #expect(pair.read(0x20) == 0)  // IRR again
        pair.setLine(14, true)
        pair.write(0x20, 0x66)
        pair.write(0x20, 0x0C)
        #expect(pair.read(0x20) == 0x82)
        pair.write(0xA0, 0x0C)
        #expect(pair.read(0xA0) == 0x86)
        #expect(!pair.hasInterrupt)
    }

    @Test func aNewSequenceForgetsEverything() {
        var pair = Self.makePair()
        pair.write(0x20, 0xC2)
        pair.write(0x20, 0x0B)
        pair.setLine(3, true)
        _ = pair.acknowledge()
        pair.write(0x21, 0xFF)
        pair = {
            var again = pair
            for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01)]
                as [(UInt16, UInt8)]
            { again.write(port, value) }
            return again
        }()
        #expect(pair.read(0x21) == 0)
        #expect(pair.read(0x20) == 0)
        #expect(!pair.hasInterrupt)
        pair.setLine(0, true)
        pair.setLine(7, true)
        #expect(pair.acknowledge() == 0x20)
    }
}
