import TestSupport
import Testing
import Trace

@testable import Analysis

private func select(
    _ reader: TraceReader, _ range: ClosedRange<UInt64>? = nil, _ filter: String? = nil
) throws -> (numbers: [UInt64], read: UInt64) {
    var selection = ExitSelection(
        reader, range: range, filter: try filter.map { try Filter($0) }, names: syntheticNames())
    var frame = ExitFrame()
    var numbers: [UInt64] = []
    while try selection.next(into: &frame) { numbers.append(frame.number) }
    return (numbers, selection.readCount)
}

@Test func exitsAreSelected() throws {
    let directory = try TemporaryDirectory()
    let reader = try TraceReader(
        path: writePolling("\(directory.path)/a.vmtape", exits: 20_000))
    #expect(try select(reader).numbers == Array(0..<20_000))
    #expect(try select(reader, 5...9).numbers == [5, 6, 7, 8, 9])
    #expect(try select(reader, 19_998...50_000).numbers == [19_998, 19_999])
    #expect(try select(reader, 20_000...50_000).numbers == [])
    #expect(
        try select(reader, 4090...4100, "dir == out").numbers == [4091, 4093, 4095, 4097, 4099])
    #expect(try select(reader, 0...10, "exit in 8..20").numbers == [8, 9, 10])
    #expect(try select(reader, 0...10, "exit in 11..20").numbers == [])
    #expect(try select(reader, nil, "exit > 5 and exit < 5").numbers == [])
    #expect(try select(reader, nil, "symbol ~ \"putc\" and exit >= 19999").numbers == [19_999])
}

@Test func blocksThatCannotMatchAreNotRead() throws {
    let directory = try TemporaryDirectory()
    let reader = try TraceReader(
        path: writePolling("\(directory.path)/a.vmtape", exits: 20_000))
    let far = try select(reader, nil, "exit == 3 or exit == 17000")
    #expect(far.numbers == [3, 17_000])
    // The first block whole, one exit of the second, and the fifth up to the exit.
    #expect(far.read < 4096 + 1 + 1000)
    let one = try select(reader, nil, "exit == 17000")
    #expect(one.read == 1)
    let before = reader.statistics.bytes
    _ = try select(reader, nil, "exit in 9000..9001 and dir == in")
    #expect(reader.statistics.bytes - before < 3000)
}

@Test func damageIsToldAndPassedOver() throws {
    let directory = try TemporaryDirectory()
    let path = try writePolling("\(directory.path)/a.vmtape", exits: 20_000)
    var bytes = try #require(readBytes(path))
    let whole = try TraceReader(bytes: bytes)
    let block = try whole.summary(ofBlock: 2)
    bytes[Int(block.offset) + block.storedBytes / 2] ^= 0xFF
    let broken = try TraceReader(bytes: bytes)
    for range in [nil, 8200...20_000] as [ClosedRange<UInt64>?] {
        var selection = ExitSelection(broken, range: range)
        var frame = ExitFrame()
        var numbers: [UInt64] = []
        var errors: [TraceError] = []
        reading: while errors.count < 3 {
            do throws(TraceError) {
                while try selection.next(into: &frame) { numbers.append(frame.number) }
                break reading
            } catch { errors.append(error) }
        }
        #expect(errors.count == 1)
        let expected = (range == nil ? Array(0..<8192) : []) + Array(12_288..<20_000)
        #expect(numbers == expected.map { UInt64($0) })
    }
}
