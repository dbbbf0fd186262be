import Machine
import Testing

@testable import Disassembly

@Suite struct CallSiteTests {
    private func endsInCall(
        _ bytes: [UInt8], _ width: Disassembler.CodeWidth = .long64
    ) -> Bool {
        // NOPs before it: as many bytes as are looked at.
        Disassembler(width).endsInCall([UInt8](repeating: 0x90, count: 8) + bytes)
    }

    @Test(
        arguments: [
            [0xE8, 1, 2, 3, 4], [0xFF, 0xD0], [0x41, 0xFF, 0xD4], [0xFF, 0x10], [0xFF, 0x50, 8],
            [0xFF, 0x54, 0x24, 8], [0xFF, 0x15, 1, 2, 3, 4], [0xFF, 0x14, 0x25, 1, 2, 3, 4],
            [0xFF, 0x94, 0xC8, 1, 2, 3, 4],
        ] as [[UInt8]])
    func `every form of a call is one`(_ bytes: [UInt8]) { #expect(endsInCall(bytes)) }

    @Test func `how long a call is depends on the code's width`() {
        #expect(endsInCall([0xE8, 1, 2], .real16))
        #expect(!endsInCall([0xE8, 1, 2]))
        #expect(endsInCall([0xFF, 0x16, 1, 2], .real16))
        #expect(endsInCall([0x9A, 1, 2, 3, 4], .real16))
        #expect(endsInCall([0x9A, 1, 2, 3, 4, 5, 6], .protected32))
        #expect(!endsInCall([0x9A, 1, 2, 3, 4, 5, 6]))
    }

    @Test(
        arguments: [
            // A jump, a call's opcode that ends elsewhere, half a call, FF /2 with bytes too many.
            [0xE9, 1, 2, 3, 4], [0xE8, 1, 2, 3, 4, 0x90], [0xE8, 1, 2, 3], [0xFF, 0xD0, 0x90],
            [0xFF, 0xE0], [0x90],
        ] as [[UInt8]])
    func `what does not end in one is none`(_ bytes: [UInt8]) { #expect(!endsInCall(bytes)) }

    @Test func `too little code is none`() {
        #expect(!Disassembler(.long64).endsInCall([0xFF, 0xD0]))
        #expect(!Disassembler(.long64).endsInCall([]))
    }
}
