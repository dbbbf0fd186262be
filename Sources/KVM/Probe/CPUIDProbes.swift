internal import CKVM
public import Machine

extension HostProbe {
    /// What CPUID really shows inside a guest for which a table was asked: the guest executes
    /// CPUID for every row of the requested table and of what KVM made of it (KVM_GET_CPUID2).
    ///
    /// - Parameters:
    ///   - requested: The table given to KVM_SET_CPUID2.
    ///   - ring3: Asks in ring 3, which some hosts answer from the bare CPU; else in ring 0.
    /// - Returns: One row per function and index, ascending. Rows without a significant index
    ///   have index 0.
    public static func observedCPUID(
        _ hypervisor: borrowing Hypervisor, requested: [CPUIDEntry], ring3: Bool = false
    ) throws(KVMError) -> [CPUIDEntry] {
        var guest = try ProbeGuest(hypervisor)
        return try CPUIDProbes.observe(&guest, requested, ring3: ring3)
    }
}

/// Whether CPUID shows what it is told to.
enum CPUIDProbes {
    /// What CPUID shows in a guest; see ``HostProbe/observedCPUID(_:requested:ring3:)``.
    static func observe(
        _ guest: inout ProbeGuest, _ requested: [CPUIDEntry], ring3: Bool
    ) throws(KVMError) -> [CPUIDEntry] {
        // loop: mov eax, [rsi]; mov ecx, [rsi + 4]; cpuid; mov [rdi], eax; mov [rdi + 4], ebx;
        // mov [rdi + 8], ecx; mov [rdi + 12], edx; add rsi, 8; add rdi, 16; dec r8d; jnz loop;
        // out 0x80, al; jmp self
        let code: [UInt8] = [
            0x8B, 0x06, 0x8B, 0x4E, 0x04, 0x0F, 0xA2, 0x89, 0x07, 0x89, 0x5F, 0x04, 0x89, 0x4F,
            0x08, 0x89, 0x57, 0x0C, 0x48, 0x83, 0xC6, 0x08, 0x48, 0x83, 0xC7, 0x10, 0x41, 0xFF,
            0xC8, 0x75, 0xE1, 0xE6, 0x80, 0xEB, 0xFE,
        ]
        let questions = 0x10000
        let answers = 0x20000
        guest.load(code: ring3 ? [] : code, userCode: ring3 ? code : [])
        // How many rows there are is known only when KVM has taken the table.
        var cpu =
            ring3
            ? try guest.userModeCPU(cpuid: requested)
            : try guest.longModeCPU(cpuid: requested)
        var rows: [CPUIDEntry] = []
        for row in requested + (try cpu.cpuid())
        where !rows.contains(where: { $0.function == row.function && $0.index == row.index }) {
            rows.append(row)
        }
        rows.sort { ($0.function, $0.index) < ($1.function, $1.index) }
        rows = Array(rows.prefix((answers - questions) / 16))
        guard !rows.isEmpty else { return [] }
        for (number, row) in rows.enumerated() {
            guest.memory.write64(
                UInt64(row.function) | UInt64(row.index) << 32, at: questions + number * 8)
        }
        var registers = try cpu.registers()
        registers[.rsi] = UInt64(questions)
        registers[.rdi] = UInt64(answers)
        registers[.r8] = UInt64(rows.count)
        try cpu.setRegisters(registers)
        var run = try ProbeRun(cpu)
        guard case .io(let io)? = try run.next(), io.port == 0x80 else {
            throw .malformed("no answer to CPUID in a probe guest")
        }
        for number in rows.indices {
            let low = guest.memory.read64(at: answers + number * 16)
            let high = guest.memory.read64(at: answers + number * 16 + 8)
            rows[number].eax = UInt32(truncatingIfNeeded: low)
            rows[number].ebx = UInt32(truncatingIfNeeded: low >> 32)
            rows[number].ecx = UInt32(truncatingIfNeeded: high)
            rows[number].edx = UInt32(truncatingIfNeeded: high >> 32)
        }
        return rows
    }

    /// A leaf without meaning for the kernel: the first of the CPU's name.
    private static let leaf: UInt32 = 0x8000_0002
    private static let mark: UInt32 = 0x5441_5045

    static func honoured(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        let table = cpuid.map { entry in
            var entry = entry
            if entry.function == leaf { entry.eax = mark }
            return entry
        }
        guard table.contains(where: { $0.function == leaf }) else { return }
        let inside = try observe(&guest, table, ring3: false)
        result.cpuidRing0 = Probed(inside.first { $0.function == leaf }?.eax == mark)
        let user = try observe(&guest, table, ring3: true)
        result.cpuidRing3 = Probed(user.first { $0.function == leaf }?.eax == mark)
    }

    static func unhideable(
        _ guest: inout ProbeGuest, _ cpuid: [CPUIDEntry], _ result: inout HostBehaviour
    ) throws(KVMError) {
        let table = cpuid.map { entry in
            var entry = entry
            if entry.function == 1 {
                entry.ecx = 0
                entry.edx = 0
            }
            return entry
        }
        let seen = try observe(&guest, table, ring3: false)
        guard let row = seen.first(where: { $0.function == 1 }) else { return }
        result.unhideableLeaf1ECX = row.ecx
        result.unhideableLeaf1EDX = row.edx
    }
}
