import Testing

@testable import Devices

/// The I/O APIC with a local APIC behind it.
@Suite struct IOAPICTests {
    struct Pair {
        var io = IOAPIC82093()
        var local = LocalAPICTests.enabled()

        mutating func write(_ index: UInt32, _ value: UInt32) {
            io.write(0x00, index, &local)
            io.write(0x10, value, &local)
        }

        mutating func read(_ index: UInt32) -> UInt32 {
            io.write(0x00, index, &local)
            return io.read(0x10)
        }

        mutating func line(_ pin: Int, _ isHigh: Bool) { io.setLine(pin, isHigh, &local) }

        /// Takes the interrupt that waits, and ends it.
        mutating func serve() -> UInt8? {
            guard local.hasInterrupt else { return nil }
            let vector = local.acknowledge()
            if let ended = local.write(0xB0, 0) { io.endInterrupt(ended, &local) }
            return vector
        }
    }

    @Test func registers() {
        var pair = Pair()
        #expect(pair.read(0x01) == 0x0017_0011)
        #expect(pair.read(0x00) == 0x0100_0000)
        pair.write(0x00, 0xFFFF_FFFF)
        #expect(pair.read(0x00) == 0x0F00_0000)
        #expect(pair.read(0x02) == 0x0F00_0000)
        pair.write(0x01, 0)
        #expect(pair.read(0x01) == 0x0017_0011)
        for index in 0x10..<0x40 as Range<UInt32> {
            #expect(pair.read(index) == (index & 1 == 0 ? 0x1_0000 : 0))
            pair.write(index, 0xFFFF_FFFF)
            #expect(pair.read(index) == (index & 1 == 0 ? 0x1_AFFF : 0xFF00_0000))
        }
        #expect(pair.read(0x40) == 0)
        #expect(pair.io.read(0x00) == 0x40)
        #expect(pair.io.read(0x40) == 0)
    }

    @Test func anEdgeIsSentOnce() {
        var pair = Pair()
        pair.write(0x18, 0x41)
        pair.line(4, true)
        #expect(pair.serve() == 0x41)
        #expect(pair.serve() == nil)
        pair.line(4, true)
        #expect(pair.serve() == nil)
        pair.line(4, false)
        #expect(pair.serve() == nil)
        pair.line(4, true)
        #expect(pair.serve() == 0x41)
    }

    @Test func anEdgeAtAMaskedPinIsLost() {
        var pair = Pair()
        pair.line(4, true)
        pair.write(0x18, 0x41)
        #expect(pair.serve() == nil)
        pair.line(4, false)
        pair.line(4, true)
        #expect(pair.serve() == 0x41)
    }

    @Test func aLevelAsksUntilItFalls() {
        var pair = Pair()
        pair.write(0x1A, 0x8041)
        pair.line(5, true)
        #expect(pair.read(0x1A) == 0xC041)  // remote IRR
        #expect(pair.local.hasInterrupt)
        #expect(pair.serve() == 0x41)
        #expect(pair.serve() == 0x41)
        pair.line(5, false)
        #expect(pair.serve() == 0x41)  // the one that had been sent
        #expect(pair.serve() == nil)
        #expect(pair.read(0x1A) == 0x8041)
    }

    @Test func aLevelAtAMaskedPinWaits() {
        var pair = Pair()
        pair.write(0x1A, 0x1_8041)
        pair.line(5, true)
        #expect(pair.serve() == nil)
        pair.write(0x1A, 0x8041)
        #expect(pair.serve() == 0x41)
    }

    @Test func becomingAnEdgeEndsTheRequest() {
        var pair = Pair()
        pair.write(0x1A, 0x8041)
        pair.line(5, true)
        pair.write(0x1A, 0x1_0041)
        #expect(pair.read(0x1A) == 0x1_0041)
        pair.write(0x1A, 0x8041)
        #expect(pair.read(0x1A) == 0xC041)
    }

    @Test func activeLowTurnsTheLineOver() {
        var pair = Pair()
        pair.line(5, true)
        pair.write(0x1A, 0x2041)
        #expect(pair.serve() == nil)
        pair.line(5, false)
        #expect(pair.serve() == 0x41)
        pair.line(5, true)
        #expect(pair.serve() == nil)
    }

    @Test func destinationsAndModes() {
        var pair = Pair()
        pair.write(0x19, 0x0500_0000)
        pair.write(0x18, 0x41)
        pair.line(4, true)
        #expect(pair.serve() == nil)  // another CPU
        // Logical, lowest priority.
        _ = pair.local.write(0xD0, 0x0100_0000)
        pair.write(0x18, 0x941)
        #expect(pair.io.isEnabled(4, pair.local))
        pair.line(4, false)
        pair.line(4, true)
        #expect(pair.serve() == 0x41)
        // NMI; SMI, INIT and reserved ones go nowhere.
        pair.write(0x19, 0)
        for (low, isNonMaskable) in [(0x441, true), (0x241, false), (0x541, false), (0x341, false)]
            as [(UInt32, Bool)]
        {
            pair.write(0x18, low)
            pair.line(4, false)
            pair.line(4, true)
            #expect(pair.local.hasNonMaskable == isNonMaskable)
            #expect(pair.serve() == nil)
            pair.local.acknowledgeNonMaskable()
        }
    }

    @Test func aLevelWaitsForTheLocalAPICToBeEnabled() {
        var pair = Pair()
        _ = pair.local.write(0xF0, 0xFF)
        pair.write(0x1A, 0x8041)
        pair.line(5, true)
        #expect(pair.read(0x1A) == 0x8041)
        #expect(!pair.io.isEnabled(5, pair.local))
        _ = pair.local.write(0xF0, 0x1FF)
        pair.io.serveAll(&pair.local)
        #expect(pair.serve() == 0x41)
    }
}
