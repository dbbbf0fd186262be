import Machine
import Testing

@testable import Symbols

@Suite struct SymbolizerTests {
    @Test func placeholder() throws {
        let symbolizer = try Fixture.kernel64.symbolizer()
        for address in stride(
            from: UInt64(0xffff_ffff_8010_0000), to: 0xffff_ffff_8010_02c0, by: 16)
        {
            print(hexadecimal(address), symbolizer.symbolize(.init(address))?.fullText ?? "nil")
        }
        let swift = try Fixture.swift.symbolizer()
        for address in stride(from: UInt64(0x200000), to: 0x200110, by: 16) {
            print(
                hexadecimal(address), swift.symbolize(.init(address))?.fullText ?? "nil",
                swift.symbolize(.init(address))?.shortText ?? "nil")
        }
    }
}
