import Disassembly
import Machine
import Testing

@testable import Execution

/// Jumps that are gone behind without the CPU.
@Suite struct NearJumpTests {
    private static let disassembler = Disassembler(.long64)
    private static let flags: [UInt64] = [
        FlagBits.carry, FlagBits.parity, FlagBits.zero, FlagBits.sign, FlagBits.overflow,
    ]

    @Test(
        arguments: [
            ([0xEB, 0xFE], 0x1000), ([0xEB, 0x7F], 0x1081),
            ([0xE9, 0, 0, 0, 0x80], 0xFFFF_FFFF_8000_1005),
            ([0xE9, 4, 3, 2, 1], 0x0102_1309),
        ] as [([UInt8], UInt64)])
    func `a jump leads where its displacement says`(code: [UInt8], target: UInt64) throws {
        let jump = try #require(NearJump(code + [0x90, 0x90], at: 0x1000, Self.disassembler))
        #expect(jump.destination(flags: 0) == target)
    }

    /// Every condition with every state of the flags it reads, against its definition
    /// (Intel SDM vol. 1, appendix B).
    @Test(arguments: 0..<16 as Range<UInt8>)
    func `a condition is the CPU's`(condition: UInt8) throws {
        let short = try #require(NearJump([0x70 | condition, 0x10], at: 0x2000, Self.disassembler))
        let code: [UInt8] = [0x0F, 0x80 | condition, 0xF0, 0xFF, 0xFF, 0xFF]
        let long = try #require(NearJump(code, at: 0x2000, Self.disassembler))
        for choice in 0..<32 {
            let set = Self.flags.indices.filter { choice >> $0 & 1 != 0 }
            let (cf, pf, zf, sf, of) = (
                set.contains(0), set.contains(1), set.contains(2), set.contains(3), set.contains(4)
            )
            let isTaken = [
                of, !of, cf, !cf, zf, !zf, cf || zf, !cf && !zf, sf, !sf, pf, !pf, sf != of,
                sf == of,
                zf || sf != of, !zf && sf == of,
            ][Int(condition)]
            let value = set.reduce(0x202) { $0 | Self.flags[$1] }
            #expect(short.destination(flags: value) == (isTaken ? 0x2012 : 0x2002))
            #expect(long.destination(flags: value) == (isTaken ? 0x1FF6 : 0x2006))
        }
    }

    @Test(
        arguments: [
            [], [0xEB], [0x0F], [0x0F, 0x84, 1, 2, 3], [0x66, 0xE9, 0, 0, 0, 0], [0xE3, 0x10],
            [0xE2, 0xFE], [0xFF, 0xE0], [0xC3], [0x0F, 0x05], [0xCC], [0x3E, 0x74, 0x00],
        ] as [[UInt8]])
    func `nothing else is one`(code: [UInt8]) {
        #expect(NearJump(code, at: 0x1000, Self.disassembler) == nil)
    }
}
