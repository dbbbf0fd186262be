import Machine
import Testing

@testable import Guest

@Suite struct MultibootTests {
    /// An ELF kernel with a header in front of its code.
    func kernel(is64Bit: Bool = false, flags: UInt32 = 3) -> [UInt8] {
        SampleELF(
            is64Bit: is64Bit, at: 0x10_0000, bytes: multibootHeader(flags: flags) + [0xFA, 0xF4]
        ).bytes
    }

    func module(_ name: String, _ bytes: [UInt8], _ line: String) -> GuestModule {
        GuestModule(file: GuestFile(name: name, bytes: bytes), commandLine: line)
    }

    @Test(arguments: [false, true])
    func elfKernelsAreEnteredAsTheSpecificationSays(_ is64Bit: Bool) throws {
        let plan = try plan(kernel(is64Bit: is64Bit))
        #expect(plan.kind == .multiboot)
        #expect(plan.registers[.rax] == 0x2BAD_B002)
        #expect(plan.registers.rip == 0x10_0000)
        let system = plan.systemRegisters
        #expect(system.mode == .protected32)
        #expect(system[.cr0] & 1 << 31 == 0)
        for name in SystemRegisters.SegmentName.allCases.prefix(6) {
            #expect(system[name].base == 0)
            #expect(system[name].limit == 0xFFFF_FFFF)
        }
        #expect(plan.registers.rflags & 0x2_0200 == 0)
    }

    @Test func linkedHighIsEnteredAtItsPhysicalAddress() throws {
        let sample = SampleELF(
            is64Bit: false, entry: 0xC010_000C,
            segments: [
                .init(
                    virtual: 0xC010_0000, physical: 0x10_0000,
                    bytes: multibootHeader(flags: 0) + [0xF4])
            ])
        #expect(try plan(sample.bytes).registers.rip == 0x10_000C)
    }

    @Test func informationSaysWhatThereIs() throws {
        let options = LoadOptions(
            commandLine: "root=here",
            modules: [module("a", [1, 2, 3], "first"), module("b", [4], "")])
        let plan = try plan(kernel(), options, ram: 5 << 30)
        let info = plan.registers[.rbx]
        func word(_ offset: UInt64) -> UInt64 {
            UInt64(plan.number(UInt32.self, at: info + offset) ?? .max)
        }
        #expect(word(0) == 0b10_0100_1101)
        #expect(word(4) == 640)
        #expect(word(8) == (3 << 20) - 1024)
        #expect(plan.string(at: word(16)) == "root=here")
        #expect(plan.string(at: word(64)) == "vmtape")
        #expect(word(20) == 2)
        var modules: [(UInt64, UInt64, String?)] = []
        for index in 0..<word(20) {
            let at = word(24) + index * 16
            modules.append(
                (
                    UInt64(plan.number(UInt32.self, at: at) ?? 0),
                    UInt64(plan.number(UInt32.self, at: at + 4) ?? 0),
                    plan.string(at: UInt64(plan.number(UInt32.self, at: at + 8) ?? 0))
                ))
        }
        #expect(modules.map(\.2) == ["first", ""])
        #expect(modules.map { $0.1 - $0.0 } == [3, 1])
        #expect(modules.allSatisfy { $0.0 % 4096 == 0 && $0.0 >= 0x10_0000 })
        #expect(plan.bytes(at: modules[0].0, 3) == [1, 2, 3])
        #expect(plan.bytes(at: modules[1].0, 1) == [4])
        // The map: the size field does not count itself.
        var at = word(48)
        let end = at + word(44)
        var map: [[UInt64]] = []
        while at < end {
            let size = UInt64(plan.number(UInt32.self, at: at) ?? 0)
            #expect(size == 20)
            guard size == 20 else { break }
            map.append([
                plan.number(UInt64.self, at: at + 4) ?? 0,
                plan.number(UInt64.self, at: at + 12) ?? 0,
                UInt64(plan.number(UInt32.self, at: at + 20) ?? 0),
            ])
            at += size + 4
        }
        let lowEnd: UInt64 = 3 << 30
        let expected: [[UInt64]] = [
            [0, 0xA_0000, 1], [0xA_0000, 0x6_0000, 2], [0x10_0000, lowEnd - 0x10_0000, 1],
            [4 << 30, 2 << 30, 1],
        ]
        #expect(map == expected)
    }

    @Test func littleRAMIsDescribedToo() throws {
        let bytes = SampleELF(
            is64Bit: false, at: 0x2000, bytes: multibootHeader(flags: 2) + [0xF4]
        ).bytes
        let plan = try plan(bytes, ram: 64 << 10)
        #expect(plan.number(UInt32.self, at: plan.registers[.rbx] + 4) == 64)
        #expect(plan.number(UInt32.self, at: plan.registers[.rbx] + 8) == 0)
        #expect(plan.number(UInt32.self, at: plan.registers[.rbx] + 44) == 24)
    }

