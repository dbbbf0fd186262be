import Machine
import Testing

@testable import Guest

@Suite struct ELFTests {
    @Test func elf64AtItsOwnAddress() throws {
        var sample = SampleELF(at: 0x10_0000)
        sample.segments[0].lengthInMemory = 0x5000
        let plan = try plan(sample.bytes, LoadOptions(commandLine: "one two"))
        #expect(plan.kind == .elf64)
        #expect(plan.registers.rip == 0x10_0000)
        #expect(plan.bytes(at: 0x10_0000, 3) == [0xF4, 0xEB, 0xFD])
        #expect(plan.translate(0xD000_0123) == 0xD000_0123)
        #expect(plan.string(at: plan.registers[.rdi]) == "one two")
        #expect(plan.code.map(\.isCertain) == [false])
    }

    @Test func higherHalfIsMappedWhereItIsLinked() throws {
        let base: UInt64 = 0xFFFF_FFFF_8000_0000
        let sample = SampleELF(
            entry: base + 0x10_1001,
            segments: [
                .init(virtual: base + 0x10_0000, physical: 0x10_0000, bytes: [1, 2, 3]),
                .init(
                    virtual: base + 0x10_1000, physical: 0x10_1000, bytes: [4, 5],
                    lengthInMemory: 0x20_0000),
            ])
        let plan = try plan(sample.bytes)
        #expect(plan.registers.rip == base + 0x10_1001)
        #expect(plan.translate(plan.registers.rip) == 0x10_1001)
        #expect(plan.translate(base + 0x10_1000 + 0x1F_FFFF) == 0x10_1000 + 0x1F_FFFF)
        #expect(plan.translate(0x10_1001) == 0x10_1001)
    }

    @Test func oddDistancesAreMappedBySmallPages() throws {
        let sample = SampleELF(
            entry: 0xFFFF_8000_0000_0010,
            segments: [
                .init(
                    virtual: 0xFFFF_8000_0000_0000, physical: 0x30_1000,
                    bytes: [UInt8](repeating: 7, count: 0x1001))
            ])
        let plan = try plan(sample.bytes)
        #expect(plan.translate(0xFFFF_8000_0000_0010) == 0x30_1010)
        #expect(plan.translate(0xFFFF_8000_0000_1000) == 0x30_2000)
        #expect(plan.translate(0xFFFF_8000_0000_2000) == nil)
    }

    @Test func linkAddressesBelow4GiBHideOnlyTheirOwnPages() throws {
        let sample = SampleELF(
            entry: 0x4000_0000,
            segments: [.init(virtual: 0x4000_0000, physical: 0x20_0000, bytes: [0xF4])])
        let plan = try plan(sample.bytes)
        #expect(plan.translate(0x4000_0000) == 0x20_0000)
        #expect(plan.translate(0x4000_1000) == 0x4000_1000)
        #expect(plan.translate(0x3FFF_FFFF) == 0x3FFF_FFFF)
    }

    @Test func tablesStayOutOfWhatLinkAddressesHide() throws {
        // The link address is the place where the tables would go.
        let sample = SampleELF(
            entry: 0x9_0000,
            segments: [
                .init(
                    virtual: 0x9_0000, physical: 0x20_0000, bytes: [0xF4],
                    lengthInMemory: 0x1_0000)
            ])
        let plan = try plan(sample.bytes)
        #expect(plan.translate(plan.systemRegisters[.cr3]) == plan.systemRegisters[.cr3])
        #expect(plan.translate(plan.systemRegisters.gdt.base) == plan.systemRegisters.gdt.base)
    }

    @Test func aPhysicalEntryIsTaken() throws {
        // As in a Linux vmlinux: linked high, entered at the physical address.
        let sample = SampleELF(
            entry: 0x100_0000,
            segments: [
                .init(virtual: 0xFFFF_FFFF_8100_0000, physical: 0x100_0000, bytes: [0xF4])
            ])
        #expect(try plan(sample.bytes, ram: 32 << 20).registers.rip == 0x100_0000)
    }

