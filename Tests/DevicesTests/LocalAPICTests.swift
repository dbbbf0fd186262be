import Testing

@testable import Devices

/// The local APIC by itself: registers, priorities, messages, errors.
@Suite struct LocalAPICTests {
    static let self0 = APICDestination(value: 0, isLogical: false)

    /// An APIC that software has enabled, its spurious vector 0xFF.
    static func enabled() -> LocalAPIC {
        var apic = LocalAPIC()
        _ = apic.write(0xF0, 0x1FF)
        return apic
    }

    static func receive(_ apic: inout LocalAPIC, _ vector: UInt8, level: Bool = false) -> Bool {
        apic.receive(.fixed, vector: vector, isLevel: level, for: self0)
    }

    @Test func registersAfterReset() {
        var apic = LocalAPIC()
        let expected: [(UInt16, UInt32)] = [
            (0x20, 0), (0x30, 0x0006_0014), (0x80, 0), (0x90, 0), (0xA0, 0), (0xB0, 0), (0xC0, 0),
            (0xD0, 0),
            (0xE0, 0xFFFF_FFFF), (0xF0, 0xFF), (0x100, 0), (0x1F0, 0), (0x270, 0), (0x280, 0),
            (0x300, 0), (0x310, 0), (0x2F0, 0x1_0000), (0x320, 0x1_0000), (0x330, 0x1_0000),
            (0x340, 0x1_0000), (0x350, 0x700), (0x360, 0x1_0000), (0x370, 0x1_0000), (0x380, 0),
            (0x390, 0), (0x3E0, 0),
        ]
        for (offset, value) in expected { #expect(apic.read(offset) == value, "0x\(offset)") }
        _ = apic.write(0x280, 0)
        #expect(apic.read(0x280) == 0)  // none of these was an illegal register
        #expect(apic.page == 0xFEE0_0000)
    }

    @Test func whatCanBeWritten() {
        var apic = Self.enabled()
        let expected: [(UInt16, UInt32)] = [
            (0x20, 0xFF00_0000), (0x30, 0x0006_0014), (0x80, 0xFF), (0xD0, 0xFF00_0000),
            (0xE0, 0xFFFF_FFFF), (0xF0, 0x3FF), (0x100, 0), (0x200, 0), (0x310, 0xFF00_0000),
            (0x2F0, 0x1_07FF), (0x320, 0x7_00FF), (0x330, 0x1_07FF), (0x340, 0x1_07FF),
            (0x350, 0x1_A7FF), (0x360, 0x1_A7FF), (0x370, 0x1_00FF), (0x3E0, 0xB), (0x390, 0),
        ]
        for (offset, value) in expected {
            _ = apic.write(offset, 0xFFFF_FFFF)
            #expect(apic.read(offset) == value, "0x\(offset)")
        }
        // All ones excludes this APIC.
        _ = apic.write(0x300, 0xFFFF_FFFF)
        #expect(apic.read(0x300) == 0x000C_CFFF)
        _ = apic.write(0xE0, 0)
        #expect(apic.read(0xE0) == 0x0FFF_FFFF)
    }

    // MARK: Priorities

    @Test func aVectorIsTakenServedAndEnded() {
        var apic = Self.enabled()
        #expect(!apic.hasInterrupt)
        #expect(Self.receive(&apic, 0x41))
        #expect(apic.read(0x220) == 2)
        #expect(apic.hasInterrupt)
        #expect(apic.acknowledge() == 0x41)
        #expect(apic.read(0x220) == 0)
        #expect(apic.read(0x120) == 2)
        #expect(apic.read(0xA0) == 0x40)
        #expect(!apic.hasInterrupt)
        #expect(apic.write(0xB0, 0) == nil)
        #expect(apic.read(0x120) == 0)
        #expect(apic.read(0xA0) == 0)
    }

    @Test func higherClassesInterruptLowerOnes() {
        var apic = Self.enabled()
        for vector in [0x35, 0x82, 0x8F, 0x10] as [UInt8] { #expect(Self.receive(&apic, vector)) }
        #expect(apic.acknowledge() == 0x8F)
        // The same class waits, however high its vector.
        #expect(!apic.hasInterrupt)
        #expect(Self.receive(&apic, 0x90))
        #expect(apic.acknowledge() == 0x90)
        _ = apic.write(0xB0, 0)
        #expect(!apic.hasInterrupt)
        _ = apic.write(0xB0, 0)
        #expect(apic.acknowledge() == 0x82)
        _ = apic.write(0xB0, 0)
        #expect(apic.acknowledge() == 0x35)
        _ = apic.write(0xB0, 0)
        #expect(apic.acknowledge() == 0x10)
        _ = apic.write(0xB0, 0)
        #expect(!apic.hasInterrupt)
    }

    @Test func aVectorWaitsOnceWhileItIsServed() {
        var apic = Self.enabled()
        #expect(Self.receive(&apic, 0x50))
        #expect(apic.acknowledge() == 0x50)
        #expect(Self.receive(&apic, 0x50))
        #expect(Self.receive(&apic, 0x50))
        #expect(!apic.hasInterrupt)
        _ = apic.write(0xB0, 0)
        #expect(apic.acknowledge() == 0x50)
        _ = apic.write(0xB0, 0)
        #expect(!apic.hasInterrupt)
        // Nothing in service: an end ends nothing.
        #expect(apic.write(0xB0, 0) == nil)
    }

    @Test func theTaskPriorityHoldsBack() {
        var apic = Self.enabled()
        #expect(Self.receive(&apic, 0x5A))
        _ = apic.write(0x80, 0x50)
        #expect(!apic.hasInterrupt)
        #expect(!apic.wouldDeliver(0x5F))
        #expect(apic.wouldDeliver(0x60))
        _ = apic.write(0x80, 0x4F)
        #expect(apic.hasInterrupt)
        #expect(apic.read(0xA0) == 0x4F)
        #expect(apic.taskPriorityClass == 4)
        apic.setTaskPriorityClass(4)
        #expect(apic.read(0x80) == 0x4F)  // CR8 has not changed
        apic.setTaskPriorityClass(0xF)
        #expect(apic.read(0x80) == 0xF0)
        #expect(!apic.hasInterrupt)
        // An interrupt that was asked for and went away.
        #expect(apic.acknowledge() == 0xFF)
        #expect(apic.read(0x220) == 1 << 26)  // it waits on
        apic.setTaskPriorityClass(0)
        #expect(apic.acknowledge() == 0x5A)
    }

    @Test func theArbitrationPriority() {
        var apic = Self.enabled()
        _ = apic.write(0x80, 0x37)
        #expect(apic.read(0x90) == 0x37)
        #expect(Self.receive(&apic, 0x55))
        #expect(apic.read(0x90) == 0x50)
        _ = apic.acknowledge()
        #expect(apic.read(0x90) == (3 & 5) << 4)
    }

    // MARK: On and off

    @Test func disabledBySoftwareItTakesNothingAndMasksAll() {
        var apic = LocalAPIC()
        #expect(!Self.receive(&apic, 0x40))
        _ = apic.write(0xF0, 0x1FF)
        _ = apic.write(0x320, 0x40)
        _ = apic.write(0x350, 0x700)
        #expect(Self.receive(&apic, 0x41))
        _ = apic.write(0xF0, 0xFF)
        #expect(apic.read(0x320) == 0x1_0040)
        #expect(apic.read(0x350) == 0x1_0700)
        _ = apic.write(0x320, 0x42)
        #expect(apic.read(0x320) == 0x1_0042)
        #expect(!Self.receive(&apic, 0x43))
        // What had come before is still there to be taken.
        #expect(apic.acknowledge() == 0x41)
        // NMIs come through.
        #expect(
            apic.receive(.nonMaskable, vector: 0, isLevel: false, for: Self.self0) == true)
        #expect(apic.hasNonMaskable)
        apic.acknowledgeNonMaskable()
        #expect(!apic.hasNonMaskable)
    }

    @Test func offItForgetsAndLetsThePairThrough() {
        var apic = Self.enabled()
        _ = apic.write(0x80, 0x20)
        _ = apic.write(0x350, 0x1_0000)
        #expect(Self.receive(&apic, 0x41))
        #expect(!apic.passesExternal)
        apic.setBase(0xFEE0_0100)
        #expect(!apic.isOn)
        #expect(apic.passesExternal)
        #expect(!apic.hasInterrupt)
        #expect(!Self.receive(&apic, 0x41))
        apic.setBase(0xFED0_0900)
        #expect(apic.page == 0xFED0_0000)
        #expect(apic.read(0x80) == 0)
        #expect(apic.read(0xF0) == 0xFF)
        #expect(apic.read(0x350) == 0x1_0000)  // no firmware sets it up a second time
        #expect(!apic.passesExternal)
        #expect(!apic.isEnabled)
    }

    // MARK: Messages

    @Test(
        arguments: [
            (0x00, false, true), (0x01, false, false), (0xFF, false, true),
            (0x02, true, true), (0x0F, true, true), (0x01, true, false), (0xFF, true, true),
        ] as [(UInt8, Bool, Bool)])
    func flatDestinations(value: UInt8, isLogical: Bool, isTaken: Bool) {
        var apic = Self.enabled()
        _ = apic.write(0xD0, 0x0200_0000)
        #expect(apic.matches(APICDestination(value: value, isLogical: isLogical)) == isTaken)
    }

    @Test(
        arguments: [
            (0x32, true), (0x31, false), (0x22, false), (0x3F, true), (0x30, false), (0xFF, true),
        ] as [(UInt8, Bool)])
    func clusterDestinations(value: UInt8, isTaken: Bool) {
        var apic = Self.enabled()
        _ = apic.write(0xD0, 0x3200_0000)
        _ = apic.write(0xE0, 0)
        #expect(apic.matches(APICDestination(value: value, isLogical: true)) == isTaken)
    }

    @Test(
        arguments: [
            // Self, all including self, by id, lowest priority to self.
            (0x0004_0041, 0, true), (0x0008_0041, 0, true), (0x0000_0041, 0, true),
            (0x0000_0141, 0, true), (0x0000_4041, 0xFF, true),
            // All but self, another id, INIT and start-up.
            (0x000C_0041, 0, false), (0x0000_0041, 3, false), (0x0000_4500, 0, false),
            (0x0000_4641, 0xFF, false), (0x0004_0241, 0, false),
        ] as [(UInt32, UInt32, Bool)])
    func interruptsToItself(command: UInt32, destination: UInt32, isTaken: Bool) {
        var apic = Self.enabled()
        _ = apic.write(0x310, destination << 24)
        _ = apic.write(0x300, command)
        #expect(apic.hasInterrupt == isTaken)
        #expect(apic.read(0x300) == command)  // delivery status: idle
        if isTaken { #expect(apic.acknowledge() == 0x41) }
        #expect(!apic.hasNonMaskable)
        #expect(apic.write(0xB0, 0) == nil)  // never a level
    }

    @Test func anNMIToItself() {
        var apic = Self.enabled()
        _ = apic.write(0x300, 0x0000_0400)
        #expect(apic.hasNonMaskable)
        #expect(!apic.hasInterrupt)
    }

    @Test func theEndOfALevelIsTold() {
        var apic = Self.enabled()
        #expect(Self.receive(&apic, 0x41, level: true))
        #expect(apic.read(0x1A0) == 2)
        #expect(Self.receive(&apic, 0x62))
        #expect(apic.acknowledge() == 0x62)
        #expect(apic.write(0xB0, 0) == nil)
        #expect(apic.acknowledge() == 0x41)
        #expect(apic.write(0xB0, 0) == 0x41)
        // The same vector as an edge.
        #expect(Self.receive(&apic, 0x41))
        #expect(apic.read(0x1A0) == 0)
        _ = apic.acknowledge()
        #expect(apic.write(0xB0, 0) == nil)
    }

    // MARK: Local interrupts

    @Test func theTimerInterruptsThroughItsEntry() {
        var apic = Self.enabled()
        _ = apic.write(0x3E0, 0xB)
        _ = apic.write(0x380, 100)
        #expect(apic.nextInterrupt == nil)  // masked
        apic.advance(to: 100)
        #expect(!apic.hasInterrupt)
        _ = apic.write(0x320, 0x2_0045)
        _ = apic.write(0x380, 100)
        #expect(apic.nextInterrupt == 200)
        apic.advance(to: 350)
        #expect(apic.acknowledge() == 0x45)
        #expect(apic.nextInterrupt == nil)  // its own class is in service
        #expect(apic.read(0x390) == 50)
        _ = apic.write(0xB0, 0)
        #expect(apic.nextInterrupt == 400)
        _ = apic.write(0x80, 0x40)
        #expect(apic.nextInterrupt == nil)
        _ = apic.write(0x80, 0x30)
        _ = apic.write(0xF0, 0xFF)
        #expect(apic.nextInterrupt == nil)
        apic.advance(to: 1000)
        #expect(!apic.hasInterrupt)
    }

    @Test func aDeadlineThatHasPassedInterruptsAtOnce() {
        var apic = Self.enabled()
        apic.advance(to: 5000)
        _ = apic.write(0x320, 0x4_0045)
        apic.setDeadline(6000, at: 6000, now: 5000)
        #expect(apic.nextInterrupt == 6000)
        #expect(!apic.hasInterrupt)
        apic.setDeadline(4999, at: 4999, now: 5000)
        #expect(apic.acknowledge() == 0x45)
        #expect(apic.timer.deadline == 0)
    }

    @Test func line0AsAVectorOfItsOwn() {
        var apic = Self.enabled()
        _ = apic.write(0x350, 0x44)
        #expect(!apic.passesExternal)
        apic.setLine0(true)
        #expect(apic.acknowledge() == 0x44)
        _ = apic.write(0xB0, 0)
        apic.setLine0(true)
        #expect(!apic.hasInterrupt)
        apic.setLine0(false)
        #expect(!apic.hasInterrupt)
        // As a level: as long as it lasts, once at a time.
        _ = apic.write(0x350, 0x8044)
        apic.setLine0(true)
        #expect(apic.read(0x350) == 0xC044)
        #expect(apic.acknowledge() == 0x44)
        #expect(!apic.hasInterrupt)
        #expect(apic.write(0xB0, 0) == 0x44)
        #expect(apic.acknowledge() == 0x44)
        apic.setLine0(false)
        _ = apic.write(0xB0, 0)
        #expect(apic.read(0x350) == 0x8044)
        #expect(!apic.hasInterrupt)
        // Active low.
        _ = apic.write(0x350, 0xA044)
        #expect(apic.acknowledge() == 0x44)
    }

    @Test func line0AsAnNMI() {
        var apic = Self.enabled()
        _ = apic.write(0x350, 0x400)
        apic.setLine0(true)
        #expect(apic.hasNonMaskable)
        #expect(!apic.passesExternal)
    }

    // MARK: Errors

    @Test func errorsAreShownAfterAWriteAndInterruptOnce() {
        var apic = Self.enabled()
        _ = apic.write(0x370, 0xFE)
        _ = apic.write(0x300, 0x0004_000F)  // to itself, an illegal vector
        #expect(apic.read(0x280) == 0)
        #expect(apic.acknowledge() == 0xFE)
        _ = apic.write(0xB0, 0)
        #expect(!Self.receive(&apic, 0x03))
        #expect(apic.read(0x040) == 0)
        _ = apic.write(0x3F0, 0x41)
        #expect(!apic.hasInterrupt)  // not before ESR was written
        _ = apic.write(0x280, 0)
        #expect(apic.read(0x280) == 0xE0)
        _ = apic.write(0x280, 0)
        #expect(apic.read(0x280) == 0)
        _ = apic.read(0x400)
        #expect(apic.acknowledge() == 0xFE)
    }

    @Test func anIllegalVectorOfAnEntryIsAnError() {
        var apic = Self.enabled()
        _ = apic.write(0x370, 0x05)
        _ = apic.write(0x320, 0x0F)
        _ = apic.write(0x380, 1)
        apic.advance(to: 10)
        #expect(!apic.hasInterrupt)
        _ = apic.write(0x280, 0)
        #expect(apic.read(0x280) == 0x40)
    }
}
