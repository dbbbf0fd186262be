import Devices
import Machine
import TestSupport
import Testing
import Trace

@testable import Execution
@testable import KVM

/// MSRs that tell time.
@Suite struct TimeMSRTests {
    private static func world() throws -> LiveWorld {
        LiveWorld(
            devices: try DeviceSet(.init(serial: .memory)),
            clock: .virtual(nanosecondsPerExit: 100))
    }

    @Test func `the counter as an MSR is the counter that RDTSC reads`() throws {
        var world = try Self.world()
        let first = try #require(try world.readMSR(0x10))
        #expect(try world.timeStamp() == first + 100)
        #expect(try world.writeMSR(0x10, 1 << 40))
        let after = try world.timeStamp()
        #expect(after > 1 << 40 && after < 1 << 40 + 1000)
        // What was written is what was added, and can be taken back.
        let adjust = try #require(try world.readMSR(0x3B))
        #expect(adjust > 1 << 39)
        #expect(try world.writeMSR(0x3B, 0))
        #expect(try world.timeStamp() < 10_000)
        // Below its present value.
        #expect(try world.writeMSR(0x10, 0))
        #expect(try world.timeStamp() < 1000)
    }

    @Test func `what is not there faults, and counters of events stand still`() throws {
        var world = try Self.world()
        for index in [0x11, 0xE7, 0x6E0, 0x4B56_4D01, 0x4000_0020, 0x1234] as [UInt32] {
            #expect(try world.readMSR(index) == nil)
            #expect(try !world.writeMSR(index, 1))
        }
        for index in [0xC001_0004, 0xC001_0201] as [UInt32] {
            #expect(try world.writeMSR(index, 7))
            #expect(try world.readMSR(index) == 0)
        }
    }

    @Test func `the table is in order, without overlaps, and fits KVM`() {
        let table = FilteredMSRs.table
        #expect(table.count <= 16)
        for (row, next) in zip(table, table.dropFirst()) {
            #expect(row.count > 0)
            #expect(row.first + row.count <= next.first)
        }
        #expect(FilteredMSRs.ranges(timeStampIsNative: true).count == table.count - 2)
    }

    // MARK: The header

    private static func machine(_ text: String?) -> MachineDescription {
        MachineDescription(
            ramBytes: 1 << 20,
            properties: text.map { [Property(MSRFilterProperty.key, $0)] } ?? [])
    }

    @Test func `a trace keeps the filter`() throws {
        let ranges = FilteredMSRs.ranges(timeStampIsNative: false)
        let text = MSRFilterProperty.text(ranges)
        #expect(text.hasPrefix("10 11-12 3b e7-e8 6e0 "))
        #expect(try MSRFilterProperty.ranges(Self.machine(text)) == ranges)
        #expect(try MSRFilterProperty.ranges(Self.machine("")) == [])
        // Recorded before there was one.
        #expect(try MSRFilterProperty.ranges(Self.machine(nil)) == [])
    }

    @Test(arguments: [
        "x", "10-", "-10", "12-11", "0-ffffffff", "100000000",
        Array(repeating: "1", count: 17).joined(separator: " "),
    ])
    func `a filter that is none is refused`(_ text: String) {
        #expect(throws: ExecutionError.self) {
            try MSRFilterProperty.ranges(Self.machine(text))
        }
    }
}

/// The same on real KVM.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment), .serialized)
struct TimeMSRGuestTests {
    @Test(arguments: [ClockKind.host, .virtual(nanosecondsPerExit: 1000)])
    func `a guest reads and writes its counter, and replays`(_ clock: ClockKind) throws {
        // mov ecx, 0x10; rdmsr; out 0x80, eax; mov edx, 1; mov eax, 0; wrmsr;
        // rdtsc; mov eax, edx; out 0x80, eax; mov ecx, 0x3b; rdmsr; out 0x80, eax; hlt
        let code: [UInt8] =
            [0x66, 0xB9, 0x10, 0, 0, 0, 0x0F, 0x32, 0x66, 0xE7, 0x80]
            + [0x66, 0xBA, 1, 0, 0, 0, 0x66, 0xB8, 0, 0, 0, 0, 0x0F, 0x30]
            + [0x0F, 0x31, 0x66, 0x89, 0xD0, 0x66, 0xE7, 0x80]
            + [0x66, 0xB9, 0x3B, 0, 0, 0, 0x0F, 0x32, 0x66, 0xE7, 0x80, 0xF4]
        let directory = try TemporaryDirectory()
        let path = directory.file("guest.vmtape")
        let host = try Host()
        guard host.probe.behaviour.msrFilter == .yes else { return }
        let guest = try TestGuest.flat(code, in: directory)
        let outcome = try guest.record(host, to: path) { configuration, _ in
            configuration.clock = clock
        }
        #expect(outcome.report.ending == Ending(.halted))
        #expect(try TestGuest.replay(host, path).word == "identical")
        var reasons: [ExitReason] = []
        var written: [[UInt8]] = []
        let reader = try TraceReader(path: path)
        var cursor = try reader.events()
        while let event = try cursor.next() {
            guard case .exit(let exit) = event else { continue }
            reasons.append(exit.reason)
            if case .io(true, 4, 0x80, _, let data) = exit.detail {
                written.append(cursor.array(data))
            }
        }
        #expect(reasons.filter { $0 == .rdmsr }.count == 2)
        #expect(reasons.filter { $0 == .wrmsr }.count == 1)
        #expect(written.count == 3)
        #expect(written.dropFirst().first == [1, 0, 0, 0])
        #expect(reader.header.machine.properties.contains { $0.key == "msr-filter" })
    }
}
