import Glibc
import Machine
import TestSupport
import Testing

@testable import Guest

/// Numbers out of a file's bytes.
private struct Reading {
    let bytes: [UInt8]

    init(_ path: String) throws { bytes = try GuestFile(path: path).bytes }

    func number(_ offset: Int, _ size: Int) -> UInt64 {
        (0..<size).reversed().reduce(0) { $0 << 8 | UInt64(bytes[offset + $1]) }
    }

    /// PT_LOADs as [linear, physical, offset, size].
    var loads: [[UInt64]] {
        let isWide = bytes[4] == 2
        let count = Int(number(isWide ? 56 : 44, 2))
        return (0..<count).compactMap { index in
            let at = isWide ? 64 + index * 56 : 52 + index * 32
            guard number(at, 4) == 1 else { return nil }
            return isWide
                ? [number(at + 16, 8), number(at + 24, 8), number(at + 8, 8), number(at + 32, 8)]
                : [number(at + 8, 4), number(at + 12, 4), number(at + 4, 4), number(at + 16, 4)]
        }
    }

    /// Notes as (name, type, offset of the content, size).
    var notes: [(name: String, type: UInt64, offset: Int, size: Int)] {
        let isWide = bytes[4] == 2
        let at = isWide ? 64 : 52
        var offset = Int(isWide ? number(at + 8, 8) : number(at + 4, 4))
        let end = offset + Int(isWide ? number(at + 32, 8) : number(at + 16, 4))
        var notes: [(name: String, type: UInt64, offset: Int, size: Int)] = []
        while offset < end {
            let nameSize = Int(number(offset, 4))
            let size = Int(number(offset + 4, 4))
            let name = String(
                decoding: bytes[offset + 12..<offset + 12 + nameSize - 1], as: UTF8.self)
            let content = offset + 12 + (nameSize + 3) & ~3
            notes.append((name, number(offset + 8, 4), content, size))
            offset = content + (size + 3) & ~3
        }
        return notes
    }
}

@Suite struct CoreFileTests {
    private func cpu(isLong: Bool) -> CoreFile.CPU {
        var registers = GeneralRegisters()
        for register in Register.allCases {
            registers[register] = 0x1_0000_0000 + UInt64(register.rawValue)
        }
        var system = SystemRegisters()
        system[.cr0] = isLong ? 0x8000_0001 : 1
        system[.cr3] = 0x1000
        system[.cr4] = 0x20
        system[.efer] = isLong ? 0x500 : 0
        system[.cs] = Segment(
            limit: .max, selector: 0x10, type: 11, db: !isLong, l: isLong, g: true)
        system[.fs].base = 0x1122_3344
        system.gdt = DescriptorTable(base: 0x5000, limit: 0x27)
        return .init(
            registers: registers, system: system, kernelGSBase: 0xFEED,
            floatingPoint: [UInt8](repeating: 7, count: 512))
    }

    /// 8 MiB, of which three pages hold something; one of them maps 2 MiB at the top half.
    private func memory() throws -> GuestMemory {
        let memory = try GuestMemory(
            layout: RAMLayout(lengthInBytes: 8 << 20), romLengthInBytes: 4096)
        var entry: [UInt8] = []
        entry.append(littleEndian: UInt64(0x2003))
        try memory.write(GuestPhysicalAddress(0x1000 + 256 * 8), entry[...])
        entry = []
        entry.append(littleEndian: UInt64(0x3003))
        try memory.write(GuestPhysicalAddress(0x2000), entry[...])
        entry = []
        entry.append(littleEndian: UInt64(0x40_0083))
        try memory.write(GuestPhysicalAddress(0x3000), entry[...])
        try memory.write(GuestPhysicalAddress(0x40_1234), Array("tape".utf8)[...])
        try memory.write(GuestPhysicalAddress(0xFFFF_F000), [0xEA])
        return memory
    }

