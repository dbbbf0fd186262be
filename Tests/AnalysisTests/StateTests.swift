import Machine
import Testing
import Trace

@testable import Analysis
@testable import Symbols

/// The registers of a guest in long mode, with something in each.
private func longMode() -> (GeneralRegisters, SystemRegisters) {
    var registers = GeneralRegisters()
    for register in Register.allCases {
        registers[register] = 0x0101_0101_0101_0101 &* UInt64(register.rawValue)
    }
    registers.rip = 0x10_0018
    registers.rflags = 0x3246
    var system = SystemRegisters()
    system[.cr0] = 0x8005_0033
    system[.cr2] = 0xFFFF_8000_0000_1000
    system[.cr3] = 0x1_2000
    system[.cr4] = 0x1006A0
    system[.cr8] = 3
    system[.efer] = 0xD01
    system[.apicBase] = 0xFEE0_0900
    for name in SystemRegisters.SegmentName.allCases {
        system[name] = Segment(
            limit: 0xFFFF_FFFF, selector: 0x18, type: 3, db: true, g: true)
    }
    system[.cs] = Segment(limit: 0xFFFF_FFFF, selector: 0x10, type: 11, l: true, g: true)
    system[.fs].base = 0x7FFF_F7D8_0740
    system[.gs] = Segment(selector: 0, unusable: true)
    system[.tr] = Segment(base: 0xFE00_0000_3000, limit: 0x206F, selector: 0x40, type: 11, s: false)
    system[.ldt] = Segment(type: 2, present: false, s: false)
    system.gdt = DescriptorTable(base: 0xFFFF_FE00_0000_1000, limit: 0x7F)
    system.idt = DescriptorTable(base: 0xFFFF_FE00_0000_0000, limit: 0xFFF)
    system.words[35] = 1 << 0x20
    return (registers, system)
}

/// As after reset.
private func realMode() -> (GeneralRegisters, SystemRegisters) {
    var registers = GeneralRegisters()
    registers.rip = 0xFFF0
    registers.rflags = 2
    var system = SystemRegisters()
    system[.cr0] = 0x6000_0010
    for name in SystemRegisters.SegmentName.allCases { system[name] = Segment() }
    system[.cs] = Segment(base: 0xFFFF_0000, selector: 0xF000, type: 11)
    return (registers, system)
}

/// A backtrace with everything that one can have.
private func backtrace() -> Backtrace {
    func frame(
        _ number: Int, _ address: UInt64, _ source: StackFrame.Source, isExact: Bool = false,
        _ name: SymbolizedAddress?
    ) -> StackFrame {
        var registers = GeneralRegisters()
        registers.rip = address
        return StackFrame(
            number: number, address: .init(address), lookupAddress: .init(address),
            canonicalFrameAddress: number == 0 ? 0x9000 : nil, registers: registers,
            knownRegisters: 1 << UInt32(Register.rip.rawValue), name: name, source: source,
            isExact: isExact)
    }
    func name(_ function: String, _ offset: UInt64, _ frames: [SourceFrame]) -> SymbolizedAddress {
        SymbolizedAddress(
            linkageName: function, function: function, offset: offset, image: "kernel",
            frames: frames)
    }
    func source(_ function: String, _ line: Int, isInlined: Bool = false) -> SourceFrame {
        SourceFrame(
            linkageName: function, file: "src/kernel.c", line: line, column: 5,
            isInlined: isInlined)
    }
    return Backtrace(
        frames: [
            frame(
                0, 0x10_0030, .registers, isExact: true,
                name(
                    "uart_put", 0x10,
                    [source("port_in", 12, isInlined: true), source("uart_put", 20)])),
            frame(1, 0x10_0088, .callFrameInformation, name("uart_write", 0x28, [])),
            frame(
                2, 0xFFFF_FFFF_8010_0548, .interruptReturn, isExact: true,
                name("work", 0x18, [source("work", 51)])),
            frame(3, 0x10_4000, .stackGuess, nil),
        ], end: .lost)
}

