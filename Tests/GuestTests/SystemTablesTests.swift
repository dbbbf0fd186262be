import Machine
import Testing

@testable import Guest

/// The MP and ACPI tables, read as a kernel reads them: by signature, pointer and checksum.
@Suite struct SystemTablesTests {
    /// Low memory of a load, with what the plan writes.
    struct Memory {
        var bytes = [UInt8](repeating: 0, count: 1 << 20)

        init(_ plan: LoadPlan) {
            for write in plan.writes where write.address.rawValue < 1 << 20 {
                let at = Int(write.address.rawValue)
                bytes.replaceSubrange(at..<at + write.bytes.count, with: write.bytes)
            }
        }

        func number(_ at: Int, _ count: Int) -> Int {
            bytes[at..<at + count].reversed().reduce(0) { $0 << 8 | Int($1) }
        }

        func text(_ at: Int, _ count: Int) -> String {
            String(decoding: bytes[at..<at + count], as: UTF8.self)
        }

        func sum(_ at: Int, _ count: Int) -> UInt8 { bytes[at..<at + count].reduce(0, &+) }

        /// Where a signature is, at 16-byte boundaries.
        func find(_ signature: String, in range: Range<Int>) -> Int? {
            stride(from: range.lowerBound, to: range.upperBound, by: 16).first {
                text($0, signature.utf8.count) == signature
            }
        }
    }

    static let options = LoadOptions(tables: .apic)

    static func memory() throws -> Memory {
        Memory(try plan(SampleELF(at: 0x10_0000).bytes, options))
    }

    @Test func theMPTable() throws {
        let memory = try Self.memory()
        let pointer = try #require(memory.find("_MP_", in: 0xF_0000..<0x10_0000))
        #expect(memory.sum(pointer, 16) == 0)
        #expect(memory.bytes[pointer + 8] == 1)
        #expect(memory.bytes[pointer + 9] == 4)
        #expect(memory.bytes[pointer + 11] == 0)
        let table = memory.number(pointer + 4, 4)
        #expect(memory.text(table, 4) == "PCMP")
        let length = memory.number(table + 4, 2)
        #expect(memory.sum(table, length) == 0)
        #expect(memory.number(table + 36, 4) == 0xFEE0_0000)
        // One of each, in the order of their types; lines by where they go.
        var entries: [[UInt8]] = []
        var at = table + 44
        while at < table + length {
            let count = memory.bytes[at] == 0 ? 20 : 8
            entries.append(Array(memory.bytes[at..<at + count]))
            at += count
        }
        #expect(at == table + length)
        #expect(entries.count == memory.number(table + 34, 2))
        #expect(entries.map { $0[0] } == [0, 1, 2] + Array(repeating: 3, count: 16) + [4, 4])
        #expect(entries[0].prefix(4) == [0, 0, 0x14, 3])
        #expect(entries[2] == [2, 1, 0x11, 1, 0, 0, 0xC0, 0xFE])
        #expect(entries[3] == [3, 3, 0, 0, 0, 0, 1, 0])
        #expect(entries[4] == [3, 0, 0, 0, 0, 0, 1, 2])
        #expect(entries[5] == [3, 0, 0, 0, 0, 1, 1, 1])
        #expect(entries[6] == [3, 0, 0, 0, 0, 3, 1, 3])
        #expect(entries[12] == [3, 0, 0x0D, 0, 0, 9, 1, 9])
        #expect(entries[19] == [4, 3, 0, 0, 0, 0, 0, 0])
        #expect(entries[20] == [4, 1, 0, 0, 0, 0, 0, 1])
    }

