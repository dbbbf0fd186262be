import Machine
import Testing

@testable import KVM

@Suite(.needsKVM) struct LongModeTests {
    let hypervisor: HypervisorBox
    let cpuid: [CPUIDEntry]

    init() throws {
        hypervisor = try HypervisorBox()
        cpuid = try hypervisor.value.supportedCPUID()
    }

    @Test("A triple fault is a shutdown")
    func tripleFault() throws {
        var guest = try ProbeGuest(hypervisor.value, code: [0x0F, 0x0B])
        var idle = try guest.longModeCPU(cpuid: cpuid)
        var system = try idle.systemRegisters()
        system.idt = DescriptorTable(base: 0, limit: 0)
        try idle.setSystemRegisters(system)
        var cpu = idle.begin()
        guard case .shutdown = try cpu.exit() else { throw Unexpected(what: "no shutdown") }
    }

    @Test("CR8 that was written is what the guest reads", arguments: [false, true])
    func cr8(second: Bool) throws {
        // mov rax, cr8; out 0x80, al
        var guest = try ProbeGuest(hypervisor.value, code: [0x44, 0x0F, 0x20, 0xC0, 0xE6, 0x80])
        var idle = try guest.longModeCPU(cpuid: cpuid)
        if second {
            var system = try idle.systemRegisters2()
            system.words[SystemRegisters.ControlName.cr8.rawValue] = 5
            try idle.setSystemRegisters2(system)
        } else {
            var system = try idle.systemRegisters()
            system[.cr8] = 5
            try idle.setSystemRegisters(system)
        }
        var cpu = idle.begin()
        _ = try cpu.io()
        #expect(cpu.registers[.rax] == 5 && cpu.systemRegisters[.cr8] == 5 && cpu.cr8 == 5)
    }

    @Test("A breakpoint and a step stop where they should, and off means off")
    func debug() throws {
        // nop; nop; nop; out 0x80, al; hlt
        var guest = try ProbeGuest(hypervisor.value, code: [0x90, 0x90, 0x90, 0xE6, 0x80, 0xF4])
        let start = UInt64(ProbeGuest.code)
        var idle = try guest.longModeCPU(cpuid: cpuid)
        try idle.setGuestDebug(GuestDebug(breakpoints: [.init(GuestVirtualAddress(start + 1))]))
        var cpu = idle.begin()
        guard case .debug(let stop) = try cpu.exit() else { throw Unexpected(what: "no stop") }
        #expect(stop.pc == GuestVirtualAddress(start + 1) && stop.dr6 & 1 == 1)
        idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
        #expect(try idle.registers().rip == start + 1)
        try idle.setGuestDebug(GuestDebug(singleStep: true))
        cpu = idle.begin()
        guard case .debug(let step) = try cpu.exit() else { throw Unexpected(what: "no step") }
        #expect(step.pc == GuestVirtualAddress(start + 2) && step.dr6 >> 14 & 1 == 1)
        idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
        try idle.setGuestDebug(.off)
        cpu = idle.begin()
        #expect(try cpu.io().port == 0x80)
    }

    @Test("A step leaves nothing to finish, whatever the instruction waited for")
    func stepsAreClean() throws {
        // in al, 0x10; mov ecx, 2; rep outsb; mov eax, [r8]; push rax; out 0x80, al; hlt
        var guest = try ProbeGuest(
            hypervisor.value,
            code: [
                0xE4, 0x10, 0xB9, 2, 0, 0, 0, 0xF3, 0x6E, 0x41, 0x8B, 0x00, 0x50, 0xE6, 0x80, 0xF4,
            ])
        var idle = try guest.longModeCPU(cpuid: cpuid)
        var registers = try idle.registers()
        registers[.rsi] = UInt64(ProbeGuest.code)
        // Not there, and over the end of a page: two exits.
        registers[.r8] = 0x0F00_0FFE
        try idle.setRegisters(registers)
        try idle.setGuestDebug(GuestDebug(singleStep: true))
        var cpu = idle.begin()
        var steps = 0
        var others = 0
        for _ in 0..<32 {
            let exit = try cpu.exit()
            if case .hlt = exit { break }
            guard case .debug = exit else {
                others += 1
                continue
            }
            steps += 1
            let before = cpu.registers
            // A run that would finish something, or come to an exit, which it throws.
            try cpu.refreshPage()
            #expect(cpu.registers == before)
        }
        #expect(steps >= 4 && others >= 4)
    }

    @Test("Page tables changed from here hold once translations are forgotten")
    func forgottenTranslations() throws {
        // l: mov al, [rsi]; out 0x80, al; jmp l
        var guest = try ProbeGuest(hypervisor.value)
        guest.load(userCode: [0x8A, 0x06, 0xE6, 0x80, 0xEB, 0xFA])
        // The linear page at 4 MiB, by a table of its own.
        let entry = ProbeGuest.data
        guest.memory.write64(UInt64(entry) | 7, at: 0x4000 + 2 * 8)
        guest.memory.write([0xAA], at: 0x1_0000)
        guest.memory.write([0xBB], at: 0x1_1000)
        guest.memory.write64(0x1_0000 | 7, at: entry)
        var cpu = try guest.userModeCPU(cpuid: cpuid) { $0[.rsi] = 0x40_0000 }.begin()
        for page in [0x1_1000, 0x1_0000, 0x1_1000] as [UInt64] {
            _ = try cpu.io()
            var idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
            // As when a machine is put back: the same registers, other memory.
            guest.memory.write64(page | 7, at: entry)
            try idle.setSystemRegisters2(try idle.systemRegisters2())
            try idle.setRegisters(try idle.registers())
            try guest.machine.forgetTranslations()
            cpu = idle.begin()
            _ = try cpu.io()
            #expect(cpu.ioValue == (page == 0x1_0000 ? 0xAA : 0xBB))
            // The walk was made, and set the accessed bit.
            #expect(guest.memory.read64(at: entry) & 0x20 != 0)
        }
    }

