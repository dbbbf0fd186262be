import Machine
import Testing

@testable import Symbols

@Suite(.enabled(if: Reference.path != nil, "no Swift toolchain with llvm-symbolizer in PATH"))
struct ReferenceTests {
    /// Every address of every executable section gives LLVM's names, places and inlined frames.
    /// Where LLVM knows no name at all (it does not look past the nearest symbol), ours may.
    @Test(arguments: [Fixture.kernel64, .kernel32, .swift])
    func agreesAtEveryAddress(fixture: Fixture) throws {
        let symbolizer = try fixture.symbolizer()
        let symbols = try fixture.image().symbols.symbols.filter { $0.kind == .function }
        let first = try #require(symbols.map(\.address).min())
        let last = try #require(symbols.map { $0.address + max($0.sizeInBytes, 1) }.max())
        let addresses = Array(first..<last)
        let expected = try Reference.symbolize(fixture.path, addresses)
        #expect(expected.count == addresses.count)
        var compared = 0
        for (address, expected) in zip(addresses, expected) {
            let found = Reference.frames(
                of: symbolizer.symbolize(.init(address)), beside: expected)
            if expected.last?.function == "??" { continue }
            #expect(found == expected, "\(fixture) at \(hexadecimal(address))")
            compared += 1
        }
        #expect(compared > addresses.count / 2)
    }
}
