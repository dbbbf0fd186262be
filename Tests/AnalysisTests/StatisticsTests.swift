import Machine
import TestSupport
import Testing
import Trace

@testable import Analysis

private func statistics(
    _ path: String, _ options: StatisticsOptions = .init(), exits: ClosedRange<UInt64>? = nil
) throws -> Statistics {
    try StatisticsCollector.statistics(
        of: TraceReader(path: path), exits: exits, options: options, names: syntheticNames())
}

private func text(_ statistics: Statistics, width: Int = 100, colour: Bool = false) -> String {
    let stream = OutputStream()
    statistics.write(to: stream, style: TextStyle(width: width, hasColour: colour))
    return stream.text
}

@Test(arguments: Grouping.allCases)
func everyExitIsCountedOnce(_ grouping: Grouping) throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape")
    let found = try statistics(path, .init(grouping: grouping, over: .exits(4)))
    #expect(found.rows.reduce(0) { $0 + $1.count } == 18)
    for row in found.rows { #expect(row.buckets.reduce(0, +) == row.count, "\(row.label)") }
    #expect(found.exitCount == 18)
    // The last exit has no time outside the guest: nothing came after it.
    #expect(found.rows.reduce(0) { $0 + $1.timedCount } == 17)
}

@Test func rowsAreWhatTheExitsWere() throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape")
    func rows(_ grouping: Grouping) throws -> [String: UInt64] {
        let rows = try statistics(path, .init(grouping: grouping)).rows
        return Dictionary(uniqueKeysWithValues: rows.map { ($0.label, $0.count) })
    }
    #expect(
        try rows(.reason) == ["io": 12, "mmio": 2, "hlt": 2, "x86_rdmsr": 1, "x86_wrmsr": 1])
    let ports = try rows(.port)
    #expect(ports["0x3fd in"] == 3)
    #expect(ports["0x3f8 out"] == 4)
    #expect(ports["(hlt)"] == 2)
    #expect(try rows(.address)["0xfee000b0 write"] == 1)
    #expect(try rows(.cpl) == ["CPL 0": 16, "CPL 3": 2])
    #expect(try rows(.mode) == ["long": 18])
    #expect(
        try rows(.symbol) == ["kmain.putc(Swift.UInt8) -> ()": 10, "kmain": 7, "(no symbol)": 1])
    #expect(try rows(.site)["0x100010 putc+0x10 (console.swift:30)"] == 3)
}

@Test func whatIsNotAnExitIsCountedToo() throws {
    let directory = try TemporaryDirectory()
    let found = try statistics(writeShowcase("\(directory.path)/a.vmtape"))
    #expect(found.answerCount == 6)
    #expect(found.completionCount == 1)
    #expect(found.deviceWriteCount == 1)
    #expect(found.deviceWriteBytes == 4)
    #expect(
        found.interruptions == [
            .init(label: "exception 14", count: 1, inMidFlight: 1),
            .init(label: "interrupt 0x20", count: 1, inMidFlight: 0),
        ])
    #expect(
        found.unclaimed == [
            .init(address: 0x5A, isMemory: false, reads: 0, writes: 1),
            .init(address: 0xCF8, isMemory: false, reads: 0, writes: 1),
            .init(address: 0xFEE0_0000, isMemory: true, reads: 1, writes: 1),
        ])
}

@Test func whatDevicesClaimIsFoundInTheirDescriptions() {
    let claimed = ClaimedAddresses(
        MachineDescription(
            ramBytes: 4096,
            devices: [
                DeviceDescription(name: "8259a-pair", base: "port 0x20..0x21 0xa0..0xa1"),
                DeviceDescription(name: "16550a", base: "port 0x3f8"),
                DeviceDescription(name: "local-apic", base: "memory 0xfee00000..0xfee00fff"),
                DeviceDescription(name: "uart", base: "port 0xfffe", configuration: "memory=0x10"),
                // None of these says where it is.
                DeviceDescription(name: "a", base: "port 0x90..0x80"),
                DeviceDescription(name: "b", base: "port 0x10000"),
                DeviceDescription(name: "c", base: "port"),
                DeviceDescription(name: "d", base: "memory 0x1..0x2..0x3"),
                DeviceDescription(name: "e", base: "mmio 0x0..0xffffffffffffffff"),
            ]))
    let ports = (0...UInt16.max).filter { claimed.claims(port: $0) }
    #expect(ports == [0x20, 0x21, 0xA0, 0xA1] + Array(0x3F8...0x3FF) + [0xFFFE, 0xFFFF])
    let addresses: [UInt64] = [0xF, 0x10, 0x17, 0x18, 0xFEDF_FFFF, 0xFEE0_0000, 0xFEE0_0FFF]
    #expect(
        addresses.map { claimed.claims(address: $0) }
            == [false, true, true, false, false, true, true])
}

