import Machine

/// The registers of a vCPU before its first instruction.
struct InitialState {
    var registers = GeneralRegisters()
    var system = SystemRegisters()

    /// Selectors of the flat segments in the table of ``globalDescriptors(is64Bit:)``; those that
    /// Linux' boot protocol asks for.
    private static let codeSelector: UInt16 = 0x10
    private static let dataSelector: UInt16 = 0x18

    /// What is the same in every mode: RFLAGS with nothing but its fixed bit, the local APIC's
    /// base as after reset, and the system segments a CPU has after reset.
    private init(rip: UInt64) {
        registers.rip = rip
        registers.rflags = 2
        system[.apicBase] = PCLayout.localAPICBase
        system[.tr] = Segment(type: 11, s: false)
        system[.ldt] = Segment(type: 2, s: false)
    }

    /// Real mode at a linear address below 1 MiB. Below 64 KiB CS is 0, above it is the 64 KiB
    /// that hold the entry; data segments are 0.
    static func real(entry: UInt64) -> InitialState {
        var state = InitialState(rip: entry & 0xFFFF)
        let base = entry & 0xF_0000
        state.setAll(Segment())
        state.system[.cs] = Segment(base: base, selector: UInt16(base >> 4), type: 11)
        state.system.gdt = DescriptorTable(base: 0, limit: 0xFFFF)
        state.system.idt = DescriptorTable(base: 0, limit: 0x3FF)
        state.system[.cr0] = 0x10  // ET
        return state
    }

    /// As after RESET (Intel SDM vol. 3, table 10-1): 16 bytes below 4 GiB, in real mode.
    static func reset() -> InitialState {
        var state = InitialState(rip: 0xFFF0)
        state.registers[.rdx] = 0x600
        state.setAll(Segment())
        state.system[.cs] = Segment(base: 0xFFFF_0000, selector: 0xF000, type: 11)
        state.system.gdt = DescriptorTable(base: 0, limit: 0xFFFF)
        state.system.idt = DescriptorTable(base: 0, limit: 0xFFFF)
        state.system[.cr0] = 0x6000_0010  // CD, NW, ET
        return state
    }

    /// Flat 32-bit protected mode without paging.
    static func protected(entry: UInt64, descriptors: UInt64) -> InitialState {
        var state = InitialState(rip: entry)
        state.setFlat(is64Bit: false, descriptors: descriptors)
        state.system[.cr0] = 0x31  // PE, ET, NE
        return state
    }

    /// 64-bit mode under the page tables at `tables`. SSE is usable, as compilers assume.
    static func long(entry: UInt64, descriptors: UInt64, tables: UInt64) -> InitialState {
        var state = InitialState(rip: entry)
        state.setFlat(is64Bit: true, descriptors: descriptors)
        state.system[.cr0] = 0x8000_0033  // PG, PE, MP, ET, NE
        state.system[.cr3] = tables
        state.system[.cr4] = 0x620  // PAE, OSFXSR, OSXMMEXCPT
        state.system[.efer] = 0x500  // LME, LMA
        return state
    }

    private mutating func setAll(_ data: Segment) {
        for name in [.ds, .es, .fs, .gs, .ss] as [SystemRegisters.SegmentName] {
            system[name] = data
        }
    }

    private mutating func setFlat(is64Bit: Bool, descriptors: UInt64) {
        setAll(
            Segment(limit: 0xFFFF_FFFF, selector: Self.dataSelector, type: 3, db: true, g: true))
        system[.cs] = Segment(
            limit: 0xFFFF_FFFF, selector: Self.codeSelector, type: 11, db: !is64Bit, l: is64Bit,
            g: true)
        system.gdt = DescriptorTable(base: descriptors, limit: 31)
        system.idt = DescriptorTable()
    }

    /// The descriptor table that holds the flat segments: two empty entries, code, data. Accessed
    /// bits are set, so that loading a selector writes nothing.
    static func globalDescriptors(is64Bit: Bool) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 16)
        bytes.append(littleEndian: UInt64(is64Bit ? 0x00AF_9B00_0000_FFFF : 0x00CF_9B00_0000_FFFF))
        bytes.append(littleEndian: UInt64(0x00CF_9300_0000_FFFF))
        return bytes
    }
}
