import Machine
import TestSupport
import Testing

@testable import Disassembly

@Suite struct DisassemblerTests {
    @Test func printsBothSyntaxes() throws {
        let intel = try #require(Disassembler(.long64).decode([0xEE], at: .init(0x1000)))
        #expect(intel.text == "out dx, al")
        let att = Disassembler(.long64, syntax: .att)
        #expect(att.decode([0xEE], at: .init(0x1000))?.text == "out %al, %dx")
    }

    @Test func readsTheSameBytesByWidth() {
        let bytes: [UInt8] = [0xB8, 0x34, 0x12, 0x00, 0x00]
        #expect(Disassembler(.real16).decode(bytes, at: .init(0))?.text == "mov ax, 0x1234")
        #expect(Disassembler(.protected16).decode(bytes, at: .init(0))?.length == 3)
        #expect(Disassembler(.protected32).decode(bytes, at: .init(0))?.text == "mov eax, 0x1234")
        #expect(Disassembler(.long64).decode(bytes, at: .init(0))?.length == 5)
    }

    @Test func resolvesTargets() throws {
        let call = try #require(
            Disassembler(.long64).decode(
                [0xE8, 0xFB, 0x0F, 0, 0], at: .init(0xFFFF_FFFF_8000_0000)))
        #expect(call.target == .init(0xFFFF_FFFF_8000_1000))
        #expect(call.text == "call 0xffffffff80001000")
        #expect(call.kind == .call)
        let load = try #require(
            Disassembler(.long64).decode([0x48, 0x8B, 0x05, 1, 0, 0, 0], at: .init(0x1000)))
        #expect(load.target == .init(0x1008))
    }

    @Test(
        arguments: [
            (
                [0xE6, 0x5A],
                PortAccess(direction: .output, sizeInBytes: 1, port: 0x5A, isString: false)
            ),
            ([0xEF], PortAccess(direction: .output, sizeInBytes: 4, port: nil, isString: false)),
            (
                [0x66, 0xEF],
                PortAccess(direction: .output, sizeInBytes: 2, port: nil, isString: false)
            ),
            (
                [0x48, 0xED],
                PortAccess(direction: .input, sizeInBytes: 4, port: nil, isString: false)
            ),
            (
                [0xE5, 0x71],
                PortAccess(direction: .input, sizeInBytes: 4, port: 0x71, isString: false)
            ),
            (
                [0xF3, 0x6E],
                PortAccess(direction: .output, sizeInBytes: 1, port: nil, isString: true)
            ),
            (
                [0x66, 0x6D],
                PortAccess(direction: .input, sizeInBytes: 2, port: nil, isString: true)
            ),
        ] as [([UInt8], PortAccess)])
    func describesPortAccesses(bytes: [UInt8], access: PortAccess) throws {
        let instruction = try #require(Disassembler(.long64).decode(bytes, at: .init(0)))
        #expect(instruction.portAccess == access)
        #expect(instruction.isRepeated == (bytes[0] == 0xF3))
    }

    @Test func tellsKindsApart() {
        let expected: [(bytes: [UInt8], kind: Instruction.Kind)] = [
            ([0x0F, 0x31], .rdtsc), ([0x0F, 0x01, 0xF9], .rdtscp), ([0x0F, 0xA2], .cpuid),
            ([0x0F, 0xC7, 0xF0], .rdrand), ([0x0F, 0xC7, 0xF8], .rdseed), ([0x0F, 0x33], .rdpmc),
            ([0xF4], .hlt), ([0x0F, 0x32], .rdmsr), ([0x0F, 0x30], .wrmsr), ([0xCC], .int3),
            ([0xCD, 0x80], .int), ([0x48, 0xCF], .iret), ([0x0F, 0x05], .syscall),
            ([0xC3], .ret), ([0xEB, 0xFE], .jmp), ([0x90], .other), ([0x0F, 0x0B], .other),
        ]
        for (bytes, kind) in expected {
            #expect(Disassembler(.long64).decode(bytes, at: .init(0))?.kind == kind)
        }
    }

    @Test func showsWhatIsNoInstruction() {
        let disassembler = Disassembler(.long64)
        #expect(disassembler.decode([], at: .init(0)) == nil)
        // 0x06 (PUSH ES) does not exist in 64-bit mode; E8 00 ends before its instruction does.
        let listing = disassembler.disassemble([0x06, 0x90, 0xE8, 0x00], at: .init(0x10))
        #expect(listing.map(\.text) == ["(bad)", "nop", "(bad)", "(bad)"])
        #expect(listing.map(\.address.rawValue) == [0x10, 0x11, 0x12, 0x13])
        #expect(disassembler.disassemble([0x90, 0x90, 0x90], at: .init(0), limit: 2).count == 2)
        #expect(disassembler.disassemble([0x90], at: .init(0), limit: 0).isEmpty)
    }

    @Test func wrapsAtTheEndOfTheAddressSpace() {
        let listing = Disassembler(.long64).disassemble([0x90, 0x90], at: .init(.max))
        #expect(listing.map(\.address.rawValue) == [.max, 0])
    }

    @Test func choosesTheWidthOfRegisters() {
        var registers = SystemRegisters()
        #expect(Disassembler(for: registers).width == .real16)
        registers[.cr0] = 1
        registers[.cs] = Segment(db: true)
        #expect(Disassembler(for: registers).width == .protected32)
        registers[.efer] = 1 << 10
        #expect(Disassembler(for: registers).width == .protected32)
        registers[.cs] = Segment(db: false)
        #expect(Disassembler(for: registers).width == .protected16)
        registers[.cs] = Segment(l: true)
        #expect(Disassembler(for: registers).width == .long64)
    }

    /// Whatever the bytes: every byte is listed once, in order, and lengths stay within bounds.
    @Test func takesAnyBytes() {
        var generator = SeededGenerator(seed: 1)
        for width in Disassembler.CodeWidth.allCases {
            for syntax in Disassembler.Syntax.allCases {
                let bytes = (0..<4096).map { _ in UInt8.random(in: 0...255, using: &generator) }
                let listing = Disassembler(width, syntax: syntax).disassemble(bytes, at: .init(0))
                #expect(listing.flatMap(\.bytes) == bytes)
                #expect(listing.allSatisfy { (1...15).contains($0.length) && !$0.text.isEmpty })
            }
        }
    }
}
