import Testing

@testable import Guest

@Suite struct GzipTests {
    let kernel = SampleELF(at: 0x10_0000).bytes

    func unpack(_ bytes: [UInt8], limit: Int = 1 << 20) throws(GuestError) -> [UInt8] {
        try Gzip.unpack(GuestFile(name: "image", bytes: bytes), limit: limit)
    }

    @Test func packedImagesAreTheImage() throws {
        let plan = try plan(gzip(kernel, name: "kernel"))
        #expect(plan.kind == .elf64)
        #expect(plan.image == kernel)
        // The trace keeps the file as it was.
        #expect(plan.records[0].bytes == gzip(kernel, name: "kernel"))
    }

    @Test func membersAreJoinedAndTrailersIgnored() throws {
        #expect(try unpack(gzip([1, 2]) + gzip([3])) == [1, 2, 3])
        #expect(try unpack(gzip([1, 2]) + [0, 0, 0, 9]) == [1, 2])
        let long = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        #expect(try unpack(gzip(long)) == long)
    }

    @Test func everyTruncationIsAnError() {
        let packed = gzip([1, 2, 3, 4])
        for length in 3..<packed.count {
            #expect(failure(Array(packed[..<length]))?.kind == .truncated, "\(length)")
        }
    }

    @Test func damageIsAnError() {
        var packed = gzip(kernel)
        packed[packed.count - 8] ^= 1  // the checksum
        #expect(failure(packed)?.kind == .malformed)
    }

    @Test func outputIsBounded() throws {
        let zeroes = [UInt8](repeating: 0, count: 70_000)
        #expect(throws: GuestError.self) { try unpack(gzip(zeroes), limit: 69_999) }
        #expect(try unpack(gzip(zeroes), limit: 70_000).count == 70_000)
        #expect(failure(gzip(zeroes), ram: 64 << 10)?.kind == .tooBig)
        #expect(failure(gzip([]))?.kind == .empty)
    }
}