    @Test func loadMovesSegmentsTogether() throws {
        let sample = SampleELF(
            entry: 0x4000_1000,
            segments: [
                .init(virtual: 0x4000_1000, physical: 0x4000_1000, bytes: [1]),
                .init(virtual: 0x4000_3000, physical: 0x4000_3000, bytes: [2]),
            ])
        #expect(failure(sample.bytes)?.kind == .badAddress)
        let plan = try plan(sample.bytes, LoadOptions(loadAddress: 0x20_0000))
        #expect(plan.bytes(at: 0x20_2000, 1) == [2])
        #expect(plan.translate(0x4000_3000) == 0x20_2000)
    }

    @Test func elf32IsEnteredInProtectedMode() throws {
        let plan = try plan(SampleELF(is64Bit: false, at: 0x10_0000).bytes)
        #expect(plan.kind == .elf32)
        #expect(plan.systemRegisters.mode == .protected32)
        #expect(plan.systemRegisters[.cr0] & (1 << 31) == 0)
        #expect(plan.registers.rip == 0x10_0000)
    }

    @Test func sectionsTellWhatIsCode() throws {
        var sample = SampleELF(at: 0x10_0000)
        sample.hasSections = true
        let plan = try plan(sample.bytes)
        #expect(plan.code.map(\.name) == [".text"])
        let code = try #require(plan.code.first)
        #expect(code.isCertain)
        #expect(code.physical.rawValue == 0x10_0000)
        #expect(Array(plan.image[code.fileRange]) == [0xF4, 0xEB, 0xFD])
    }

    @Test func wrongFilesAreErrors() {
        func broken(_ change: (inout SampleELF) -> Void) -> GuestError? {
            var sample = SampleELF(at: 0x10_0000)
            change(&sample)
            return failure(sample.bytes)
        }
        #expect(broken { _ in } == nil)
        #expect(broken { $0.machine = 183 }?.kind == .unsupported)
        #expect(broken { $0.type = 1 }?.kind == .unsupported)
        #expect(broken { $0.dataEncoding = 2 }?.kind == .unsupported)
        #expect(
            broken { elf in
                elf.segments = []
                elf.gap = [UInt8](repeating: 0, count: 64)
            }?.kind == .malformed)
        #expect(broken { $0.segments[0].type = 2 }?.kind == .malformed)
        #expect(broken { $0.entry = 0x20_0000 }?.kind == .badAddress)
        #expect(broken { $0.segments[0].physical = 1 << 30 }?.kind == .badAddress)
        #expect(broken { $0.segments[0].lengthInMemory = 1 << 30 }?.kind == .badAddress)
        #expect(broken { $0.segments[0].lengthInMemory = 2 }?.kind == .malformed)
        #expect(broken { $0.segments[0].lengthInFile = 4 }?.kind == .truncated)
        #expect(
            broken { $0.segments[0].lengthInMemory = .max }?.message.contains("past the end")
                == true)
        #expect(broken { $0.segments[0].virtual = 0x1234_5678_0000_0000 }?.kind == .badAddress)
        #expect(broken { $0.segments[0].virtual = 0xFFFF_8000_0000_0800 }?.kind == .badAddress)
        #expect(broken { $0.segments.append($0.segments[0]) }?.kind == .malformed)
        #expect(
            broken { elf in
                elf.segments.append(
                    .init(virtual: 0x10_0000, physical: 0x20_0000, bytes: [1]))
                elf.segments.append(
                    .init(virtual: 0x10_0000, physical: 0x30_0000, bytes: [1]))
            }?.message.contains("virtual 0x100000") == true)
        #expect(failure(SampleELF(at: 0x10_0000).bytes, LoadOptions(kind: .elf32)) != nil)
        #expect(failure([1, 2, 3], LoadOptions(kind: .elf64))?.kind == .unsupported)
        var wrongClass = SampleELF(at: 0x10_0000).bytes
        wrongClass[4] = 3
        #expect(failure(wrongClass)?.kind == .unsupported)
    }

    @Test func everyTruncationIsAnErrorOrALoad() {
        var sample = SampleELF(at: 0x10_0000)
        sample.hasSections = true
        let bytes = sample.bytes
        // Up to the end of the segment's bytes, what is missing is needed.
        let needed = 64 + 56 + 3
        for length in 1..<needed {
            let error = failure(Array(bytes[..<length]), LoadOptions(kind: .elf64))
            #expect(error != nil, "\(length) bytes")
        }
    }
}
