import Machine
import Testing

@testable import Disassembly

/// What instructions touch; the expected pieces are those of the Intel SDM vol. 2.
@Suite struct MemoryAccessTests {
    private func pieces(
        _ bytes: [UInt8], _ width: Disassembler.CodeWidth = .long64
    ) throws -> [String] {
        let accesses = try #require(Disassembler(width).decodeAccesses(bytes))
        return accesses.pieces.map { piece in
            let base = piece.reference.base?.name ?? "-"
            let rights = (piece.isRead ? "r" : "") + (piece.isWrite ? "w" : "")
            return "\(rights) \(base)\(piece.reference.displacement < 0 ? "" : "+")"
                + "\(piece.reference.displacement) \(piece.byteCount) \(piece.role)"
        }
    }

    static let known: [([UInt8], [String])] = [
        ([0x48, 0x8B, 0x43, 0x08], ["r rbx+8 8 operand"]),  // mov rax, [rbx+8]
        ([0x89, 0x03], ["w rbx+0 4 operand"]),  // mov [rbx], eax
        ([0x48, 0xFF, 0x03], ["rw rbx+0 8 operand"]),  // inc qword [rbx]
        ([0x50], ["w rsp-8 8 push"]),  // push rax
        ([0xFF, 0x33], ["r rbx+0 8 operand", "w rsp-8 8 push"]),  // push qword [rbx]
        ([0x8F, 0x44, 0x24, 0x08], ["w rsp+16 8 operand", "r rsp+0 8 pop"]),  // pop [rsp+8]
        ([0xE8, 0, 0, 0, 0], ["w rsp-8 8 push"]),  // call
        ([0xC3], ["r rsp+0 8 pop"]),  // ret
        ([0xC9], ["r rbp+0 8 pop"]),  // leave
        ([0xC8, 0, 0, 2], ["w rsp-24 24 push", "r rbp-8 8 pop"]),  // enter 0, 2
        ([0x48, 0xCF], ["r rsp+0 40 pop"]),  // iretq
        ([0xF3, 0xA4], ["w rdi+0 1 string", "r rsi+0 1 string"]),  // rep movsb
        ([0xA6], ["r rsi+0 1 string", "r rdi+0 1 string"]),  // cmpsb
        ([0xD7], ["r rbx+0 1 table"]),  // xlat
        ([0xF0, 0x48, 0x0F, 0xB1, 0x11], ["rw rcx+0 8 operand"]),  // lock cmpxchg [rcx], rdx
        ([0x0F, 0xAE, 0x00], ["w rax+0 512 operand"]),  // fxsave [rax]
        ([0x48, 0x8D, 0x03], []),  // lea rax, [rbx]
        ([0x0F, 0x1F, 0x00], []),  // nop [rax]
        ([0x0F, 0x18, 0x08], []),  // prefetcht0 [rax]
        ([0x0F, 0x01, 0x38], []),  // invlpg [rax]
        ([0x90], []),
    ]

    @Test(arguments: known)
    func `each instruction touches what the manual says`(
        _ bytes: [UInt8], _ expected: [String]
    ) throws {
        #expect(try pieces(bytes) == expected)
    }

    @Test func `bit strings, repetition and widths are told`() throws {
        let bit = try #require(Disassembler(.long64).decodeAccesses([0x48, 0x0F, 0xA3, 0x18]))
        #expect(bit.pieces.first?.bitIndex == .rbx)
        let stores = try #require(Disassembler(.long64).decodeAccesses([0xF3, 0x48, 0xAB]))
        #expect(stores.isRepeated)
        #expect(stores.length == 3)
        let real = try #require(Disassembler(.real16).decodeAccesses([0x50]))
        #expect(real.addressWidth == 16)
        #expect(real.pieces.first?.byteCount == 2)
        #expect(Disassembler(.long64).decodeAccesses([]) == nil)
        #expect(Disassembler(.long64).decodeAccesses([0x06]) == nil)
        // vpgatherdd xmm0, [rax+xmm1], xmm2: addresses by a vector.
        #expect(
            Disassembler(.long64).decodeAccesses([0xC4, 0xE2, 0x69, 0x90, 0x04, 0x08]) == nil)
    }
}
