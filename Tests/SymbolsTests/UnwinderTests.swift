import Machine
import TestSupport
import Testing

@testable import Symbols

/// A guest made of pieces of code and of stack.
private struct MadeGuest {
    private var pieces: [(address: UInt64, bytes: [UInt8])] = []
    var registers = GeneralRegisters()
    var system = SystemRegisters()
    let symbolizer = Symbolizer()
    let wordSize: Int

    /// 64-bit code, or flat 32-bit code.
    init(is64Bit: Bool = true) {
        wordSize = is64Bit ? 8 : 4
        system[.cr0] = 0x8000_0011
        system[.efer] = is64Bit ? 0x500 : 0
        system[.cs] = Segment(
            limit: .max, selector: 0x10, type: 11, db: !is64Bit, l: is64Bit, g: true)
        system[.ss] = Segment(limit: .max, selector: 0x18, type: 3, db: true, g: true)
        registers[.rsp] = 0x8000
        registers[.rbp] = 0x1
    }

    mutating func code(_ address: UInt64, _ bytes: [UInt8]) { pieces.append((address, bytes)) }

    /// A call at an address to another; the return address is five bytes on.
    mutating func call(_ address: UInt64, _ target: UInt64) {
        let distance = target &- (address + 5)
        code(address, [0xE8] + (0..<4).map { UInt8(truncatingIfNeeded: distance >> ($0 * 8)) })
    }

    mutating func stack(_ address: UInt64, _ words: [UInt64]) {
        var bytes: [UInt8] = []
        for word in words {
            bytes += (0..<wordSize).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) }
        }
        pieces.append((address, bytes))
    }

    /// Names for functions.
    func symbols(_ names: [(String, UInt64)]) throws {
        let text = names.map { "\(String($0.1, radix: 16)) T \($0.0)\n" }.joined()
        symbolizer.add(try SymbolImage(map: Array(text.utf8), name: "System.map"))
    }

    private func byte(_ address: UInt64) -> UInt8? {
        for piece in pieces.reversed() {
            let offset = address &- piece.address
            if offset < UInt64(piece.bytes.count) { return piece.bytes[Int(offset)] }
        }
        // Pages that have anything are there; 0xCC is an instruction, and no call.
        return pieces.contains { $0.address >> 12 == address >> 12 } ? 0xCC : nil
    }

    func backtrace(limit: Int = 100) -> Backtrace {
        Unwinder(symbolizer, limit: limit).backtrace(registers, system) { address, count in
            var bytes: [UInt8] = []
            for index in 0..<UInt64(count) {
                guard let byte = byte(address.rawValue &+ index) else { break }
                bytes.append(byte)
            }
            return bytes
        }
    }

    /// Addresses and how they were found.
    func found(limit: Int = 100) -> [String] {
        backtrace(limit: limit).frames.map {
            "\(String($0.address.rawValue, radix: 16)) \($0.source.rawValue)"
        }
    }
}

@Suite struct UnwinderTests {
    @Test func epiloguesAreFollowed() {
        var guest = MadeGuest()
        // pop rbx between two adds; a branch back, and one over the end: both ways are tried.
        guest.code(
            0x1000,
            [
                0x75, 0xFE,  // jne to itself
                0x48, 0x83, 0xC4, 0x10,  // add rsp, 16
                0x5B,  // pop rbx
                0xC3,
            ])
        guest.call(0x1100, 0x1000)
        guest.code(0x1105, [0x5D, 0xC2, 0x08, 0x00])  // pop rbp; ret 8
        guest.call(0x1200, 0x1100)
        guest.code(0x1205, [0xF4, 0xEB, 0xFD])  // hlt; jmp to it
        guest.registers.rip = 0x1000
        guest.stack(0x8000, [1, 2, 0x77, 0x1105, 0, 0x1205, 9, 9])
        let backtrace = guest.backtrace()
        #expect(guest.found() == ["1000 registers", "1105 code", "1205 code"])
        #expect(backtrace.frames[1][.rbx] == 0x77)
        #expect(backtrace.frames[1][.rsp] == 0x8020)
        #expect(backtrace.frames[0].canonicalFrameAddress == 0x8020)
        #expect(backtrace.frames[2][.rsp] == 0x8020 + 16 + 8)
        #expect(backtrace.frames[1].lookupAddress.rawValue == 0x1104)
        #expect(!backtrace.frames[1].isExact)
        // The last frame's RBP is zero: nothing called it.
        #expect(backtrace.end == .outermost)
    }

