import Machine
import Testing

@testable import KVM

@Suite(.needsKVM) struct HostProbeTests {
    @Test("Two runs find the same; names are unique; weights are as documented")
    func stable() throws {
        let hypervisor = try Hypervisor()
        let first = HostProbe.run(hypervisor)
        let second = HostProbe.run(hypervisor)
        #expect(first.behaviour == second.behaviour)
        #expect(first.facts == second.facts)
        #expect(first.facts.behavioursThatDiffer(from: second.facts).isEmpty)
        let names = first.facts.facts.map(\.name)
        #expect(Set(names).count == names.count)
        #expect(first.facts.facts.allSatisfy { !$0.value.isEmpty && !$0.value.contains("\n") })
    }

    @Test("What every KVM does is found, so the probes themselves work")
    func plausible() throws {
        let found = HostProbe.cached(try Hypervisor()).behaviour
        // KVM's own emulator decides these in real and long mode alike.
        #expect(found.ring0.input == .at && found.ring0.mmioRead == .at)
        #expect(found.ring0.rdmsr == .at && found.ring0.hlt == .after)
        for phases in [found.ring0, found.real] {
            for (name, path) in RIPPhases.named {
                #expect(phases[keyPath: path] != .unknown, "\(name)")
            }
        }
        #expect(found.ring3.outImmediate != .unknown)
        #expect(found.syncRegisters == .yes)
        #expect(found.syncWriteAfterOutRing0 == .yes)
        #expect(found.immediateExit == .yes && found.dirtyLog == .yes)
        #expect(found.interruptInjection == .yes)
        #expect(found.pageCrossingMMIOExits == 2)
        #expect(found.xsaveByteCount >= 4096)
        #expect(found.unhideableLeaf1ECX != nil)
    }

    @Test("The requested CPUID table hides what cannot be recorded")
    func requestedTable() throws {
        let hypervisor = try Hypervisor()
        let table = GuestCPUID.requested(from: try hypervisor.supportedCPUID())
        #expect(!table.contains { $0.function >> 16 == 0x4000 })
        #expect(!table.contains { [5, 0xA, 0xB, 0x1F, 0x8000_001E].contains($0.function) })
        let first = try #require(table.first { $0.function == 1 })
        for bit in [3, 21, 24, 30, 31] as [UInt32] { #expect(first.ecx >> bit & 1 == 0) }
        #expect(first.ebx >> 24 == 0)
        let extended = try #require(table.first { $0.function == 0x8000_0001 })
        #expect(extended.edx >> 27 & 1 == 0 && extended.edx >> 29 & 1 == 1)
        #expect(GuestCPUID.requested(from: table) == table)
    }

    @Test("The observed CPUID table is what the guest sees, twice the same, ascending")
    func observedTable() throws {
        let hypervisor = try Hypervisor()
        var requested = GuestCPUID.requested(from: try hypervisor.supportedCPUID())
        for index in requested.indices where requested[index].function == 0x8000_0003 {
            requested[index].ebx = 0x7461_7065
        }
        let observed = try HostProbe.observedCPUID(hypervisor, requested: requested)
        #expect(try HostProbe.observedCPUID(hypervisor, requested: requested) == observed)
        for (a, b) in zip(observed, observed.dropFirst()) {
            #expect((a.function, a.index) < (b.function, b.index))
        }
        if HostProbe.cached(hypervisor).behaviour.cpuidRing0 == .yes {
            #expect(observed.first { $0.function == 0x8000_0003 }?.ebx == 0x7461_7065)
        }
        #expect(observed.first { $0.function == 1 }.map { $0.ebx >> 24 } == 0)
    }
}
