import Testing

@testable import Machine

@Test func segmentsSurviveTheirWords() {
    var system = SystemRegisters()
    let code = Segment(
        base: 0xFFFF_8000_0000_1000, limit: 0xFFFF_FFFF, selector: 0x10, type: 11, dpl: 3,
        db: false, l: true, g: true, avl: true)
    system[.cs] = code
    system[.ldt] = Segment(base: 0x1234, limit: 7, selector: 0x28, type: 2, s: false)
    #expect(system[.cs] == code)
    #expect(system[.ldt].base == 0x1234)
    #expect(system[.ds] == Segment(limit: 0, type: 0, present: false, s: false))
}

@Test func layoutIsThatOfTheKernelsStructs() {
    #expect(MemoryLayout<GeneralRegisters>.size == 144)
    #expect(MemoryLayout<SystemRegisters>.size == 312)
    var system = SystemRegisters()
    system[.cr0] = 0xAA
    system[.apicBase] = 0xBB
    #expect(system.words[28] == 0xAA)
    #expect(system.words[34] == 0xBB)
    var registers = GeneralRegisters()
    registers.rip = 0xCC
    registers.rflags = 0xDD
    #expect(registers[.rip] == 0xCC)
    #expect(registers[.rflags] == 0xDD)
    #expect(SystemRegisters.nameOfWord(30) == "cr3")
    #expect(SystemRegisters.nameOfWord(5) == "ds")
    #expect(SystemRegisters.nameOfWord(38) == "interrupt_bitmap")
}

@Test func modesFollowControlRegisters() {
    var system = SystemRegisters()
    #expect(system.mode == .real)
    system[.cr0] = 1
    system[.cs] = Segment(db: true)
    #expect(system.mode == .protected32)
    system[.efer] = 1 << 10
    #expect(system.mode == .compatibility)
    system[.cs] = Segment(l: true)
    #expect(system.mode == .long)
    system[.ss] = Segment(dpl: 3)
    #expect(system.cpl == 3)
}

@Test func codeCountsFromItsSegmentOutsideOf64BitCode() {
    var system = SystemRegisters()
    system[.cs] = Segment(base: 0xFFFF_0000)
    #expect(system.linearAddress(ofCode: 0xFFF0) == GuestVirtualAddress(0xFFFF_FFF0))
    #expect(system.linearAddress(ofCode: 0x1_0002) == GuestVirtualAddress(2))
    system[.cr0] = 1
    system[.efer] = 1 << 10
    #expect(system.linearAddress(ofCode: 0x1_0002) == GuestVirtualAddress(2))
    system[.cs] = Segment(base: 0xFFFF_0000, l: true)
    let high: UInt64 = 0xFFFF_FFFF_8000_0000
    #expect(system.linearAddress(ofCode: high) == GuestVirtualAddress(high))
}

@Test func reasonsHaveTheKernelsNames() {
    #expect(ExitReason.io.name == "io")
    #expect(ExitReason.memoryFault.name == "memory_fault")
    #expect(ExitReason(rawValue: 9999).name == "reason_9999")
    for reason in ExitReason.named { #expect(ExitReason(name: reason.name) == reason) }
}

@Test func hostsDifferInBehavioursOnly() {
    let a = HostFacts([
        HostFact("kernel", "6.1", .description), HostFact("rip-after.out", "yes", .behaviour),
    ])
    var b = a
    b.facts[0].value = "6.18"
    #expect(a.behavioursThatDiffer(from: b).isEmpty)
    b.facts[1].value = "no"
    #expect(
        a.behavioursThatDiffer(from: b)
            == [.init(name: "rip-after.out", here: "yes", there: "no")])
    // What a probe could not tell, or what is not there, is no difference.
    b.facts[1].value = "unknown"
    #expect(a.behavioursThatDiffer(from: b).isEmpty)
    #expect(b.behavioursThatDiffer(from: a).isEmpty)
    b.facts.removeLast()
    #expect(a.behavioursThatDiffer(from: b).isEmpty)
}