@Test func theWorldStreamIsCounted() throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape")
    #expect(try statistics(path).world == WorldSize())
    var found = try statistics(path)
    found.world.events = 212
    found.world.bytes = 1536
    let line = text(found).split(separator: "\n").first { $0.hasPrefix("world") }
    #expect(line == "world        212 events, 1.50 KiB before compression")
    let json = OutputStream()
    found.writeJSON(to: json)
    #expect(json.text.contains("\"world_events\":212,\"world_bytes\":1536,"))
}

@Test func partsOfARunAreCounted() throws {
    let directory = try TemporaryDirectory()
    let path = try writePolling("\(directory.path)/a.vmtape", exits: 10_000)
    let found = try statistics(path, .init(grouping: .port), exits: 5001...5010)
    #expect(found.exitCount == 10)
    #expect(found.rows.map(\.label) == ["0x3f8 out", "0x3fd in"])
    #expect(found.durationNanoseconds == nil)
    #expect(throws: TraceError.self) { try statistics(path, exits: 10_000...10_001) }
}

@Test func averagesAndErrors() {
    var groups = StatisticsGroups(bucketWidth: 0)
    let group = groups.group(of: 7)
    for time: UInt64 in [2, 4, 4, 4, 5, 5, 7, 9] {
        groups.count(group, at: 0)
        groups.addTime(group, time)
    }
    let row = groups.row(group, "x")
    #expect(row.average == 5)
    #expect(row.minimum == 2)
    #expect(row.maximum == 9)
    // Sample deviation √(32/7), divided by √8 and by the average.
    #expect(abs((row.relativeError ?? 0) - 0.15118) < 1e-4)
}

@Test func groupsAndBucketsAreBounded() {
    var groups = StatisticsGroups(bucketWidth: 1)
    for key in 0..<UInt64(StatisticsGroups.limit + 500) {
        let group = groups.group(of: key &* 0x1_0000_0001)
        groups.count(group, at: key)
    }
    #expect(groups.groups.count == StatisticsGroups.limit + 1)
    #expect(groups.other.map { groups.groups[$0].count } == 500)
    #expect(groups.usedBuckets <= StatisticsGroups.bucketLimit)
    #expect(groups.bucketWidth == 16)
    var total: UInt64 = 0
    for group in groups.groups.indices { total += groups.row(group, "").buckets.reduce(0, +) }
    #expect(total == UInt64(StatisticsGroups.limit + 500))
    let far = groups.group(of: 0)
    groups.count(far, at: .max)
    #expect(groups.row(far, "").buckets.reduce(0, +) == 2)
}

@Test func sparklinesShowTheShape() {
    #expect(Statistics.sparkline([0, 1, 4, 8], 8) == " ▂▅█")
    #expect(Statistics.sparkline([1, 1, 1, 1, 9, 9, 9, 9], 4) == "▁▁██")
    #expect(Statistics.sparkline([5, 5, 5], 2) == "██")
    #expect(Statistics.sparkline([], 5) == "")
}

@Test(arguments: [(60, false), (100, false), (160, false), (100, true)])
func statisticsLookAsTheyDid(_ width: Int, _ colour: Bool) throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape")
    let shown = text(
        try statistics(path, .init(grouping: .port, over: .nanoseconds(10_000))), width: width,
        colour: colour)
    expectSnapshot(shown, "stat-\(width)\(colour ? "-colour" : "").txt")
}

@Test func statisticsWithoutTimesAndAsData() throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape", timing: false)
    expectSnapshot(text(try statistics(path)), "stat-untimed.txt")
    let timed = try statistics(
        writeShowcase("\(directory.path)/b.vmtape"), .init(grouping: .symbol, over: .exits(6)))
    let stream = OutputStream()
    timed.writeJSON(to: stream)
    timed.writeCSV(to: stream)
    expectSnapshot(stream.text, "stat-data.txt")
}

@Test func timesForPeople() {
    let shown = [0, 999, 1000, 1234, 12_345, 123_456, 999_499, 999_999, 5_000_000_000].map {
        Statistics.time($0)
    }
    #expect(
        shown == [
            "0 ns", "999 ns", "1.00 us", "1.23 us", "12.3 us", "123 us", "999 us", "1.00 ms",
            "5.00 s",
        ])
    #expect(CSV.quoted("a,\"b\"") == "\"a,\"\"b\"\"\"")
}
