import Glibc
import Machine
import TestSupport
import Testing

@testable import Guest

@Suite struct LoadPlanTests {
    static let multiboot = SampleELF(
        is64Bit: false, at: 0x10_0000, bytes: multibootHeader(flags: 3) + [0xF4]
    ).bytes

    static let firmware: [UInt8] =
        [UInt8](repeating: 0x5A, count: (64 << 10) - 16) + [0xEA]
        + [UInt8](repeating: 0, count: 15)

    /// One load of every kind, with every option that the kind takes.
    static let loads: [(bytes: [UInt8], options: LoadOptions)] = [
        ([0xF4], LoadOptions(loadAddress: 0x7C00, entry: 0x7C00, commandLine: "x = \"y\"")),
        ([0xF4], LoadOptions(kind: .flatLong)),
        (SampleELF(at: 0x10_0000).bytes, LoadOptions(loadAddress: 0x20_0000)),
        (
            SampleELF(is64Bit: false, at: 0x10_0000).bytes,
            LoadOptions(commandLine: "ä", tables: .apic)
        ),
        (
            gzip(multiboot),
            LoadOptions(
                commandLine: "a",
                modules: [
                    GuestModule(file: GuestFile(name: "m1", bytes: [1]), commandLine: "b c"),
                    GuestModule(file: GuestFile(name: "m2", bytes: [2, 3])),
                ])
        ),
        (firmware, LoadOptions()),
        (
            firmware,
            LoadOptions(
                commandLine: "quiet", initrd: GuestFile(name: "initrd", bytes: [1, 2]),
                firmware: FirmwareInputs(
                    kernel: GuestFile(name: "kernel", bytes: [3]), bootOrder: ["/a,1", "/b"],
                    files: [.init(name: "opt/x", file: GuestFile(name: "x", bytes: [4]))]))
        ),
        (
            bzImage(),
            LoadOptions(commandLine: "a", initrd: GuestFile(name: "initrd", bytes: [1, 2]))
        ),
        (SampleELF(at: 0x10_0000).bytes, LoadOptions(kind: .linux)),
    ]

    @Test(arguments: loads.indices)
    func recordsRepeatTheLoad(_ index: Int) throws {
        let load = Self.loads[index]
        let first = try plan(load.bytes, load.options)
        let again = try LoadPlan(records: first.records)
        #expect(again.kind == first.kind)
        #expect(again.ram == first.ram)
        #expect(again.romLengthInBytes == first.romLengthInBytes)
        #expect(again.writes == first.writes)
        #expect(again.registers == first.registers)
        #expect(again.systemRegisters == first.systemRegisters)
        #expect(again.code == first.code)
        #expect(again.records == first.records)
        #expect(again.firmware == first.firmware)
        #expect(again.initrd == first.initrd)
        #expect(again.commandLine == first.commandLine)
    }

    @Test func recordsOfNoLoadAreErrors() throws {
        let good = try plan(Self.multiboot).records
        func error(_ change: (inout [GuestImageRecord]) -> Void) -> GuestError.Kind? {
            var records = good
            change(&records)
            do throws(GuestError) {
                _ = try LoadPlan(records: records)
                return nil
            } catch { return error.kind }
        }
        #expect(error { _ in } == nil)
        #expect(error { $0 = [] } == .badRecord)
        #expect(error { $0[0].kind = "floppy" } == .badRecord)
        #expect(error { $0.append($0[0]) } == .badRecord)
        #expect(error { $0[0].properties.removeAll { $0.key == "ram" } } == .badRecord)
        #expect(error { $0[0].properties.removeAll { $0.key == "loader" } } == .badRecord)
        #expect(error { $0[0].properties[0].value = "2" } == .badRecord)
        #expect(error { $0[0].properties[1].value = "0xZ" } == .badRecord)
        #expect(error { $0[0].bytes = [] } == .empty)
    }

    @Test func applyPutsEveryWriteInPlaceAndNothingElse() throws {
        var sample = SampleELF(at: 0x10_0ABC)
        sample.segments[0].bytes =
            [1] + [UInt8](repeating: 0, count: 20_000) + [2]
            + [UInt8](repeating: 3, count: 5000)
        let plan = try plan(sample.bytes, LoadOptions(commandLine: "c"))
        let memory = try GuestMemory(layout: plan.ram)
        try plan.apply(to: memory)
        for write in plan.writes {
            #expect(
                try memory.read(write.address, count: write.bytes.count) == Array(write.bytes),
                "\(write.purpose)")
        }
        // Five whole pages of zeroes lie in the segment, and stay untouched.
        var pages: [UInt64] = []
        unsafe memory.forEachNonZeroPage { number, _ in
            if number >= 0x100 { pages.append(number) }
        }
        #expect(pages == [0x100, 0x105, 0x106])
    }

    @Test func filesThatCannotBeReadAreErrors() throws {
        func error(_ path: String) -> GuestError.Kind? {
            do throws(GuestError) {
                _ = try GuestFile(path: path)
                return nil
            } catch { return error.kind }
        }
        #expect(error("/no/such/image") == .unreadable)
        #expect(error("/") == .unreadable)
        #expect(error("/dev/null") == .empty)
        #expect(try GuestFile(path: "/proc/self/stat").bytes.isEmpty == false)
    }

    @Test func descriptionsAreOneLine() {
        for load in Self.loads {
            let error = failure(load.bytes, LoadOptions(kind: .elf32, entry: 1))
            #expect(error?.description.contains("\n") == false)
            #expect(error?.description.hasPrefix("image: ") == true)
        }
    }

    /// What Debian's tboot package installs: a real multiboot kernel, packed.
    static let tboot = Files.tboot

    @Test(.enabled(if: tboot != nil, "the package tboot is not there"))
    func tbootLoads() throws {
        let plan = try LoadPlan(
            image: GuestFile(path: #require(Self.tboot)), ram: RAMLayout(lengthInBytes: 128 << 20))
        #expect(plan.kind == .multiboot)
        #expect(plan.code.contains { $0.name == ".text" && $0.isCertain })
        let text = try #require(plan.code.first { $0.name == ".text" })
        let entry = plan.registers.rip
        #expect(entry >= text.physical.rawValue)
        #expect(entry < text.physical.rawValue + UInt64(text.fileRange.count))
    }
}
