import Machine
import TestSupport
import Testing

@testable import Guest

/// Damaged images: each is a load or a typed error, and a load's writes lie in memory.
@Suite struct LoaderFuzzTests {
    /// Plans a load and checks what must hold of any plan.
    static func check(_ bytes: [UInt8], _ options: LoadOptions) {
        let layout: RAMLayout
        do throws(GuestError) { layout = try RAMLayout(lengthInBytes: 16 << 20) } catch { return }
        do throws(GuestError) {
            let plan = try LoadPlan(
                image: GuestFile(name: "image", bytes: bytes), options: options, ram: layout)
            var ranges: [Range<UInt64>] = []
            for write in plan.writes {
                let start = write.address.rawValue
                let isROM = start >= (4 << 30) - plan.romLengthInBytes
                #expect(isROM || layout.contains(start, UInt64(write.bytes.count)))
                ranges.append(start..<start + UInt64(write.bytes.count))
            }
            ranges.sort { $0.lowerBound < $1.lowerBound }
            for (a, b) in zip(ranges, ranges.dropFirst()) {
                #expect(a.upperBound <= b.lowerBound)
            }
            for code in plan.code {
                #expect(plan.image.indices.contains(code.fileRange.lowerBound))
                #expect(code.fileRange.upperBound <= plan.image.count)
            }
        } catch {
            #expect(!error.description.contains("\n"))
        }
    }

    static let seeds: [[UInt8]] = {
        var sections = SampleELF(at: 0x10_0000)
        sections.hasSections = true
        let high = SampleELF(
            entry: 0xFFFF_FFFF_8010_0000,
            segments: [
                .init(virtual: 0xFFFF_FFFF_8010_0000, physical: 0x10_0000, bytes: [0xF4]),
                .init(virtual: 0xFFFF_FFFF_8010_1000, physical: 0x10_1000, bytes: [1, 2]),
            ])
        let flat =
            [UInt8](repeating: 0x90, count: 16)
            + multibootHeader(
                flags: 1 << 16, addresses: [0x10_0010, 0x10_0000, 0, 0x10_2000, 0x10_0000])
            + [UInt8](repeating: 0x90, count: 16)
        return [
            sections.bytes, high.bytes, SampleELF(is64Bit: false, at: 0x10_0000).bytes,
            LoadPlanTests.multiboot, flat, gzip(LoadPlanTests.multiboot),
        ]
    }()

    static let kinds: [GuestKind?] = [nil] + GuestKind.allCases

    @Test(arguments: seeds.indices)
    func mutationsNeverTrap(_ index: Int) {
        var generator = SeededGenerator(seed: UInt64(index) &* 0x9E37_79B9_7F4A_7C15 &+ 1)
        let interesting: [UInt8] = [0, 1, 0x7F, 0x80, 0xFF]
        for round in 0..<800 {
            var bytes = Self.seeds[index]
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let at = Int.random(in: bytes.indices, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
                case 2: bytes[at] = interesting[Int.random(in: 0..<5, using: &generator)]
                default:
                    // A run of ones makes the absurd sizes that single bytes do not.
                    for place in at..<min(at + 8, bytes.count) { bytes[place] = 0xFF }
                }
            }
            if round % 5 == 0 {
                bytes.removeLast(Int.random(in: 0..<bytes.count, using: &generator))
            }
            let kind = round % 3 == 0 ? Self.kinds[round / 3 % Self.kinds.count] : nil
            Self.check(bytes, LoadOptions(kind: kind, commandLine: round % 2 == 0 ? "x" : ""))
        }
    }

    @Test(arguments: seeds.indices)
    func truncationsNeverTrap(_ index: Int) {
        let bytes = Self.seeds[index]
        for length in 0..<bytes.count {
            Self.check(Array(bytes[..<length]), LoadOptions())
        }
    }
}
