import Machine
import Testing

@testable import KVM

@Suite("Host probe", .needsKVM) struct HostProbeTests {
    @Test("Two runs find the same, every probe comes back, names are unique")
    func stable() throws {
        let hypervisor = try Hypervisor()
        let first = HostProbe.run(hypervisor)
        let second = HostProbe.run(hypervisor)
        #expect(first.behaviour == second.behaviour)
        #expect(first.facts == second.facts)
        #expect(first.facts.behavioursThatDiffer(from: second.facts).isEmpty)
        let names = first.facts.facts.map(\.name)
        #expect(Set(names).count == names.count)
        for fact in first.facts.facts { print(fact.name, fact.value, fact.weight) }
    }
}