    /// A flat kernel of 64 bytes that is loaded by its header's address fields.
    func flatKernel(_ addresses: [UInt32]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0x90, count: 64)
        let header = multibootHeader(flags: 1 << 16, addresses: addresses)
        bytes.replaceSubrange(16..<16 + header.count, with: header)
        return bytes
    }

    @Test func addressFieldsSayWhereAFlatKernelGoes() throws {
        // Header at file offset 16 is loaded at 1 MiB + 8: the load begins at file offset 8.
        let plan = try plan(flatKernel([0x10_0008, 0x10_0000, 0x10_0030, 0x10_1000, 0x10_0004]))
        #expect(plan.kind == .multiboot)
        #expect(plan.registers.rip == 0x10_0004)
        #expect(plan.writes[0].address.rawValue == 0x10_0000)
        #expect(plan.writes[0].bytes.count == 0x30)
        #expect(plan.bytes(at: 0x10_0008, 4) == [0x02, 0xB0, 0xAD, 0x1B])
        // No load end: to the end of the file. No bss end: no bss.
        let whole = try GuestTests.plan(flatKernel([0x10_0008, 0x10_0000, 0, 0, 0x10_0000]))
        #expect(whole.writes[0].bytes.count == 56)
    }

    @Test func badAddressFieldsAreErrors() {
        func error(_ addresses: [UInt32]) -> GuestError.Kind? {
            failure(flatKernel(addresses))?.kind
        }
        #expect(error([0x10_0000, 0x10_0008, 0, 0, 0x10_0008]) == .malformed)
        #expect(error([0x10_0020, 0x10_0000, 0, 0, 0x10_0000]) == .malformed)
        #expect(error([0x10_0000, 0x10_0000, 0x0F_0000, 0, 0x10_0000]) == .malformed)
        #expect(error([0x10_0000, 0x10_0000, 0x10_0031, 0, 0x10_0000]) == .truncated)
        #expect(error([0x10_0000, 0x10_0000, 0x10_0030, 0x10_002F, 0x10_0000]) == .malformed)
        #expect(error([0x10_0000, 0x10_0000, 0, 0, 0x10_0030]) == .badAddress)
        #expect(error([0x10_0000, 0x10_0000, 0, 0, 0]) == .badAddress)
        #expect(error([0x10_0000, 0x10_0000, 0, 0xFFFF_FFFF, 0x10_0000]) == .badAddress)
        #expect(error([0xFFFF_FFF0, 0xFFFF_FFF0, 0, 0, 0xFFFF_FFF0]) == .badAddress)
    }

    @Test func headersAreFoundWhereTheSpecificationAllows() {
        func found(at offset: Int) -> Bool {
            var bytes = [UInt8](repeating: 0, count: 9000)
            bytes.replaceSubrange(offset..<offset + 12, with: multibootHeader(flags: 0))
            return MultibootHeader.find(in: bytes) != nil
        }
        #expect(found(at: 0))
        #expect(found(at: 8180))
        #expect(!found(at: 8184))
        #expect(!found(at: 6))
        var damaged = multibootHeader(flags: 0)
        damaged[8] ^= 1
        #expect(MultibootHeader.find(in: damaged) == nil)
        #expect(MultibootHeader.find(in: multibootHeader(flags: 1 << 16)) == nil)
    }

    @Test func requirementsAreKept() throws {
        #expect(failure(kernel(flags: 1 << 3))?.kind == .unsupported)
        #expect(failure(kernel(flags: 1 << 15))?.kind == .unsupported)
        #expect(try plan(kernel(flags: 1 << 2)).notes.count == 1)
        #expect(try plan(kernel(flags: 1 << 17)).kind == .multiboot)
    }

    @Test func modulesMustFitAndHaveBytes() {
        let big = [UInt8](repeating: 1, count: 15 << 20)
        #expect(
            failure(kernel(), LoadOptions(modules: [module("big", big, "")]))?.kind == .tooBig)
        #expect(
            failure(kernel(), LoadOptions(modules: [module("none", [], "")]))?.kind == .empty)
        #expect(failure(kernel(), LoadOptions(loadAddress: 0))?.kind == .badOption)
    }

    @Test func aKernelWithoutAHeaderIsRefusedWhenAskedFor() {
        #expect(
            failure(SampleELF(at: 0x10_0000).bytes, LoadOptions(kind: .multiboot))?.kind
                == .malformed)
    }
}
