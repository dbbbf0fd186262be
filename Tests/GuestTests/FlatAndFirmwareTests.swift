import Machine
import Testing

@testable import Guest

@Suite struct FlatTests {
    let code: [UInt8] = [0xB0, 0x41, 0xE6, 0xE9, 0xF4]

    @Test func realModeByDefault() throws {
        let plan = try plan(code)
        #expect(plan.kind == .flatReal)
        #expect(plan.writes.map(\.address.rawValue) == [0x1000])
        #expect(Array(plan.writes[0].bytes) == code)
        #expect(plan.registers.rip == 0x1000)
        #expect(plan.registers.rflags == 2)
        #expect(plan.systemRegisters.mode == .real)
        #expect(plan.systemRegisters[.cs].base == 0)
        #expect(plan.registers[.rdi] == 0)
        #expect(plan.romLengthInBytes == 0)
    }

    @Test func realModeBeyond64KiBMovesCS() throws {
        let plan = try plan(code, LoadOptions(loadAddress: 0x2_3450, entry: 0x2_3452))
        #expect(plan.registers.rip == 0x3452)
        #expect(plan.systemRegisters[.cs].selector == 0x2000)
        #expect(plan.systemRegisters[.cs].base == 0x2_0000)
    }

    @Test func longModeMapsTheLow4GiB() throws {
        let plan = try plan(code, LoadOptions(kind: .flatLong, commandLine: "a b"))
        #expect(plan.registers.rip == 0x10_0000)
        #expect(plan.systemRegisters.mode == .long)
        for address in [0, 0x10_0000, 0xFEE0_0000, 0xFFFF_FFFF] as [UInt64] {
            #expect(plan.translate(address) == address)
        }
        #expect(plan.translate(0x1_0000_0000) == nil)
        #expect(plan.string(at: plan.registers[.rdi]) == "a b")
    }

    @Test func descriptorsAreWhatTheSegmentsSay() throws {
        let plan = try plan(code, LoadOptions(kind: .flatLong))
        let table = plan.systemRegisters.gdt
        #expect(table.limit == 31)
        // Type, S, DPL, P (bits 40–47) and limit high, AVL, L, D, G (48–55); Intel SDM 3.4.5.
        let selector = UInt64(plan.systemRegisters[.cs].selector)
        let code = try #require(plan.number(UInt64.self, at: table.base + selector))
        #expect(code >> 40 & 0xFF == 0x9B)
        #expect(code >> 52 & 0xF == 0xA)
        let dataSelector = UInt64(plan.systemRegisters[.ss].selector)
        let data = try #require(plan.number(UInt64.self, at: table.base + dataSelector))
        #expect(data >> 40 & 0xFF == 0x93)
    }

    @Test func badPlacesAreErrors() {
        #expect(failure([])?.kind == .empty)
        #expect(failure(code, LoadOptions(loadAddress: 16 << 20))?.kind == .badAddress)
        #expect(failure(code, LoadOptions(loadAddress: .max))?.kind == .badAddress)
        #expect(failure(code, LoadOptions(entry: 0x1005))?.kind == .badAddress)
        #expect(failure(code, LoadOptions(entry: 0xFFF))?.kind == .badAddress)
        #expect(failure(code, LoadOptions(loadAddress: 0x10_0000))?.kind == .badAddress)
        let big = [UInt8](repeating: 0x90, count: 128 << 10)
        #expect(failure(big, ram: 64 << 10)?.kind == .badAddress)
        #expect(failure(code, LoadOptions(commandLine: "a\0b"))?.kind == .badOption)
        #expect(
            failure(code, LoadOptions(modules: [.init(file: .init(name: "m", bytes: [1]))]))?.kind
                == .badOption)
        #expect(failure(Array("#!/bin/sh\n".utf8))?.kind == .unsupported)
    }

    @Test(arguments: [
        (FirmwareInputs(kernel: file), "give the kernel as the image"),
        (FirmwareInputs(bootOrder: ["/a", ""]), "not empty"),
        (FirmwareInputs(bootOrder: ["/a\nb"]), "control characters"),
        (inputs([""]), "1 to 55 bytes"),
        (inputs([String(repeating: "ä", count: 28)]), "1 to 55 bytes"),
        (inputs(["a\0b"]), "no NUL"),
        (inputs(["etc/e820"]), "take another name"),
        (inputs(["a", "b", "a"]), "given twice"),
        (inputs((0...32).map { "f\($0)" }), "32 files at most"),
    ])
    func `what fw_cfg cannot hand out is an error`(_ inputs: FirmwareInputs, _ message: String) {
        let error = failure(code, LoadOptions(firmware: inputs))
        #expect(error?.kind == .badOption)
        #expect(error?.message.contains(message) == true, "\(error?.description ?? "none")")
    }

    private static let file = GuestFile(name: "f", bytes: [1])
    private static func inputs(_ names: [String]) -> FirmwareInputs {
        FirmwareInputs(files: names.map { .init(name: $0, file: file) })
    }

    @Test func noRoomForTablesIsAnError() {
        let all = [UInt8](repeating: 0x90, count: 64 << 10)
        let error = failure(all, LoadOptions(kind: .flatLong, loadAddress: 0), ram: 64 << 10)
        #expect(error?.kind == .tooBig)
    }

    @Test func writesNeverOverlap() throws {
        // The image takes all low memory but one page, and then some above 1 MiB.
        let image = [UInt8](repeating: 0x90, count: 0xA_0000 - 0x2000)
        let plan = try plan(
            image, LoadOptions(kind: .flatLong, loadAddress: 0x2000, commandLine: "x"),
            ram: 2 << 20)
        let ranges = plan.writes.map {
            $0.address.rawValue..<$0.address.rawValue + UInt64($0.bytes.count)
        }
        for (index, range) in ranges.enumerated() {
            #expect(plan.ram.contains(range.lowerBound, UInt64(range.count)))
            for other in ranges[(index + 1)...] { #expect(!range.overlaps(other)) }
        }
    }
}