    @Test("An instruction that KVM cannot emulate comes with its bytes, if the host has one")
    func emulationFailure() throws {
        let unemulated = HostProbe.cached(hypervisor.value).behaviour.unemulated
        guard let name = unemulated.first(where: { $0 == "popcnt" || $0 == "cmpxchg16b" }),
            let bytes = InstructionProbes.table.first(where: { $0.name == name })?.bytes
        else { return }
        var guest = try ProbeGuest(hypervisor.value, code: bytes + [0xF4])
        var cpu = try guest.longModeCPU(cpuid: cpuid).begin()
        guard case .internalError(let error) = try cpu.exit() else {
            throw Unexpected(what: "no internal error")
        }
        #expect(error.isEmulation)
        #expect(Array(error.instructionBytes.prefix(bytes.count)) == bytes)
        #expect(cpu.registers.rip == UInt64(ProbeGuest.code))
    }

    @Test("Statistics are found by name and count up")
    func statistics() throws {
        var guest = try ProbeGuest(hypervisor.value, code: [0xE6, 0x80, 0xE6, 0x80, 0xF4])
        let idle = try guest.longModeCPU(cpuid: cpuid)
        let statistics = try idle.statistics()
        let missing = statistics.find("no_such_statistic")
        #expect(missing == nil)
        let found = statistics.find("exits")
        let exits = try #require(found)
        #expect(exits.count == 1)
        #expect(try guest.machine.statistics().all.count > 1)
        let before = try statistics.read(exits)
        var cpu = idle.begin()
        _ = try cpu.io()
        _ = try cpu.io()
        #expect(try statistics.read(exits) > before)
    }

    @Test("What is written to a settled CPU is read back")
    func roundTrip() throws {
        var guest = try ProbeGuest(hypervisor.value)
        var cpu = try guest.longModeCPU(cpuid: cpuid)
        var registers = GeneralRegisters()
        for (index, register) in Register.allCases.enumerated() where register != .rflags {
            registers[register] = UInt64(index + 1) &* 0x0101_0101
        }
        registers.rflags = 0x246
        try cpu.setRegisters(registers)
        #expect(try cpu.registers() == registers)

        let system = try cpu.systemRegisters()
        try cpu.setSystemRegisters(system)
        #expect(try cpu.systemRegisters() == system)
        let system2 = try cpu.systemRegisters2()
        for word in 0..<35 { #expect(system2.words[word] == system.words[word]) }
        try cpu.setSystemRegisters2(system2)

        var debug = try cpu.debugRegisters()
        debug.words[0] = 0x1234_5000
        try cpu.setDebugRegisters(debug)
        #expect(try cpu.debugRegisters().words[0] == 0x1234_5000)

        var events = try cpu.events()
        #expect(!events.isAnythingPending)
        events.nmiMasked = true
        try cpu.setEvents(events)
        #expect(try cpu.events().nmiMasked)

        #expect(try cpu.mpState() == .runnable)
        try cpu.setMPState(.runnable)

        var area: [UInt8] = []
        try cpu.readXSave(into: &area)
        #expect(area.count == cpu.xsaveByteCount)
        // XMM0 stands at 160 in the legacy area; bit 1 of XSTATE_BV (at 512) says it is there.
        area[160] = 0x5A
        area[512] |= 2
        try cpu.setXSave(area)
        var again: [UInt8] = []
        try cpu.readXSave(into: &again)
        #expect(again[160] == 0x5A)
        #expect(throws: KVMError.self) { try cpu.setXSave([0]) }

        let xcrs = try cpu.extendedControlRegisters()
        #expect(xcrs.first?.index == 0)
        try cpu.setExtendedControlRegisters(xcrs)
        #expect(try cpu.extendedControlRegisters() == xcrs)

        let wanted = try hypervisor.value.savedMSRIndices()
        #expect(wanted.count > 10)
        // LSTAR; a number that no CPU has is left out, and refused when written.
        #expect(
            try cpu.writeMSRs([
                MSRValue(index: 0xDEAD_BEEF, value: 1),
                MSRValue(index: 0xC000_0082, value: 0xFFFF_8000_0000_1000),
            ]) == [0xDEAD_BEEF])
        #expect(
            try cpu.readMSRs([0xDEAD_BEEF, 0xC000_0082])
                == [MSRValue(index: 0xC000_0082, value: 0xFFFF_8000_0000_1000)])
        #expect(try cpu.readMSRs(wanted).count > 10)

        #expect(try cpu.tscKilohertz() > 0)
        #expect(try cpu.cpuid().count >= 10)
    }

    @Test("Padding of synchronised system registers is zero, so equal states are equal words")
    func padding() throws {
        var guest = try ProbeGuest(hypervisor.value, code: [0xE6, 0x80, 0xF4])
        var cpu = try guest.longModeCPU(cpuid: cpuid).begin()
        _ = try cpu.io()
        let system = cpu.systemRegisters
        for segment in 0..<8 { #expect(system.words[segment * 3 + 2] >> 56 == 0) }
        #expect(system.words[25] >> 16 == 0 && system.words[27] >> 16 == 0)
    }
}

/// A hypervisor that a suite can hold.
final class HypervisorBox: Sendable {
    let value: Hypervisor
    init() throws { value = try Hypervisor() }
}

extension ProbeGuest {
    /// A machine of its own with code for ring 0.
    init(_ hypervisor: borrowing Hypervisor, code: [UInt8]) throws {
        try self.init(hypervisor)
        load(code: code)
    }
}