private func text(_ body: (OutputStream) -> Void) -> String {
    let stream = OutputStream()
    body(stream)
    return stream.text
}

private func json(_ body: (inout JSONWriter) -> Void) -> String {
    text {
        var json = JSONWriter($0)
        body(&json)
        json.endLine()
    }
}

/// Memory of 0x2000 bytes at 0x1000 and a page at 0x5000: each byte is the sum of its address's.
private func patterned(_ address: UInt64, _ count: Int) -> [UInt8] {
    (0..<UInt64(count)).map { address + $0 }.prefix {
        (0x1000..<0x3000).contains($0) || (0x5000..<0x6000).contains($0)
    }.map { UInt8(truncatingIfNeeded: $0 &+ $0 >> 8) }
}

@Suite struct StateTests {
    @Test(arguments: [(60, false), (100, false), (100, true)])
    func registersLookAsTheyDid(_ width: Int, _ colour: Bool) {
        let shown = text {
            var printer = RegisterText(
                $0, style: TextStyle(width: width, hasColour: colour), names: syntheticNames())
            for (registers, system) in [longMode(), realMode()] {
                printer.write(registers, system)
                $0.write("\n")
            }
        }
        expectSnapshot(shown, "registers-\(width)\(colour ? "-colour" : "").txt")
        if !colour {
            #expect(shown.split(separator: "\n").allSatisfy { $0.unicodeScalars.count <= width })
        }
    }

    @Test func registersAsJSON() {
        let (registers, system) = longMode()
        expectSnapshot(
            json { RegisterJSON.write(registers, system, names: syntheticNames(), to: &$0) },
            "registers.json")
    }

    @Test func flagsAreNamedAndWhatHasNoNameIsTold() {
        #expect(FlagNames.rflags.text(0x3246 & ~2) == "PF ZF IF IOPL=3")
        #expect(FlagNames.rflags.text(0) == "")
        #expect(FlagNames.cr0.text(0x8000_0033) == "PE MP ET NE PG")
        #expect(FlagNames.cr4.text(1 << 40 | 1 << 5) == "PAE 0x10000000000")
    }

    @Test(arguments: [(60, false), (100, false), (100, true)])
    func memoryLooksAsItDid(_ width: Int, _ colour: Bool) {
        let shown = text {
            var printer = MemoryText($0, style: TextStyle(width: width, hasColour: colour))
            printer.write(0x0FF0, count: 0x3B, read: patterned)
            $0.write("\n")
            printer.write(0x2FE8, count: 0x2030, read: patterned)
            $0.write("\n")
            printer.write(0x6000, count: 16, read: patterned)
        }
        expectSnapshot(shown, "memory-\(width)\(colour ? "-colour" : "").txt")
        #expect(colour || shown.split(separator: "\n").allSatisfy { $0.utf8.count <= width })
    }

    @Test func memoryAsJSON() {
        expectSnapshot(
            json { MemoryJSON.write(0x2FF8, count: 0x2010, to: &$0, read: patterned) },
            "memory.json")
    }

    @Test func memoryEndsWhereAddressesDo() {
        var pieces = MemoryPieces(.max - 7, count: 100)
        var asked: [Int] = []
        let read = { (_: UInt64, count: Int) -> [UInt8] in
            asked.append(count)
            return [UInt8](repeating: 1, count: count)
        }
        #expect(pieces.next(read) == .bytes(.max - 7, [UInt8](repeating: 1, count: 8)))
        #expect(pieces.next(read) == nil)
        #expect(asked == [8])
        var none = MemoryPieces(0x1000, count: 0)
        #expect(none.next(patterned) == nil)
        // A reader that gives more than it was asked for is not believed.
        var greedy = MemoryPieces(0x1000, count: 2)
        #expect(greedy.next { _, _ in [1, 2, 3, 4] } == .bytes(0x1000, [1, 2]))
        #expect(greedy.next { _, _ in [1, 2, 3, 4] } == nil)
    }