    @Test func valuesKeptOnTheWayAreThoseThatComeBack() {
        var guest = MadeGuest()
        guest.code(
            0x1000,
            [
                0x53,  // push rbx
                0x48, 0x89, 0x6C, 0x24, 0xF8,  // mov [rsp-8], rbp
                0xE8, 0, 0, 0, 0,  // call: destroys rax
                0x31, 0xDB,  // xor ebx, ebx
                0x5B,  // pop rbx
                0xC3,
            ])
        guest.call(0x1100, 0x1000)
        guest.registers.rip = 0x1000
        guest.registers[.rbx] = 0x1234
        guest.registers[.rax] = 5
        guest.stack(0x8000, [0x1105])
        let frames = guest.backtrace().frames
        #expect(frames.count >= 2)
        #expect(frames[1].source == .followedCode)
        #expect(frames[1][.rbx] == 0x1234)
        #expect(frames[1][.rax] == nil)
    }

    @Test func framesAreFoundAtEveryInstructionOfAPrologue() throws {
        // push rbp; mov rbp, rsp; push rbx; then code that is not followed.
        let body: [UInt8] = [0x55, 0x48, 0x89, 0xE5, 0x53, 0xFF, 0xE0]
        for (at, source) in [
            (0, "entry"), (1, "entry"), (4, "frame-pointer"), (5, "frame-pointer"),
        ]
            as [(UInt64, String)]
        {
            var guest = MadeGuest()
            try guest.symbols([("leaf", 0x1000), ("caller", 0x1100)])
            guest.code(0x1000, body)
            guest.call(0x1110, 0x1000)
            guest.code(0x1115, [0xFF, 0xE0])
            guest.registers.rip = 0x1000 + at
            // The stack as it is after so much of the prologue; the caller's RBP is 0x9000.
            guest.stack(0x7FF0, [0xBB, 0x9000, 0x1115, 1, 0])
            guest.registers[.rsp] = [0: 0x8000, 1: 0x7FF8, 4: 0x7FF8, 5: 0x7FF0][at] ?? 0
            guest.registers[.rbp] = at < 4 ? 0x9000 : 0x7FF8
            let frames = guest.backtrace().frames
            #expect(frames.count >= 2, "at \(at)")
            guard frames.count >= 2 else { continue }
            #expect(frames[1].address.rawValue == 0x1115)
            #expect(frames[1].source.rawValue == source)
            #expect(frames[1][.rsp] == 0x8008)
            #expect(frames[1][.rbp] == 0x9000)
            #expect(frames[1].name?.site == "caller+0x15")
        }
    }