    @Test(arguments: [(16, 4), (24, 8)])
    func theACPITables(pointerAt: Int, pointerLength: Int) throws {
        let memory = try Self.memory()
        let pointer = try #require(memory.find("RSD PTR ", in: 0xE_0000..<0x10_0000))
        #expect(memory.sum(pointer, 20) == 0)
        #expect(memory.sum(pointer, 36) == 0)
        #expect(memory.bytes[pointer + 15] == 2)
        #expect(memory.number(pointer + 20, 4) == 36)
        let root = memory.number(pointer + pointerAt, pointerLength)
        #expect(memory.text(root, 4) == (pointerLength == 4 ? "RSDT" : "XSDT"))
        let length = memory.number(root + 4, 4)
        #expect(memory.sum(root, length) == 0)
        let tables = stride(from: root + 36, to: root + length, by: pointerLength).map {
            memory.number($0, pointerLength)
        }
        #expect(tables.map { memory.text($0, 4) } == ["FACP", "APIC"])
        for table in tables { #expect(memory.sum(table, memory.number(table + 4, 4)) == 0) }
        // FADT: the registers' ports, and the two tables it points to.
        let fadt = tables[0]
        #expect(memory.number(fadt + 4, 4) == 244)
        #expect(memory.number(fadt + 46, 2) == 9)
        #expect(memory.number(fadt + 48, 4) == 0xB2)
        #expect(memory.number(fadt + 56, 4) == 0x600)
        #expect(memory.number(fadt + 64, 4) == 0x604)
        #expect(memory.number(fadt + 76, 4) == 0x608)
        #expect(memory.bytes[fadt + 108] == 0x32)
        #expect(memory.number(fadt + 109, 2) == 3)
        #expect(
            memory.bytes[fadt + 116..<fadt + 129] == [1, 8, 0, 0, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0, 6])
        #expect(memory.number(fadt + 152, 8) == 0x600)
        #expect(memory.number(fadt + 176, 8) == 0x604)
        #expect(memory.number(fadt + 212, 8) == 0x608)
        let facs = memory.number(fadt + 36, 4)
        #expect(facs == memory.number(fadt + 132, 8))
        #expect(facs % 64 == 0)
        #expect(memory.text(facs, 4) == "FACS")
        let dsdt = memory.number(fadt + 40, 4)
        #expect(dsdt == memory.number(fadt + 140, 8))
        #expect(memory.text(dsdt, 4) == "DSDT")
        #expect(memory.sum(dsdt, memory.number(dsdt + 4, 4)) == 0)
        #expect(
            memory.bytes[dsdt + 36..<dsdt + 48] == [
                8, 0x5F, 0x53, 0x35, 0x5F, 18, 6, 4, 0, 0, 0, 0,
            ])
    }

    @Test func theMADT() throws {
        let memory = try Self.memory()
        let madt = try #require(memory.find("APIC", in: 0xF_0000..<0x10_0000))
        #expect(memory.number(madt + 36, 4) == 0xFEE0_0000)
        #expect(memory.number(madt + 40, 4) == 1)
        let length = memory.number(madt + 4, 4)
        #expect(
            Array(memory.bytes[madt + 44..<madt + length]) == [
                0, 8, 0, 0, 1, 0, 0, 0,
                1, 12, 1, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0,
                2, 10, 0, 0, 2, 0, 0, 0, 0, 0,
                2, 10, 0, 9, 9, 0, 0, 0, 0x0D, 0,
                4, 6, 0xFF, 0, 0, 1,
            ])
    }

    @Test func tablesKeepOutOfTheImagesWay() throws {
        let flat = LoadOptions(kind: .flatLong, loadAddress: 0xE_0000, tables: .apic)
        let beside = try plan([UInt8](repeating: 0x90, count: 0x1_1234), flat)
        let write = try #require(beside.writes.first { $0.purpose == "MP table" })
        #expect(write.address.rawValue == 0xF_2000)
        #expect(beside.notes.isEmpty)
        let over = try plan([UInt8](repeating: 0x90, count: 0x2_0000), flat)
        #expect(!over.writes.contains { $0.purpose == "MP table" })
        #expect(over.notes.count == 1)
        // RAM that ends below.
        let small = try plan([0xF4], LoadOptions(tables: .apic), ram: 256 << 10)
        #expect(!small.writes.contains { $0.purpose == "MP table" })
        #expect(small.notes.count == 1)
    }

    @Test func onlyWhereTheyAreAskedFor() throws {
        let none = try plan(SampleELF(at: 0x10_0000).bytes)
        #expect(!none.writes.contains { $0.purpose.hasSuffix("table") })
        #expect(none.records[0]["tables"] == nil)
        let firmware = try plan(LoadPlanTests.firmware, Self.options)
        #expect(firmware.records[0]["tables"] == nil)
        let asked = try plan(SampleELF(at: 0x10_0000).bytes, Self.options)
        #expect(asked.records[0]["tables"] == "apic-1")
        #expect(try LoadPlan(records: asked.records).writes == asked.writes)
        var records = asked.records
        for index in records[0].properties.indices
        where records[0].properties[index].key == "tables" {
            records[0].properties[index].value = "apic-9"
        }
        do throws(GuestError) {
            _ = try LoadPlan(records: records)
            Issue.record("tables of another kind were made")
        } catch { #expect(error.kind == .badRecord) }
    }
}