    @Test(arguments: [(60, false), (100, false), (100, true)])
    func disassemblyLooksAsItDid(_ width: Int, _ colour: Bool) {
        let listing = sampleListing()
        let shown = text {
            var printer = DisassemblyText(
                $0, style: TextStyle(width: width, hasColour: colour), names: syntheticNames())
            printer.write(listing, current: GuestVirtualAddress(0x10_0018))
        }
        expectSnapshot(shown, "disassembly-\(width)\(colour ? "-colour" : "").txt")
        #expect(
            colour || shown.split(separator: "\n").allSatisfy { $0.unicodeScalars.count <= width })
    }

    @Test func disassemblyAsJSON() {
        expectSnapshot(
            json { sampleListing().write(to: &$0, names: syntheticNames()) }, "disassembly.json")
    }

    private func sampleListing() -> DisassemblyListing {
        // push rbp; out dx, al; our OUT for rdtsc; a call; a bad byte; the end of memory.
        let code: [UInt8] = [
            0x55, 0xEE, 0xE6, 0x5A, 0xE8, 0xF3, 0xFF, 0xFF, 0xFF, 0x06, 0x0F,
        ]
        let originals = OriginalBytes([
            RewrittenSite(
                address: .init(0x1A), linearAddress: .init(0x10_0019), original: [0x0F, 0x31],
                replacement: [0xE6, 0x5A])
        ])
        return DisassemblyListing(
            GuestVirtualAddress(0x10_0017), count: 20, longMode().1, originals: originals
        ) { address, count in
            let offset = Int(address.rawValue - 0x10_0017)
            return Array(code.dropFirst(offset).prefix(count))
        }
    }

    @Test func originalBytesComeBackWhereTheReplacementStands() {
        let originals = OriginalBytes([
            RewrittenSite(
                address: .init(0x100), linearAddress: .init(0x8100), original: [0x0F, 0x31],
                replacement: [0xE6, 0x5A])
        ])
        func restored(_ bytes: [UInt8], _ address: UInt64) -> [UInt8] {
            var bytes = bytes
            originals.restore(&bytes, at: GuestPhysicalAddress(address))
            return bytes
        }
        #expect(restored([1, 0xE6, 0x5A, 2], 0xFF) == [1, 0x0F, 0x31, 2])
        #expect(restored([1, 0xE6], 0xFF) == [1, 0x0F])
        #expect(restored([0x5A, 2], 0x101) == [0x31, 2])
        #expect(restored([1, 0xE6, 0x5B, 2], 0xFF) == [1, 0xE6, 0x5B, 2])
        #expect(restored([0xE6, 0x5A], 0x8100) == [0xE6, 0x5A])
        #expect(restored([], 0x100) == [])
        var linear: [UInt8] = [0xE6, 0x5A]
        originals.restore(&linear, at: GuestVirtualAddress(0x8100))
        #expect(linear == [0x0F, 0x31])
        #expect(originals.isRewritten(GuestVirtualAddress(0x8100)))
        #expect(!originals.isRewritten(GuestVirtualAddress(0x8101)))
    }

    @Test(arguments: [(60, false), (100, false), (100, true)])
    func backtracesLookAsTheyDid(_ width: Int, _ colour: Bool) {
        let shown = text {
            var printer = BacktraceText($0, style: TextStyle(width: width, hasColour: colour))
            printer.write(backtrace())
        }
        expectSnapshot(shown, "backtrace-\(width)\(colour ? "-colour" : "").txt")
        #expect(
            colour || shown.split(separator: "\n").allSatisfy { $0.unicodeScalars.count <= width })
    }

    @Test func backtracesAsJSON() {
        expectSnapshot(json { backtrace().write(to: &$0) }, "backtrace.json")
    }
}