    @Test func framePointersLeadToTheEnd() {
        var guest = MadeGuest()
        for index in 0..<5 as Range<UInt64> {
            guest.call(0x1000 + index * 0x10, 0x1000)
            guest.code(0x1005 + index * 0x10, [0xFF, 0xE0])
        }
        guest.registers.rip = 0x1005
        guest.registers[.rbp] = 0x8010
        guest.stack(0x8010, [0x8030, 0x1015, 7, 7, 0x8050, 0x1025, 7, 7, 0, 0x1035])
        #expect(
            guest.found() == [
                "1005 registers", "1015 frame-pointer", "1025 frame-pointer",
                "1035 frame-pointer",
            ])
        #expect(guest.backtrace().end == .outermost)
        #expect(guest.backtrace(limit: 2).end == .limit)
        #expect(guest.backtrace(limit: 2).frames.count == 2)
        // A chain that leads down is none.
        guest.stack(0x8030, [0x8010])
        #expect(guest.found().count == 3)
        #expect(guest.backtrace().end == .lost)
    }

    @Test func chainsThatLeadInCirclesEnd() {
        var guest = MadeGuest()
        guest.call(0x1000, 0x1000)
        guest.code(0x1005, [0xFF, 0xE0])
        guest.registers.rip = 0x1005
        guest.registers[.rbp] = 0x8010
        guest.stack(0x8010, [0x8010, 0x1005])
        let backtrace = guest.backtrace(limit: 4096)
        #expect(backtrace.frames.count < 4)
    }

    @Test(arguments: [false, true])
    func interruptedCodeIsFound(hasErrorCode: Bool) {
        var guest = MadeGuest()
        // The handler: saves two registers, calls, and returns from the interrupt.
        guest.code(0x1000, [0x50, 0x55])
        guest.call(0x1002, 0x2000)
        guest.code(
            0x1007, [0x5D, 0x58] + (hasErrorCode ? [0x48, 0x83, 0xC4, 0x08] : []) + [0x48, 0xCF])
        guest.code(0x2000, [0xC3])
        guest.code(0x3000, [0x90, 0xFF, 0xE0])
        guest.registers.rip = 0x2000
        let code: [UInt64] = hasErrorCode ? [0x14] : []
        guest.stack(
            0x8000, [0x1007, 0x5555, 0x6666] + code + [0x3001, 0x10, 0x246, 0x9000, 0x18])
        guest.stack(0x9000, [0, 0])
        let frames = guest.backtrace().frames
        #expect(guest.found().prefix(3) == ["2000 registers", "1007 entry", "3001 iret"])
        guard frames.count >= 3 else { return }
        #expect(frames[2].isExact)
        #expect(frames[2].lookupAddress.rawValue == 0x3001)
        #expect(frames[2][.rbp] == 0x5555)
        #expect(frames[2][.rax] == 0x6666)
        #expect(frames[2][.rsp] == 0x9000)
        #expect(frames[2][.rflags] == 0x246)
    }

    @Test func whatCannotBeFollowedIsGuessedAndSaidToBe() {
        var guest = MadeGuest()
        guest.code(0x1000, [0xFF, 0xE0])  // jmp rax
        guest.code(0x3000, [0x90, 0xFF, 0xE0])
        guest.registers.rip = 0x1000
        guest.stack(0x8000, [1, 2, 3, 0x3001, 0x10, 0x246, 0x9000, 0x18])
        guest.stack(0x9000, [1, 0])
        let backtrace = guest.backtrace()
        #expect(guest.found() == ["1000 registers", "3001 interrupt-guess"])
        #expect(backtrace.frames.last?.source.isGuess == true)
        #expect(backtrace.end == .lost)
        #expect(backtrace.endText != nil)
        // Flags that no CPU has, a selector that is no code, code that is none.
        for (index, value) in [(5, 0x244), (5, 0x8246), (4, 0x18), (3, 0x5000)] as [(Int, UInt64)] {
            var words: [UInt64] = [1, 2, 3, 0x3001, 0x10, 0x246, 0x9000, 0x18]
            words[index] = value
            guest.stack(0x8000, words)
            #expect(guest.found() == ["1000 registers"])
        }
        guest.call(0x3100, 0x1000)
        guest.stack(0x8000, [0x3105, 0, 0, 0, 0, 0, 0, 0])
        #expect(guest.found() == ["1000 registers", "3105 guess"])
    }

    @Test func thirtyTwoBitCodeIsFollowed() {
        var guest = MadeGuest(is64Bit: false)
        // An interrupt handler of the 32-bit kind: pusha, push ds, and back.
        guest.code(0x1000, [0x60, 0x1E])
        guest.call(0x1002, 0x2000)
        guest.code(0x1007, [0x1F, 0x61, 0xCF])
        guest.code(0x2000, [0x89, 0xEC, 0x5D, 0xC3])  // mov esp, ebp; pop ebp; ret
        guest.code(0x3000, [0x5D, 0xC3])
        guest.call(0x3100, 0x3000)
        guest.code(0x3105, [0xF4, 0xEB, 0xFD])
        guest.registers.rip = 0x2000
        guest.registers[.rbp] = 0x8000
        guest.registers[.rsp] = 0x7FE0
        guest.stack(
            0x8000,
            [0x9999, 0x1007, 0x18] + [1, 2, 0, 4, 5, 6, 7, 8] + [0x3000, 0x10, 0x202]
                + [0, 0x3105])
        let frames = guest.backtrace().frames
        #expect(
            guest.found() == ["2000 registers", "1007 code", "3000 iret", "3105 code"])
        guard frames.count == 4 else { return }
        // POPAD: edi, esi, ebp, -, ebx, edx, ecx, eax.
        #expect(frames[2][.rbp] == 0)
        #expect(frames[2][.rdi] == 1)
        #expect(frames[2][.rax] == 8)
        #expect(frames[2][.rsp] == 0x8000 + 14 * 4)
        #expect(guest.backtrace().end == .outermost)
    }

    @Test func interruptsFromAnotherSegmentTakeItsWidth() {
        var guest = MadeGuest()
        guest.code(0x1000, [0x48, 0xCF])
        guest.system.gdt = DescriptorTable(base: 0x5000, limit: 0x37)
        // 0x20: 32-bit code of ring 3; 0x28: data.
        guest.stack(
            0x5000, [0, 0, 0, 0, 0x00CF_FA00_0000_FFFF, 0x00CF_F200_0000_FFFF, 0])
        guest.registers.rip = 0x1000
        guest.stack(0x8000, [0x3000, 0x23, 0x202, 0x9000, 0x2B])
        guest.code(0x3000, [0x5D, 0xC3])
        guest.call(0x3100, 0x3000)
        guest.code(0x3105, [0xF4, 0xEB, 0xFD])
        // A stack of 32-bit words.
        guest.code(0x9000, [0, 0, 0, 0, 0x05, 0x31, 0, 0])
        #expect(guest.found() == ["1000 registers", "3000 iret", "3105 code"])
        // Data is no code, and beyond the table there is nothing.
        for selector in [0x2B, 0x3B, 0x27] as [UInt64] {
            guest.stack(0x8000, [0x3000, selector, 0x202, 0x9000, 0x2B])
            #expect(guest.found() == ["1000 registers"])
        }
    }

    @Test func realModeHasOneFrame() {
        var guest = MadeGuest(is64Bit: false)
        guest.system[.cr0] = 0x10
        guest.system[.cs] = Segment(base: 0xF0000, selector: 0xF000, type: 11)
        guest.registers.rip = 0xE05B
        let backtrace = guest.backtrace()
        #expect(backtrace.frames.map(\.address.rawValue) == [0xFE05B])
        #expect(backtrace.end == .sixteenBit)
    }

    @Test func memoryThatIsNotThereEndsABacktrace() {
        var guest = MadeGuest()
        guest.code(0x1000, [0xFF, 0xE0])
        guest.registers.rip = 0x1000
        guest.registers[.rsp] = 0xFFFF_8000_0000_0000
        #expect(guest.backtrace().end == .unreadable(.init(0xFFFF_8000_0000_0000)))
        guest.registers.rip = 0xFFFF_FFFF_FFFF_FFFF
        guest.registers[.rsp] = .max
        guest.registers[.rbp] = .max
        #expect(guest.backtrace().frames.count == 1)
    }

    /// Whatever stands in registers, code and stack: an answer, within the bound.
    @Test func anythingIsSurvived() throws {
        var generator = SeededGenerator(seed: 2026)
        let image = try Fixture.kernel64.image()
        for round in 0..<400 {
            var guest = MadeGuest(is64Bit: round % 3 != 0)
            if round % 2 == 0 { guest.symbolizer.add(image) }
            let base: UInt64 = round % 2 == 0 ? 0xFFFF_FFFF_8010_0000 : 0x1000
            guest.code(base, (0..<512).map { _ in .random(in: 0...255, using: &generator) })
            guest.stack(
                0x8000,
                (0..<256).map { _ in
                    let pick = UInt64.random(in: 0..<4, using: &generator)
                    if pick == 0 { return base + .random(in: 0..<512, using: &generator) }
                    if pick == 1 { return 0x8000 + .random(in: 0..<512, using: &generator) * 8 }
                    return pick == 2 ? 0x10 : .random(in: 0...UInt64.max, using: &generator)
                })
            for register in Register.allCases {
                guest.registers[register] = 0x8000 + .random(in: 0..<2048, using: &generator)
            }
            guest.registers.rip = base + .random(in: 0..<512, using: &generator)
            let backtrace = guest.backtrace(limit: 64)
            #expect((1...64).contains(backtrace.frames.count))
        }
    }
}
