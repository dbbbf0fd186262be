import Machine
import TestSupport
import Testing

@testable import Disassembly

@Suite struct CausingInstructionTests {
    private func out(
        _ size: Int, _ port: UInt16, dx: UInt16, isString: Bool? = nil
    ) -> CausingInstruction {
        .portAccess(.output, sizeInBytes: size, port: port, dx: dx, isString: isString)
    }

    private func length(
        _ bytes: [UInt8], _ cause: CausingInstruction, _ width: Disassembler.CodeWidth = .long64,
        startsAtInstruction: Bool = false
    ) -> Int? {
        Disassembler(width).lengthOfInstruction(
            endingIn: bytes, cause: cause, startsAtInstruction: startsAtInstruction)
    }

    @Test func findsPlainOutput() {
        #expect(length([0x90, 0xEE], out(1, 0x3F8, dx: 0x3F8)) == 1)
        #expect(length([0x90, 0xE6, 0x5A], out(1, 0x5A, dx: 0x3F8)) == 2)
        #expect(length([0x90, 0xE7, 0x80], out(4, 0x80, dx: 0)) == 2)
        #expect(length([0x90, 0x66, 0xE7, 0x80], out(2, 0x80, dx: 0)) == 3)
    }

    @Test func sizeTellsThePrefix() {
        #expect(length([0x90, 0x66, 0xEF], out(2, 1, dx: 1)) == 2)
        #expect(length([0x90, 0x66, 0xEF], out(4, 1, dx: 1)) == 1)
        #expect(length([0x90, 0x66, 0xEF], out(4, 1, dx: 1), .real16) == 2)
        #expect(length([0x90, 0xEF], out(2, 1, dx: 1), .real16) == 1)
    }

    @Test func refusesWhatTheExitDidNotDo() {
        #expect(length([0xEE], out(1, 0x3F8, dx: 0x3F9)) == nil)
        #expect(length([0xEE], out(4, 0x3F8, dx: 0x3F8)) == nil)
        #expect(length([0xEC], out(1, 0x3F8, dx: 0x3F8)) == nil)
        #expect(length([0xE6, 0x5A], out(1, 0x5B, dx: 0)) == nil)
        #expect(length([0xEE], out(1, 0x3F8, dx: 0x3F8, isString: true)) == nil)
        #expect(length([], out(1, 0x3F8, dx: 0x3F8)) == nil)
        #expect(length([0x90], .halt) == nil)
        #expect(length([0xF4], .halt) == 1)
    }

    @Test func findsStrings() {
        #expect(length([0x90, 0xF3, 0x6E], out(1, 0xE9, dx: 0xE9, isString: true)) == 2)
        #expect(length([0x90, 0x6E], out(1, 0xE9, dx: 0xE9, isString: true)) == 1)
        #expect(length([0x90, 0xF3, 0x66, 0x6F], out(2, 0xE9, dx: 0xE9)) == 3)
        #expect(length([0x90, 0x66, 0xF3, 0x6F], out(2, 0xE9, dx: 0xE9)) == 3)
        // F3 here ends `mov al, 0xF3`; the code before it says so.
        let code: [UInt8] = [0x48, 0x89, 0xC8, 0x48, 0x89, 0xD1, 0xB0, 0xF3, 0x6E]
        #expect(length(code, out(1, 0xE9, dx: 0xE9)) == 1)
    }

    /// `E6 EE` is one instruction, and its last byte alone is another, at the same port.
    @Test func whatStandsBeforeDecides() {
        let outImmediate: [UInt8] = [0x48, 0x89, 0xC8, 0x48, 0x83, 0xC0, 0x01, 0xE6, 0xEE]
        #expect(length(outImmediate, out(1, 0xEE, dx: 0xEE)) == 2)
        #expect(length(outImmediate, out(1, 0xEE, dx: 0xEE), startsAtInstruction: true) == 2)
        let outDX: [UInt8] = [0x48, 0x89, 0xC8, 0x48, 0x83, 0xC0, 0x01, 0xB0, 0xE6, 0xEE]
        #expect(length(outDX, out(1, 0xEE, dx: 0xEE)) == 1)
        #expect(length(outDX, out(1, 0xEE, dx: 0xEE), startsAtInstruction: true) == 1)
        #expect(length(outImmediate, out(1, 0xEE, dx: 0x3F8)) == 2)
    }