@Suite struct FirmwareTests {
    func image(_ length: Int, vector: [UInt8] = [0xEA, 0x5B, 0xE0, 0x00, 0xF0]) -> [UInt8] {
        var bytes = (0..<length).map { UInt8(truncatingIfNeeded: $0 >> 8) }
        bytes.replaceSubrange(length - 16..<length - 16 + vector.count, with: vector)
        return bytes
    }

    @Test func liesBelow4GiBAndBelow1MiB() throws {
        let bytes = image(256 << 10)
        let plan = try plan(bytes)
        #expect(plan.kind == .firmware)
        #expect(plan.romLengthInBytes == 256 << 10)
        #expect(plan.writes.map(\.address.rawValue) == [0xFFFC_0000, 0xE_0000])
        #expect(plan.bytes(at: 0xF_FFF0, 5) == [0xEA, 0x5B, 0xE0, 0x00, 0xF0])
        #expect(plan.bytes(at: 0xFFFF_FFF0, 5) == [0xEA, 0x5B, 0xE0, 0x00, 0xF0])
        #expect(plan.systemRegisters[.cs].base + plan.registers.rip == 0xFFFF_FFF0)
        #expect(plan.systemRegisters.mode == .real)
        let memory = try GuestMemory(layout: plan.ram, romLengthInBytes: plan.romLengthInBytes)
        try plan.apply(to: memory)
        #expect(try memory.read(GuestPhysicalAddress(0xFFFF_FFF0), count: 1) == [0xEA])
    }

    @Test func a64KiBImageIsShadowedOnce() throws {
        let plan = try plan(image(64 << 10))
        #expect(plan.writes.map(\.address.rawValue) == [0xFFFF_0000, 0xF_0000])
    }

    @Test(
        arguments: [[0x0F, 0x09, 0xE9], [0xFA, 0xE9], [0x90, 0x90, 0xE9], [0xEB]] as [[UInt8]])
    func vectorsOfOtherFirmware(_ vector: [UInt8]) throws {
        #expect(try plan(image(64 << 10, vector: vector)).kind == .firmware)
    }

    @Test func otherSizesAndVectorsAreNoFirmware() throws {
        #expect(!GuestKind.isFirmware(image((64 << 10) + 16)))
        #expect(!GuestKind.isFirmware(image(64 << 10, vector: [0, 0, 0, 0])))
        #expect(!GuestKind.isFirmware([]))
        let options = LoadOptions(kind: .firmware)
        #expect(failure(image((64 << 10) + 16), options)?.kind == .unsupported)
        #expect(failure(image(32 << 20), options, ram: 64 << 20)?.kind == .unsupported)
        #expect(failure(image(64 << 10), ram: 512 << 10)?.kind == .tooBig)
        #expect(failure(image(64 << 10), LoadOptions(entry: 0))?.kind == .badOption)
        #expect(failure(image(64 << 10), LoadOptions(commandLine: "x"))?.kind == .badOption)
    }
}
