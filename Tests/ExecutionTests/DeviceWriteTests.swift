import Devices
import Guest
import Machine
import TestSupport
import Testing

@testable import Execution
@testable import KVM
@testable import Trace

/// What devices put in RAM: made, recorded, and made again on replay.
@Suite struct DeviceWriteTests {
    typealias CPU = ScriptedCPU

    /// Asks fw_cfg, through its DMA register, for what is described at `place`.
    private static func script(_ place: [UInt8]) -> [CPU.Step] {
        [CPU.portOut(0x514, [0, 0, 0, 0], size: 4), CPU.portOut(0x518, place, size: 4)]
    }

    /// Select item 0 and read 4 bytes of it to 0x2FFE: numbers are big-endian.
    private static let request: [UInt8] = [
        0, 0, 0, 0x0A, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0x2F, 0xFE,
    ]

    private static func record(
        _ script: [CPU.Step], _ request: [UInt8], to path: String, memory: borrowing GuestMemory
    ) throws -> LoopOutcome {
        try memory.write(GuestPhysicalAddress(0x2000), request[...])
        var writer = try TraceWriter(
            path: path, header: TraceHeader(machine: MachineDescription(ramBytes: 64 << 10)))
        try writer.start(registers: registers(0), system: SystemRegisters())
        var pc = PCConfiguration(memoryBelow4GiB: 64 << 10)
        pc.offersFirmwareDMA = true
        let devices = try DeviceSet(.init(serial: .none, machine: .pc, pc: pc))
        var side = Attended(
            world: LiveWorld(devices: devices), listener: Recorder(writer: writer))
        var cpu = CPU(script, registers: registers(0))
        var loop = RunLoop(behaviour: HostBehaviour(), exitLimit: 2, stop: StopRequest())
        let outcome = try loop.run(&cpu, &side, memory: memory)
        _ = try side.finish(
            EndRecord(reason: .exitLimit, registers: registers(0), system: SystemRegisters()),
            memory: nil)
        return outcome
    }

    private static func writes(_ reader: TraceReader) throws -> [DeviceWrite] {
        var cursor = try reader.events()
        var writes: [DeviceWrite] = []
        while let event = try cursor.next() {
            if case .deviceWrite(let address, let data) = event {
                writes.append(DeviceWrite(address: address, bytes: cursor.array(data)))
            }
        }
        return writes
    }

    @Test func `fw_cfg writes to RAM, and a replay without fw_cfg does too`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("t.vmtape")
        let memory = try smallMemory()
        let script = Self.script([0, 0, 0x20, 0])
        #expect(
            try Self.record(script, Self.request, to: path, memory: memory) == .exitLimit)
        #expect(
            try memory.read(GuestPhysicalAddress(0x2FFE), count: 4) == Array("QEMU".utf8))
        let reader = try TraceReader(path: path)
        #expect(
            try Self.writes(reader) == [
                DeviceWrite(address: GuestPhysicalAddress(0x2FFE), bytes: Array("QEMU".utf8)),
                DeviceWrite(address: GuestPhysicalAddress(0x2000), bytes: [0, 0, 0, 0]),
            ])

        var tape = try Tape(
            try reader.tape(), file: "t", registers: registers(0), system: SystemRegisters(),
            progress: ReplayProgress())
        var cpu = CPU(script, registers: registers(0))
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let replayed = try smallMemory()
        try replayed.write(GuestPhysicalAddress(0x2000), Self.request[...])
        #expect(
            try loop.run(&cpu, &tape, memory: replayed) == .ended(Ending(.exitLimit)))
        #expect(tape.mismatch == nil)
        #expect(replayed.digest().digest == memory.digest().digest)
    }

    @Test func `a request that is not in RAM changes nothing`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("t.vmtape")
        let memory = try smallMemory()
        let script = Self.script([0, 0xFF, 0xFF, 0])
        #expect(
            try Self.record(script, Self.request, to: path, memory: memory) == .exitLimit)
        #expect(try Self.writes(TraceReader(path: path)).isEmpty)
    }

    @Test func `a recorded write that is not in RAM is an error`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("t.vmtape")
        let memory = try GuestMemory(layout: RAMLayout(lengthInBytes: 128 << 10))
        var request = Self.request
        request.replaceSubrange(12..<16, with: [0, 1, 0, 0])
        let script = Self.script([0, 0, 0x20, 0])
        #expect(try Self.record(script, request, to: path, memory: memory) == .exitLimit)
        var tape = try Tape(
            try TraceReader(path: path).tape(), file: "t", registers: registers(0),
            system: SystemRegisters(), progress: ReplayProgress())
        var cpu = CPU(script, registers: registers(0))
        var loop = RunLoop(behaviour: HostBehaviour(), stop: StopRequest())
        let smaller = try smallMemory()
        var message = ""
        do {
            _ = try loop.run(&cpu, &tape, memory: smaller)
        } catch { message = String(describing: error) }
        #expect(message.contains("0x10000"))
    }
}
