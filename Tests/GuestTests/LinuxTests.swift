import Machine
import Testing

@testable import Guest

/// A bzImage made for a test: one setup sector, then the kernel.
func bzImage(
    kernel: [UInt8] = [UInt8](repeating: 0x90, count: 0x200) + [0xF4], version: UInt16 = 0x020F,
    flags: UInt16 = 1, address: UInt64 = 0x10_0000, initSize: UInt32 = 0x1_0000,
    highestInitrd: UInt32 = 0x7FFF_FFFF, commandLineSize: UInt32 = 255
) -> [UInt8] {
    var image = [UInt8](repeating: 0, count: 1024) + kernel
    func put(_ number: some FixedWidthInteger & UnsignedInteger, _ offset: Int) {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: number)
        image.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }
    image[0x1F1] = 1
    put(UInt32((kernel.count + 15) / 16), 0x1F4)
    put(UInt16(0xAA55), 0x1FE)
    image[0x200] = 0xEB
    image[0x201] = 0x6A
    put(UInt32(0x5372_6448), 0x202)
    put(version, 0x206)
    image[0x211] = 1
    put(highestInitrd, 0x22C)
    put(flags, 0x236)
    put(commandLineSize, 0x238)
    put(address, 0x258)
    put(initSize, 0x260)
    return image
}

@Suite struct LinuxTests {
    func parameters(_ plan: LoadPlan) -> UInt64 { plan.registers[.rsi] }

    func word(_ plan: LoadPlan, _ offset: UInt64) -> UInt64 {
        plan.number(UInt32.self, at: parameters(plan) + offset).map(UInt64.init) ?? .max
    }

    @Test func bzImagesAreEnteredByThe64BitProtocol() throws {
        let plan = try plan(bzImage(), LoadOptions(commandLine: "console=ttyS0"))
        #expect(plan.kind == .linux)
        #expect(plan.kind.expectsPC)
        #expect(plan.registers.rip == 0x10_0200)
        let system = plan.systemRegisters
        #expect(system.mode == .long)
        #expect(system[.cs].selector == 0x10)
        #expect(system[.ds].selector == 0x18)
        #expect(system[.ss].selector == 0x18)
        #expect(plan.registers.rflags == 2)
        #expect(plan.bytes(at: 0x10_0000, 2) == [0x90, 0x90])
        #expect(plan.bytes(at: 0x10_0200, 1) == [0xF4])
        // The header is there as the image has it, and who loads it, and where.
        #expect(word(plan, 0x202) == 0x5372_6448)
        #expect(plan.bytes(at: parameters(plan) + 0x210, 2) == [0xFF, 1])
        #expect(plan.string(at: word(plan, 0x228)) == "console=ttyS0")
        #expect(word(plan, 0x218) == 0)
        // The map: 640 KiB, what a PC keeps, the rest.
        #expect(plan.bytes(at: parameters(plan) + 0x1E8, 1) == [3])
        #expect(word(plan, 0x2D0 + 8) == 0xA_0000)
        #expect(word(plan, 0x2D0 + 20 + 16) == 2)
        #expect(word(plan, 0x2D0 + 40) == 0x10_0000)
        #expect(word(plan, 0x2D0 + 48) == 15 << 20)
        // A list of one entry: a seed.
        let seed = word(plan, 0x250)
        #expect(plan.number(UInt64.self, at: seed) == 0)
        #expect(plan.number(UInt32.self, at: seed + 8) == 9)
        #expect((plan.number(UInt32.self, at: seed + 12) ?? 0) >= 32)
    }

    @Test func vmlinuxIsEnteredAtItsPhysicalAddress() throws {
        let sample = SampleELF(
            entry: 0x100_0000,
            segments: [
                .init(
                    virtual: 0xFFFF_FFFF_8100_0000, physical: 0x100_0000, bytes: [0xF4],
                    lengthInMemory: 0x20_0000)
            ])
        let initrd = GuestFile(name: "initrd", bytes: [7, 8, 9])
        let plan = try plan(
            sample.bytes, LoadOptions(kind: .linux, commandLine: "quiet", initrd: initrd),
            ram: 64 << 20)
        #expect(plan.registers.rip == 0x100_0000)
        #expect(word(plan, 0x202) == 0x5372_6448)
        #expect(plan.string(at: word(plan, 0x228)) == "quiet")
        // Behind the kernel, its uninitialised part included.
        #expect(word(plan, 0x218) == 0x120_0000)
        #expect(word(plan, 0x21C) == 3)
        #expect(plan.bytes(at: 0x120_0000, 3) == [7, 8, 9])
        #expect(plan.code.map(\.virtual.rawValue) == [0xFFFF_FFFF_8100_0000])
    }

    @Test func initrdsLieBehindAllThatTheKernelTakes() throws {
        let initrd = GuestFile(name: "initrd", bytes: [1])
        let plan = try plan(bzImage(initSize: 0x12_3456), LoadOptions(initrd: initrd))
        #expect(word(plan, 0x218) == 0x22_4000)
    }

    @Test(arguments: [
        (bzImage(flags: 0), LoadOptions(), GuestError.Kind.unsupported, "64-bit entry"),
        (bzImage(version: 0x020B), LoadOptions(), .unsupported, "64-bit entry"),
        (Array(bzImage().prefix(0x250)), LoadOptions(), .truncated, "cut off"),
        (Array(bzImage().dropLast(100)), LoadOptions(), .truncated, "528 bytes"),
        (bzImage(address: 0x100_0000), LoadOptions(), .tooBig, "give more RAM"),
        (bzImage(address: .max), LoadOptions(), .tooBig, "give more RAM"),
        (bzImage(initSize: .max), LoadOptions(), .tooBig, "give more RAM"),
        (bzImage(commandLineSize: 2), LoadOptions(commandLine: "abc"), .badOption, "2 bytes"),
        (
            bzImage(highestInitrd: 0x10_FFFF),
            LoadOptions(initrd: GuestFile(name: "i", bytes: [1])), .tooBig, "0x10ffff"
        ),
        (
            bzImage(), LoadOptions(initrd: GuestFile(name: "i", bytes: [])), .empty,
            "the initrd is empty"
        ),
        (bzImage(), LoadOptions(loadAddress: 0x20_0000), .badOption, "--load"),
        ([0xF4], LoadOptions(kind: .linux), .malformed, "HdrS"),
        (
            SampleELF(is64Bit: false, at: 0x10_0000).bytes, LoadOptions(kind: .linux),
            .unsupported, "32-bit ELF"
        ),
        (
            [0xF4], LoadOptions(initrd: GuestFile(name: "i", bytes: [1])), .badOption,
            "this is flat-real"
        ),
    ])
    func whatCannotBeStartedIsSaid(
        _ image: [UInt8], _ options: LoadOptions, _ kind: GuestError.Kind, _ words: String
    ) throws {
        let error = try #require(failure(image, options))
        #expect(error.kind == kind, "\(error)")
        #expect("\(error)".contains(words), "\(error)")
    }
}
