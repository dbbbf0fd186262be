import Glibc
import KVM
import Machine
import Testing

/// A vCPU in either state, as another module holds it.
private enum HeldCPU: ~Copyable {
    case settled(SettledCPU)
    case pending(PendingCPU)

    /// The same CPU, settled; further exits are left unanswered.
    consuming func settled() throws -> SettledCPU {
        switch consume self {
        case .settled(let cpu): return cpu
        case .pending(var cpu):
            while true {
                switch try cpu.settle() {
                case .settled(let settled): return settled
                case .exit(_, let next): cpu = next
                }
            }
        }
    }
}

// Nothing here is @testable: it compiles only as long as another module can say it.
@Suite(.needsKVM) struct PublicAPITests {
    @Test("The loop of the documentation runs as another module writes it")
    func loop() throws {
        // in al, 0x10; out 0x20, al; mov [0], al (no memory there); hlt
        let code: [UInt8] = [0xE4, 0x10, 0xE6, 0x20, 0xA2, 0, 0, 0xF4]
        let mapped = unsafe mmap(
            nil, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        let base = try unsafe #require(mapped)
        // SAFETY: mapped above with this size, unmapped when the machine is gone.
        let ram = unsafe UnsafeMutableRawBufferPointer(start: base, count: 0x10000)
        defer { unsafe munmap(base, 0x10000) }
        for (index, byte) in code.enumerated() { unsafe ram[0x1000 + index] = byte }

        let hypervisor = try Hypervisor()
        var machine = try hypervisor.createMachine()
        try unsafe machine.setMemory(slot: 0, at: GuestPhysicalAddress(0), memory: ram)
        var cpu = try machine.createCPU()
        var system = try cpu.systemRegisters()
        system[.cs] = Segment(selector: 0, type: 11)
        system[.ds] = Segment(base: 0xB8000, selector: 0xB800)
        try cpu.setSystemRegisters(system)
        var registers = GeneralRegisters()
        registers.rip = 0x1000
        registers.rflags = 2
        try cpu.setRegisters(registers)

        var pending = cpu.begin()
        var seen: [String] = []
        loop: while true {
            switch try pending.run() {
            case .exit(.io(let io)) where io.direction == .input:
                pending.ioValue = 0x5A
                seen.append("in \(io.port)")
            case .exit(.io(let io)):
                var bytes: [UInt8] = []
                pending.withIOData { data in
                    for index in 0..<io.byteCount {
                        bytes.append(
                            unsafe data.bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self))
                    }
                }
                seen.append("out \(io.port) \(bytes)")
            case .exit(.mmio(let mmio)):
                seen.append("mmio \(mmio.address.rawValue) \(mmio.isWrite) \(pending.mmioValue)")
            case .exit(.hlt): break loop
            case .exit(let exit):
                Issue.record("\(exit)")
                break loop
            case .interrupted: pending.acknowledgeKick()
            }
        }
        #expect(seen == ["in 16", "out 32 [90]", "mmio 753664 true 90"])
        let settled = try HeldCPU.pending(pending).settled()
        #expect(try settled.registers()[.rax] == 0x5A)
    }
}