    @Test func longModeGivesBothAddressesOfMemory() throws {
        let scratch = try TemporaryDirectory()
        let path = "\(scratch.path)/core"
        let core = try CoreFile.write(
            to: path, cpus: [cpu(isLong: true), cpu(isLong: true)], memory: memory(),
            originals: [
                .init(address: .init(0x40_1235), bytes: [0x41]),
                .init(address: .init(0x7000_0000), bytes: [1]),
            ], program: "kernel", title: "exit 7")
        #expect(core.pageCount == 5)
        #expect(core.stretchCount == 1)
        #expect(core.hasPhysicalMemory && core.hasAllMappings)
        let file = try Reading(path)
        #expect(file.number(16, 2) == 4)
        #expect(file.number(18, 2) == 62)
        let loads = file.loads
        #expect(loads.count == 3)
        #expect(loads[0][0] == 0xFFFF_8000_0000_0000)
        #expect(loads[0][1] == 0x40_0000)
        #expect(loads[0][3] == 0x20_0000)
        #expect(loads[1][0] == CoreFile.physicalBase)
        #expect(loads[2][0] == CoreFile.physicalBase + 0xFFFF_F000)
        for load in loads { #expect(load[2] % 4096 == 0) }
        // Both say the same bytes, with the original of a rewritten one.
        #expect(loads[0][2] == loads[1][2] + 0x40_0000)
        let at = Int(loads[0][2]) + 0x1234
        #expect(file.bytes[at..<at + 4].elementsEqual(Array("tApe".utf8)))
        #expect(file.bytes[Int(loads[2][2])] == 0xEA)
        #expect(UInt64(file.bytes.count) == loads[2][2] + 4096)
        var status = stat()
        // SAFETY: the status is a local that the call fills.
        #expect(unsafe stat(path, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        // Zero pages are holes: less than 128 KiB of more than 8 MiB.
        #expect(status.st_blocks * 512 < 128 << 10)
    }

    @Test func notesHoldTheRegisters() throws {
        let scratch = try TemporaryDirectory()
        let path = "\(scratch.path)/core"
        _ = try CoreFile.write(
            to: path, cpus: [cpu(isLong: true), cpu(isLong: true)], memory: memory(),
            program: "kernel")
        let file = try Reading(path)
        let notes = file.notes
        #expect(notes.map(\.name) == ["CORE", "CORE", "CORE", "CORE", "CORE", "QEMU", "QEMU"])
        #expect(notes.map(\.type) == [3, 1, 2, 1, 2, 0, 0])
        #expect(notes.map(\.size) == [136, 336, 512, 336, 512, 440, 440])
        // pr_pid, then the registers in the order of user_regs_struct.
        #expect(file.number(notes[1].offset + 32, 4) == 1)
        #expect(file.number(notes[3].offset + 32, 4) == 2)
        let registers = notes[1].offset + 112
        func register(_ index: Int) -> UInt64 { file.number(registers + index * 8, 8) }
        #expect(register(0) == 0x1_0000_0000 + UInt64(Register.r15.rawValue))
        #expect(register(10) == 0x1_0000_0000 + UInt64(Register.rax.rawValue))
        #expect(register(16) == 0x1_0000_0000 + UInt64(Register.rip.rawValue))
        #expect(register(17) == 0x10)
        #expect(register(19) == 0x1_0000_0000 + UInt64(Register.rsp.rawValue))
        #expect(register(21) == 0x1122_3344)
        // QEMU's state: version, size, RAX; CS after 18 registers; CR3; the base of kernel GS.
        let state = notes[5].offset
        #expect(file.number(state, 4) == 1)
        #expect(file.number(state + 4, 4) == 440)
        #expect(file.number(state + 8, 8) == 0x1_0000_0000)
        #expect(file.number(state + 152, 4) == 0x10)
        #expect(file.number(state + 160, 4) == 0x00A0_9B00)
        #expect(file.number(state + 152 + 8 * 24 + 16, 8) == 0x5000)
        #expect(file.number(state + 392 + 3 * 8, 8) == 0x1000)
        #expect(file.number(state + 432, 8) == 0xFEED)
    }

    @Test func thirtyTwoBitGuestsGiveThirtyTwoBitCores() throws {
        let scratch = try TemporaryDirectory()
        let path = "\(scratch.path)/core"
        let core = try CoreFile.write(
            to: path, cpus: [cpu(isLong: false)], memory: memory(), program: "kernel")
        #expect(!core.hasPhysicalMemory)
        let file = try Reading(path)
        #expect(file.number(18, 2) == 3)
        #expect(
            file.loads.map { [$0[0], $0[1], $0[3]] } == [
                [0, 0, 8 << 20], [0xFFFF_F000, 0xFFFF_F000, 4096],
            ])
        let notes = file.notes
        #expect(notes.map(\.type) == [3, 1, 0x46E6_2B7F, 0])
        #expect(notes.map(\.size) == [124, 144, 512, 440])
        #expect(file.number(notes[1].offset + 24, 4) == 1)
        // EBX first, EIP the thirteenth.
        #expect(file.number(notes[1].offset + 72, 4) == UInt64(Register.rbx.rawValue))
        #expect(file.number(notes[1].offset + 72 + 48, 4) == UInt64(Register.rip.rawValue))
    }

    @Test func filesThatAreThereStayUnlessReplaced() throws {
        let scratch = try TemporaryDirectory()
        let path = "\(scratch.path)/core"
        let memory = try memory()
        func write(isReplacing: Bool = false) throws(GuestError) -> CoreFile {
            try CoreFile.write(
                to: path, cpus: [cpu(isLong: true)], memory: memory, isReplacing: isReplacing)
        }
        _ = try write()
        let error = #expect(throws: GuestError.self) { _ = try write() }
        #expect(error?.kind == .exists)
        #expect(error?.description.contains("--overwrite") == true)
        _ = try write(isReplacing: true)
        // One that broke off is in the way, but not of a replacement.
        // SAFETY: paths are strings of ours.
        #expect(unsafe rename(path, path + ".partial") == 0)
        let second = #expect(throws: GuestError.self) { _ = try write() }
        #expect(second?.kind == .exists)
        _ = try write(isReplacing: true)
        #expect(unsafe access(path + ".partial", F_OK) != 0)
        // A link is not followed.
        #expect(unsafe symlink("/nowhere/else", "\(scratch.path)/link") == 0)
        let third = #expect(throws: GuestError.self) {
            _ = try CoreFile.write(
                to: "\(scratch.path)/link", cpus: [cpu(isLong: true)], memory: memory)
        }
        #expect(third?.kind == .exists)
    }

    @Test func failuresSayWhatAndLeaveNothing() throws {
        let memory = try memory()
        let missing = #expect(throws: GuestError.self) {
            _ = try CoreFile.write(
                to: "/tmp/vmtape-no-such-directory/core", cpus: [cpu(isLong: true)],
                memory: memory)
        }
        #expect(missing?.kind == .unwritable)
        #expect(missing?.description.contains("directory") == true)
        #expect(missing?.description.contains("\n") == false)
        let full = #expect(throws: GuestError.self) {
            _ = try CoreFile.write(
                to: "/proc/self/core", cpus: [cpu(isLong: true)], memory: memory)
        }
        #expect(full?.kind == .unwritable)
    }
}
