import Machine
import Testing

@testable import Guest

@Suite struct SmokeTests {
    @Test func tboot() throws {
        let plan = try LoadPlan(
            image: GuestFile(path: "/boot/tboot.gz"), ram: RAMLayout(lengthInBytes: 128 << 20))
        print(plan.kind, plan.writes.map { "\($0.purpose) \(hex($0.address.rawValue)) \($0.bytes.count)" },
            plan.code, hex(plan.registers.rip), plan.notes)
        let again = try LoadPlan(records: plan.records)
        #expect(again.writes == plan.writes)
        let memory = try GuestMemory(layout: plan.ram, romLengthInBytes: plan.romLengthInBytes)
        try plan.apply(to: memory)
        var pages = 0
        unsafe memory.forEachNonZeroPage { _, _ in pages += 1 }
        print(pages)
    }
}