    @Test func findsWritesToMemory() {
        // mov dword [rdi+0x10], 1
        let store: [UInt8] = [0x90, 0x90, 0x90, 0x90, 0xC7, 0x47, 0x10, 1, 0, 0, 0]
        #expect(length(store, .memoryWrite(sizeInBytes: 4)) == 7)
        #expect(length(store, .memoryWrite(sizeInBytes: 8)) == nil)
        #expect(length([0x90, 0x48, 0xAB], .memoryWrite(sizeInBytes: 8)) == 2)
        // lea only computes an address.
        #expect(length([0x48, 0x8D, 0x07], .memoryWrite(sizeInBytes: 8)) == nil)
    }

    /// The bytes of one compiled function: from its start, every instruction's end must lead
    /// back to that instruction, and mostly so where the start is not known.
    @Test func agreesWithALinearListing() {
        let disassembler = Disassembler(.long64)
        let code = CodeSamples.uartWrite
        var end = 0
        var right = 0
        let listing = disassembler.disassemble(code, at: .init(0))
        #expect(listing.allSatisfy { $0.kind != .bad })
        for instruction in listing {
            end += instruction.length
            let before = Array(code[..<end])
            #expect(length(before, .any, startsAtInstruction: true) == instruction.length)
            if length(before, .any) == instruction.length { right += 1 }
        }
        #expect(right * 10 >= listing.count * 9, "\(right) of \(listing.count)")
    }

    /// The answer is nil exactly where no length from 1 to 15 gives an instruction that fits.
    @Test func missesNoCandidate() {
        var generator = SeededGenerator(seed: 3)
        let bytes: [UInt8] = [
            0xE4, 0xE6, 0xE7, 0xEC, 0xEE, 0xEF, 0x6C, 0x6E, 0x6F, 0xF4, 0x66, 0x67, 0xF2, 0xF3,
            0x48, 0x2E, 0xF0, 0x90, 0x0F, 0xC4, 0x62, 0xD5,
        ]
        for width in Disassembler.CodeWidth.allCases {
            let disassembler = Disassembler(width)
            for _ in 0..<2000 {
                let count = Int.random(in: 1...20, using: &generator)
                let code = (0..<count).map { _ in bytes.randomElement(using: &generator) ?? 0 }
                var fitting: [Int] = []
                for length in 1...min(15, count) {
                    guard
                        let one = disassembler.decode(Array(code.suffix(length)), at: .init(0)),
                        one.length == length, let access = one.portAccess,
                        access.direction == .output, access.sizeInBytes == 1,
                        (access.port ?? 0xEE) == 0xEE
                    else { continue }
                    fitting.append(length)
                }
                let found = length(code, out(1, 0xEE, dx: 0xEE), width)
                #expect(found.map(fitting.contains) ?? fitting.isEmpty)
            }
        }
    }

    @Test func takesAnyBytes() {
        var generator = SeededGenerator(seed: 2)
        for width in Disassembler.CodeWidth.allCases {
            for _ in 0..<300 {
                let count = Int.random(in: 0...100, using: &generator)
                let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
                for cause in [
                    out(1, 0xE9, dx: 0xE9), .memoryWrite(sizeInBytes: 4), .halt, .any,
                ] {
                    if let found = length(bytes, cause, width) {
                        #expect(found >= 1 && found <= min(15, count))
                    }
                }
            }
        }
    }
}

@Suite struct CodeScanTests {
    @Test func findsEachInStep() {
        // mov eax, 0xA20F310F; rdtsc; cpuid; rdtscp; rdrand eax; rdseed rax; a bad byte; rdtsc
        let code: [UInt8] = [
            0xB8, 0x0F, 0x31, 0x0F, 0xA2, 0x0F, 0x31, 0x0F, 0xA2, 0x0F, 0x01, 0xF9,
            0x0F, 0xC7, 0xF0, 0x48, 0x0F, 0xC7, 0xF8, 0x06, 0x0F, 0x31,
        ]
        let found = Disassembler(.long64).occurrences(
            of: [.rdtsc, .cpuid, .rdtscp, .rdrand, .rdseed], in: code)
        #expect(
            found == [
                Occurrence(offset: 5, length: 2, kind: .rdtsc),
                Occurrence(offset: 7, length: 2, kind: .cpuid),
                Occurrence(offset: 9, length: 3, kind: .rdtscp),
                Occurrence(offset: 12, length: 3, kind: .rdrand),
                Occurrence(offset: 15, length: 4, kind: .rdseed),
                Occurrence(offset: 20, length: 2, kind: .rdtsc),
            ])
        #expect(Disassembler(.long64).occurrences(of: [.rdtsc], in: []).isEmpty)
    }
}
